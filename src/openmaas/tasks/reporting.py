"""How a job's process speaks with control: progress now and then from a thread of its own, and the end until it is heard."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from openmaas.client import Client
from openmaas.client.blocking import BlockingTransport
from openmaas.client.driver import SendsBlocking
from openmaas.client.server import Server
from openmaas.client.steps import Request, Response
from openmaas.core.contracts import JobSpec
from openmaas.core.errors import (
    Cancelled,
    Conflict,
    DeadlineExceeded,
    OpenMaaSError,
    RequestTimeout,
    StorageFull,
    Unauthenticated,
    Unavailable,
)
from openmaas.core.resources import CauseInfo, JobReport
from openmaas.core.settings import Settings

EVERY = 0.25
"""Seconds between two reports of progress."""

PATIENCE = 900.0
"""Seconds that control may be away."""

_PAUSE = 0.5
_TRANSIENT = (Unavailable, DeadlineExceeded, RequestTimeout, StorageFull)


class Connection:
    """Two clients with the job's key. patient: for the task, to which control seems slow while it is away."""

    def __init__(self, spec: JobSpec, settings: Settings) -> None:
        self.job = spec.id
        control, gateway = settings.url(settings.control_port), settings.url(settings.http_port)
        server = Server(control, gateway, spec.key)
        tls = _trusting(settings.tls_cert) if settings.tls_cert else None
        transport = BlockingTransport(server, tls)
        self.prompt = Client(control, gateway_url=gateway, api_key=spec.key, transport=transport)
        self.patient = Client(control, gateway_url=gateway, api_key=spec.key, transport=PatientTransport(transport))


class PatientTransport:
    """Sends a request again for as long as nobody answers: everything that a job may ask for can be asked for twice."""

    def __init__(self, transport: SendsBlocking, patience: float = PATIENCE) -> None:
        self._transport = transport
        self._patience = patience

    def send(self, request: Request) -> Response:
        """Raises what the transport raises, for a download (which has begun to write) at once."""
        until = time.monotonic() + self._patience
        while True:
            try:
                return self._transport.send(request)
            except Unavailable as error:
                if error.code != "unreachable" or request.sink is not None or time.monotonic() > until:
                    raise
            time.sleep(_PAUSE)

    def stream(self, request: Request) -> Iterator[bytes]:
        """Once only: what has been read cannot be read again."""
        return self._transport.stream(request)

    def close(self) -> None:
        self._transport.close()


def _trusting(certificate: str) -> ssl.SSLContext:
    """Trusts the server's own certificate and no other, by whatever name: this is the same machine."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(certificate)
    return context


class Reporter:
    """Tells the newest progress from a thread, while the task works. cancelled: the job should end."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._news = threading.Condition()
        self._newest: JobReport | None = None
        self._closed = False
        self._cancelled = threading.Event()
        self._thread = threading.Thread(target=self._report, name="reporter", daemon=True)

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    def cancel(self) -> None:
        self._cancelled.set()

    def tell(self, stage: str, done: float, total: float) -> None:
        """Note how far it is. Raises Cancelled when the job should end."""
        if self.cancelled:
            raise Cancelled("The job was asked to end.")
        with self._news:
            self._newest = JobReport(stage=stage, done=float(done), total=float(total))
            self._news.notify()

    def tell_end(self, report: JobReport) -> None:
        """Tell how the job ended, until control has heard it. Raises the last error when PATIENCE is over."""
        until = time.monotonic() + PATIENCE
        while True:
            try:
                self._connection.prompt.report_job(self._connection.job, report)
            except _TRANSIENT:
                if time.monotonic() > until:
                    raise
            except OpenMaaSError as error:
                if _is_over(error):
                    return
                if report.cause is not None:
                    raise
                report = JobReport(
                    cause=CauseInfo(code=error.code, message=error.message, stderr=[], next_step=error.next_step or "")
                )
            else:
                return
            time.sleep(_PAUSE)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._news:
            self._closed = True
            self._news.notify()

    def _report(self) -> None:
        while (report := self._next()) is not None:
            try:
                self._connection.prompt.report_job(self._connection.job, report)
            except OpenMaaSError as error:
                if _is_over(error):
                    self.cancel()
                    return
                with self._news:
                    self._newest = self._newest or report
            time.sleep(EVERY)

    def _next(self) -> JobReport | None:
        """What has not been told yet, as soon as there is something; None in the end."""
        with self._news:
            self._news.wait_for(lambda: self._newest is not None or self._closed)
            report, self._newest = self._newest, None
            return None if self._closed else report


def _is_over(error: OpenMaaSError) -> bool:
    """Whether control says that this process is not wanted any more."""
    return isinstance(error, Cancelled | Unauthenticated) or (isinstance(error, Conflict) and error.code == "job_ended")

"""Jobs: what takes long, and runs on whether anybody watches or not."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from openmaas.client.answers import fetch
from openmaas.client.deployments import Logs
from openmaas.client.driver import Listing, Session, listing, operation
from openmaas.client.registry import API
from openmaas.client.steps import Operation, Request, Sleep
from openmaas.core.errors import Cancelled, DeadlineExceeded, OpenMaaSError, Unavailable
from openmaas.core.resources import CauseInfo, JobInfo, JobReport, JobRequest, Page

_JSON = {"content-type": "application/json"}
_FIRST_PAUSE = 0.05  # seconds between two looks at a job, growing to …
_LAST_PAUSE = 0.5
_LOOK = 10.0  # seconds that one look may take
_AWAY = 120.0  # seconds that the server may not answer while somebody waits: it is restarting, and the job goes on


class JobFailed(OpenMaaSError):
    """A job that was waited for has failed. `job` is what became of it; `cause` holds the last lines that it wrote."""

    def __init__(self, job: JobInfo) -> None:
        self.job = job
        self.cause = job.cause or CauseInfo(code="job_failed", message="No cause was told.", stderr=[], next_step="")
        super().__init__(
            f"The {job.kind} job {job.id} has failed: {self.cause.message}",
            code=self.cause.code,
            next_step=self.cause.next_step or f"openmaas jobs logs {job.id}",
        )


class Jobs(Session):
    @operation
    def submit_job(self, kind: str, arguments: Mapping[str, Any] | None = None) -> Operation[JobInfo]:
        """Begin a job, and return at once; one that does the same and has not ended is returned instead.

        kind and arguments: as openmaas.core.jobs has them. Raises InvalidInput, NotFound for a version that there is not, and
        LimitReached when too many jobs wait.
        """
        body = msgspec.json.encode(JobRequest(kind=kind, arguments=dict(arguments or {})))
        return (yield from fetch(Request("POST", (*API, "jobs"), headers=_JSON, body=body), JobInfo))

    @operation
    def job(self, job: str) -> Operation[JobInfo]:
        """A job as it stands. Raises NotFound."""
        return (yield from fetch(Request("GET", _parts(job)), JobInfo))

    @listing
    def jobs(self, *, state: str | None = None, kind: str | None = None, page_size: int | None = None) -> Listing[JobInfo]:
        """All jobs, newest first; those of one state or kind where these are given."""
        return Listing(Page[JobInfo], *API, "jobs", page_size=page_size, state=state, kind=kind)

    @operation
    def cancel_job(self, job: str) -> Operation[JobInfo]:
        """Cancel a job: at once while it waits, as soon as its process has ended when it runs. Raises NotFound, Conflict."""
        return (yield from fetch(Request("POST", (*_parts(job), "cancel")), JobInfo))

    @operation
    def retry_job(self, job: str) -> Operation[JobInfo]:
        """Run a job that failed or was cancelled again. Raises NotFound, Conflict."""
        return (yield from fetch(Request("POST", (*_parts(job), "retry")), JobInfo))

    @operation
    def job_logs(self, job: str, *, lines: int = 200, offset: int | None = None) -> Operation[Logs]:
        """The last `lines` lines that the job wrote, or with `offset` (of the answer before) what came since."""
        return (yield from fetch(Request("GET", (*_parts(job), "logs"), {"lines": lines, "offset": offset}), Logs))

    @operation
    def report_job(self, job: str, report: JobReport) -> Operation[JobInfo]:
        """For a job's own process, with its own key: tell how far it is, or how it ended.

        Raises Cancelled when it should end, Unauthenticated when it is over.
        """
        body = msgspec.json.encode(report)
        return (yield from fetch(Request("POST", (*_parts(job), "report"), headers=_JSON, body=body, timeout=_LOOK), JobInfo))

    @operation
    def wait_job(
        self, job: str, *, progress: Callable[[JobInfo], object] | None = None, timeout: float | None = None
    ) -> Operation[JobInfo]:
        """Wait until a job has ended, at most `timeout` seconds. progress: is told each look at it.

        The server may restart meanwhile. Raises JobFailed, Cancelled, NotFound, and DeadlineExceeded; the job goes on then.
        """
        until = None if timeout is None else time.monotonic() + timeout
        pause = _FIRST_PAUSE
        while True:
            info = yield from _look(job, until)
            if progress is not None:
                progress(info)
            if info.ended:
                return _ended(info)
            if until is not None and time.monotonic() > until:
                raise DeadlineExceeded(
                    f"The job {job} is still {info.state} after {timeout:g} s.",
                    code="job_timeout",
                    next_step=f"It goes on: openmaas jobs show {job}",
                )
            yield Sleep(pause)
            pause = min(pause * 1.5, _LAST_PAUSE)


def _parts(job: str) -> tuple[str, ...]:
    return (*API, "jobs", job)


def _look(job: str, until: float | None) -> Operation[JobInfo]:
    """The job as it stands, as soon as the server answers."""
    end = min(time.monotonic() + _AWAY, until or math.inf)
    while True:
        try:
            return (yield from fetch(Request("GET", _parts(job), timeout=_LOOK), JobInfo))
        except (Unavailable, DeadlineExceeded):
            if time.monotonic() > end:
                raise
        yield Sleep(_LAST_PAUSE)


def _ended(info: JobInfo) -> JobInfo:
    if info.state == "failed":
        raise JobFailed(info)
    if info.state == "cancelled":
        raise Cancelled(f"The job {info.id} was cancelled.", code="job_cancelled", next_step=f"openmaas jobs retry {info.id}")
    return info

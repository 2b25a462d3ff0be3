"""The life of a job's process: its task, from the first line to the report that ends the job.

What it has to say it says to control over the API, with a key that is good while the job runs. Control may be away for minutes:
the task goes on, and its end is told when control is back.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, cast

import msgspec

from openmaas.core.contracts import JobSpec
from openmaas.core.datasets import DatasetManifest
from openmaas.core.errors import Cancelled, NotFound, OpenMaaSError, Refused, without_paths
from openmaas.core.manifest import Manifest
from openmaas.core.resources import CauseInfo, JobReport
from openmaas.core.settings import Settings
from openmaas.tasks.base import Task
from openmaas.tasks.interpreters import Interpreters
from openmaas.tasks.locks import measuring_lock
from openmaas.tasks.reporting import Connection, Reporter

ENVIRONMENTS = Path(__file__).parent / "environments"
"""What the environments of their own are made from: NAME.txt, a requirements file with exact versions."""


class JobProcess:
    """What a task is given: tasks.base.Job."""

    def __init__(self, spec: JobSpec, settings: Settings, connection: Connection, reporter: Reporter) -> None:
        self.id = spec.id
        self.kind = spec.kind
        self.arguments = spec.arguments
        self.settings = settings
        self.scratch = settings.home_path / "jobs" / spec.name
        self._connection = connection
        self._reporter = reporter
        self._shared = tempfile.gettempdir()
        self._stage = ""
        self._alone = 0
        self._interpreters = Interpreters(settings.home_path / "environments", ENVIRONMENTS)

    @property
    def client(self) -> Any:
        return self._connection.patient

    def progress(self, stage: str, done: float = 0.0, total: float = 0.0) -> None:
        if stage != self._stage:
            self._stage = stage
            self.log(stage)
        self._reporter.tell(stage, done, total)

    def log(self, line: str) -> None:
        sys.stdout.write(f"{time.strftime('%H:%M:%S')}  {line}\n")
        sys.stdout.flush()

    def files(self, reference: str) -> tuple[Manifest, Path]:
        from openmaas.store.blobs import open_blobs

        info = self.client.show(reference)
        manifest = msgspec.convert(info.manifest, Manifest)
        folder = open_blobs(self.settings).materialize(manifest, self.settings.home_path / "cache" / info.digest)
        return manifest, folder

    def dataset(self, reference: str) -> tuple[DatasetManifest, Path]:
        from openmaas.store.blobs import open_blobs

        info = self.client.dataset(reference)
        manifest = msgspec.convert(info.manifest, DatasetManifest)
        folder = open_blobs(self.settings).materialize(manifest, self.settings.home_path / "cache" / info.digest)
        return manifest, folder

    def environment(self, name: str) -> Path:
        return self._interpreters.get(name, self.progress)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        if self._alone:
            yield  # a part of a task that holds it already
            return
        stage = self._stage
        with measuring_lock(lambda: self.progress("waiting for another measurement on this machine"), self._shared):
            if self._stage != stage:
                self.progress(stage)
            self._alone += 1
            try:
                yield
            finally:
                self._alone -= 1


def run(spec: JobSpec, settings: Settings) -> None:
    """Do the job and tell its end.

    Raises Cancelled when it was asked to end before, and OpenMaaSError when control could not be told in all the time there is:
    a process that has told no end never looks like one that did.
    """
    if settings.job_memory:
        resource.setrlimit(resource.RLIMIT_DATA, (settings.job_memory, settings.job_memory))
    connection = Connection(spec, settings)
    reporter = Reporter(connection)
    job = JobProcess(spec, settings, connection, reporter)

    def on_terminate(number: int, frame: FrameType | None) -> NoReturn:
        reporter.cancel()
        raise Cancelled("The job was asked to end.")

    signal.signal(signal.SIGTERM, on_terminate)
    with reporter:
        last = _do(job, reporter)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what is left to do takes an instant, or control decides
    if last is None:
        job.log("ended before its end, as it was asked to")
        raise Cancelled(
            "Its process was asked to end before the job was done.",
            code="asked_to_end",
            next_step=f"openmaas jobs retry {spec.id}",
        )
    if last.cause is not None:
        job.log(f"failed: {last.cause.message}")
    reporter.tell_end(last)


def _do(job: JobProcess, reporter: Reporter) -> JobReport | None:
    """Run the task: what to report in the end, None when the job was asked to end before."""
    try:
        job.scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _temporary_files_in(job.scratch):
            result = find_task(job.kind)(job)
        return JobReport(result=_plain(result))
    except MemoryError:
        limit = job.settings.job_memory
        told = f"its limit of {limit} bytes (OPENMAAS_JOB_MEMORY)" if limit else "what this machine has"
        return _failure(Refused(f"The job needs more memory than {told}.", code="memory_limit"))
    except OpenMaaSError as error:
        return None if reporter.cancelled else _failure(error)
    except Exception as error:
        traceback.print_exc()
        if reporter.cancelled:
            return None
        text = without_paths(str(error))
        return _failure(OpenMaaSError(f"The task failed unexpectedly: {type(error).__name__}: {text}", code="task_failed"))


@contextlib.contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """Those of this process and of what it starts: they are removed with the folder, whatever becomes of the process."""
    before = os.environ.get("TMPDIR"), tempfile.tempdir
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    try:
        yield
    finally:
        os.environ.pop("TMPDIR")
        if before[0] is not None:
            os.environ["TMPDIR"] = before[0]
        tempfile.tempdir = before[1]


def find_task(kind: str) -> Task:
    """The task of a kind. Raises NotFound where no installed package brings it."""
    for entry in entry_points(group="openmaas.tasks", name=kind):
        return cast(Task, entry.load())
    raise NotFound(f"No installed package brings the task {kind!r}.", code="task_not_found")


def _plain(result: dict[str, Any]) -> dict[str, Any]:
    """The result as JSON has it. Raises Refused for what JSON cannot hold."""
    try:
        return msgspec.json.decode(msgspec.json.encode(result), type=dict[str, Any])
    except (TypeError, ValueError, msgspec.MsgspecError) as error:
        raise Refused(f"The task's result is not a JSON object: {error}.", code="invalid_result") from None


def _failure(error: OpenMaaSError) -> JobReport:
    cause = CauseInfo(code=error.code, message=error.message, stderr=[], next_step=error.next_step or "")
    return JobReport(cause=cause)

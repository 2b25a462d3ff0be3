"""All jobs of this machine: those that are desired run, each attempt once; any other is ended.

A job's process does not end with the supervisor that started it. The next one finds it by its note and takes it over.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable

from openmaas.core.contracts import Desired, JobSpec, JobStatus
from openmaas.core.log import get_logger
from openmaas.core.settings import Settings
from openmaas.fleet.job_run import JobRun, LaunchJob, notes_folder, started_runs

_LOOK = 0.1  # seconds between two looks at the processes

_log = get_logger("jobs")


class Jobs:
    """Keeps the processes of jobs in step with the newest Desired."""

    def __init__(self, settings: Settings, launch: LaunchJob, on_change: Callable[[], None]) -> None:
        self._settings = settings
        self._launch = launch
        self._on_change = on_change
        self._runs: dict[tuple[str, int], JobRun] = {}
        self._wanted: set[tuple[str, int]] | None = None
        self._some = asyncio.Event()
        self._closed = False
        self._forgetting: list[asyncio.Future[None]] = []  # what removes large folders, off the loop that pings replicas

    def adopt(self) -> None:
        """Take over what another supervisor left, before control is heard; and remove what no process uses any more."""
        home = self._settings.home_path
        notes_folder(home).mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in started_runs(home):
            run = JobRun.adopt(name, self._settings)
            self._runs[run.id, run.attempt] = run
            _log.info("taken over", job=run.id, start=run.attempt, runs=not run.ended)
        kept = {f"{job}.{attempt}" for job, attempt in self._runs}
        for folder in (home / "jobs").glob("*"):
            if folder.name not in kept:
                shutil.rmtree(folder, ignore_errors=True)
        self._some.set()

    def apply(self, desired: Desired) -> None:
        """Start what is new, end what is no longer wanted."""
        if self._closed:
            return
        self._wanted = {(spec.id, spec.attempt) for spec in desired.jobs}
        for start, run in self._runs.items():
            if start not in self._wanted:
                run.ask_to_end()
        self._forget()
        for spec in desired.jobs:
            if spec.key and (spec.id, spec.attempt) not in self._runs:
                self._start(spec)
        self._on_change()

    def statuses(self) -> tuple[JobStatus, ...]:
        return tuple(run.status() for run in self._runs.values())

    async def watch(self) -> None:
        """Look after the processes, until cancelled."""
        while True:
            await self._some.wait()
            self._look()
            if not self._runs:
                self._some.clear()
            await asyncio.sleep(_LOOK)

    async def stop(self) -> None:
        """End all of them, to be put back: they run again when a server runs here again."""
        self._closed = True
        for run in self._runs.values():
            if not run.ended:
                run.ask_to_end(put_back=True)
        while not all(run.ended for run in self._runs.values()):
            self._look()
            await asyncio.sleep(_LOOK)
        await asyncio.gather(*self._forgetting)

    def kill(self) -> None:
        """End all of them at once, to be put back."""
        for run in self._runs.values():
            if not run.ended:
                run.ask_to_end(put_back=True)
                run.kill()

    def _start(self, spec: JobSpec) -> None:
        run = JobRun.start(spec, self._settings, self._launch)
        self._runs[run.id, run.attempt] = run
        self._some.set()
        _log.info("started", job=run.id, kind=spec.kind, start=run.attempt, pid=run.pid)

    def _look(self) -> None:
        ended = [run for run in list(self._runs.values()) if run.look()]
        for run in ended:
            _log.info(
                "process ended", job=run.id, start=run.attempt, exit_status=run.exit_status
            )  # control knows how the job did
        if ended:
            self._forget()
            self._on_change()

    def _forget(self) -> None:
        """What has ended and is no longer wanted: control has taken notice. While it stops, the next server will tell it."""
        if self._wanted is None or self._closed:
            return
        for start, run in list(self._runs.items()):
            if run.ended and start not in self._wanted:
                del self._runs[start]
                self._forgetting.append(asyncio.get_running_loop().run_in_executor(None, run.forget))
        self._forgetting = [one for one in self._forgetting if not one.done()]

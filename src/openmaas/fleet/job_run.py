"""One process of a job: started, or taken over from a supervisor that ended without a word.

`run/jobs/NAME` in the home says that it was started. The process holds a lock on that file from before its first instruction
to its end, so that whoever looks knows whether it still runs; and it writes its id there.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from openmaas.core.contracts import SERVER_STOPPED, Cause, JobSpec, JobStatus
from openmaas.core.settings import Settings
from openmaas.fleet.causes import job_exit_cause, told_cause, with_evidence
from openmaas.fleet.home import is_held
from openmaas.fleet.memory import resident
from openmaas.fleet.output import bound_log
from openmaas.fleet.process import Launch

GRACE = 10.0
"""Seconds that a process has to end when it was asked to."""

_MARK = "[supervisor] "
_TAIL = 64 * 1024
_STOPPED = ".stopped"

LaunchJob = Callable[[JobSpec, int], Launch]
"""How the process of a job is started that inherits the descriptor of its lock."""


class JobRun:
    """pid: None while it is not known. ended: whether the process is gone.

    exit_status: None where it ended while nothing watched it. cause: why it ended, if it told no end itself.
    """

    def __init__(self, name: str, settings: Settings, child: subprocess.Popen[bytes] | None = None) -> None:
        self.id, _, attempt = name.partition(".")
        self.attempt = int(attempt)
        self.ended = False
        self.exit_status: int | None = None
        self.cause: Cause | None = None
        self._home = settings.home_path
        self._name = name
        self._child = child
        self._memory = 0
        self._seen = False
        self._asked_at: float | None = None
        self._terminated = False

    @classmethod
    def start(cls, spec: JobSpec, settings: Settings, launch: LaunchJob) -> Self:
        """Start its process. Where the system cannot, the run has ended with the cause."""
        run = cls(spec.name, settings)
        try:
            run._child = run._spawn(spec, launch)
            run._seen = True
        except OSError as error:
            run.ended = True
            run.cause = Cause(code="spawn_failed", message=f"The system could not start its process: {error.strerror}.")
        return run

    @classmethod
    def adopt(cls, name: str, settings: Settings) -> Self:
        """Take over what another supervisor started: it runs on, or has ended since."""
        run = cls(name, settings)
        if is_held(run._lock_path):
            run._seen = True
            run._stopped_path.unlink(missing_ok=True)
        else:
            run._end(None)
        return run

    @property
    def pid(self) -> int | None:
        if self.ended:
            return None
        if self._child is not None:
            return self._child.pid
        try:
            return int(self._lock_path.read_text())
        except (OSError, ValueError):
            return None  # it has not come so far

    def status(self) -> JobStatus:
        return JobStatus(
            id=self.id,
            attempt=self.attempt,
            state="ended" if self.ended else "running",
            pid=self.pid,
            memory=self._memory,
            cause=self.cause,
        )

    def ask_to_end(self, *, put_back: bool = False) -> None:
        """SIGTERM now, SIGKILL when its grace is over. put_back: it is to run again, since only the server stops."""
        if put_back:
            with contextlib.suppress(OSError):
                self._stopped_path.touch(mode=0o600)
        if self._asked_at is None and not self.ended:
            self._asked_at = time.monotonic()
        self.look()

    def kill(self) -> None:
        """End it now, with all that it has started."""
        if not self.ended and (pid := self.pid) is not None:
            _signal_group(pid, signal.SIGKILL)

    def look(self) -> bool:
        """See how it stands, and do what is due; whether it has just ended."""
        if self.ended:
            return False
        status = self._child.poll() if self._child is not None else None
        if status is not None or (self._child is None and not is_held(self._lock_path)):
            self._end(status)
            return True
        self._memory = resident(self.pid or 0)
        self._press()
        bound_log(self._log_path)
        return False

    def forget(self) -> None:
        """Remove what lies on the disk of it, but not its log."""
        shutil.rmtree(self._home / "jobs" / self._name, ignore_errors=True)
        self._stopped_path.unlink(missing_ok=True)
        self._lock_path.unlink(missing_ok=True)

    # its process

    def _spawn(self, spec: JobSpec, launch: LaunchJob) -> subprocess.Popen[bytes]:
        self._log_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        log = os.open(self._log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(log, f"{_MARK}start {self.attempt}\n".encode())
            how = launch(spec, lock)
            with tempfile.TemporaryFile() as stdin:
                stdin.write(how.stdin)
                stdin.seek(0)
                return subprocess.Popen(
                    how.command,
                    stdin=stdin,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=dict(how.environment),
                    start_new_session=True,
                    pass_fds=(lock,),
                )
        finally:
            os.close(log)
            os.close(lock)  # the process has it too, and holds the lock from now on

    def _press(self) -> None:
        if self._asked_at is None or (pid := self.pid) is None:
            return
        if not self._terminated:
            self._terminated = True
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        elif time.monotonic() - self._asked_at > GRACE:
            _signal_group(pid, signal.SIGKILL)

    def _end(self, status: int | None) -> None:
        pid = self.pid
        if pid is not None and self._seen:  # else the id may be another's by now
            _signal_group(pid, signal.SIGKILL)  # what it has started must not go on without it
        self.ended, self.exit_status, self._memory = True, status, 0
        if self._stopped_path.exists():
            self.cause = Cause(code=SERVER_STOPPED, message="The server was stopped.")
            return
        lines = self._last_lines()
        self.cause = with_evidence(told_cause(lines) or job_exit_cause(status), lines, f"openmaas jobs logs {self.id}")

    # its files

    @property
    def _lock_path(self) -> Path:
        return notes_folder(self._home) / self._name

    @property
    def _stopped_path(self) -> Path:
        return notes_folder(self._home) / f"{self._name}{_STOPPED}"

    @property
    def _log_path(self) -> Path:
        return self._home / "logs" / "jobs" / f"{self.id}.log"

    def _last_lines(self) -> list[str]:
        """What it wrote last, since its start."""
        try:
            with self._log_path.open("rb") as log:
                log.seek(max(0, os.fstat(log.fileno()).st_size - _TAIL))
                lines = log.read().decode("utf-8", "replace").splitlines()
        except OSError:
            return []
        starts = [index for index, line in enumerate(lines) if line.startswith(_MARK)]
        return lines[starts[-1] + 1 :] if starts else lines


def notes_folder(home: Path) -> Path:
    return home / "run" / "jobs"


def started_runs(home: Path) -> list[str]:
    """Names of all that were started and are not forgotten."""
    folder = notes_folder(home)
    return sorted(path.name for path in folder.glob("job-*.*") if path.suffix != _STOPPED) if folder.is_dir() else []


def _signal_group(pid: int, number: int) -> None:
    """It leads a session of its own, so its group is itself and what it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)

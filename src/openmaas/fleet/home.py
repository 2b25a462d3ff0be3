"""The data folder's lock and the note of who runs there: one supervisor for each home."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import msgspec

from openmaas.core.errors import Conflict, Refused
from openmaas.core.settings import Settings

_TRIES = 10
_PAUSE = 0.02  # `is_locked` holds the lock for an instant when it looks, and a killed supervisor until the kernel is done


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """`run/supervisor.json` in the home: the server that runs there. `started_at` Unix seconds; `ready` once all answered."""

    pid: int
    control_url: str
    gateway_url: str
    started_at: float
    version: str
    ready: bool = False


def prepare_home(settings: Settings) -> Path:
    """Make the data folder, for this user alone where it is new."""
    home = settings.home_path
    try:
        for folder in (home, home / "run", home / "logs"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Refused(
            f"The data folder {str(home)!r} cannot be made: {error.strerror}.", next_step="Set OPENMAAS_HOME to another folder."
        ) from error
    return home


@contextlib.contextmanager
def lock_home(settings: Settings) -> Iterator[None]:
    """Hold the home for this process. Raises Conflict with the pid of the server that has it."""
    with _lock_path(settings).open("a+") as lock:
        if not _take(lock):
            raise Conflict(
                f"A server with the data folder {str(settings.home_path)!r} runs already (pid {_holder(settings)}).",
                code="already_running",
                next_step="Stop it with `openmaas down`, or set OPENMAAS_HOME to another folder.",
            )
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        try:
            yield
        finally:
            _note_path(settings).unlink(missing_ok=True)
            lock.truncate(0)


def _take(lock: TextIO) -> bool:
    for _ in range(_TRIES):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(_PAUSE)
    return False


def is_locked(settings: Settings) -> bool:
    """Whether a supervisor holds the home, alive and at this moment."""
    return is_held(_lock_path(settings))


def is_held(lock: Path) -> bool:
    """Whether a process holds the lock on this file."""
    try:
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def write_note(settings: Settings, running: Running) -> None:
    """Replace the note whole, readable by this user alone."""
    path = _note_path(settings)
    new = path.with_suffix(".new")
    new.touch(mode=0o600)
    new.write_bytes(msgspec.json.encode(running))
    new.replace(path)


def read_note(settings: Settings) -> Running | None:
    """The server that runs in this home; None when there is none, whatever an old note says."""
    if not is_locked(settings):
        return None
    try:
        return msgspec.json.decode(_note_path(settings).read_bytes(), type=Running)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def own_log(settings: Settings) -> Path:
    """Where a supervisor that was started apart writes."""
    return settings.home_path / "logs" / "supervisor.log"


def temporary_folder(settings: Settings) -> Path:
    """Where the server's processes put what they need for a while. A job has its own folder for that."""
    return settings.home_path / "tmp"


def clear_temporary(settings: Settings) -> None:
    """Remove what killed processes left there, and make the folder. For the holder of the home: it is nobody else's."""
    folder = temporary_folder(settings)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, exist_ok=True)


def tidy_runtime(settings: Settings) -> None:
    """Remove the sockets that killed processes left, and their folder where it is empty then."""
    with contextlib.suppress(OSError):
        for socket in settings.runtime_path.glob("*.sock"):
            socket.unlink(missing_ok=True)
        settings.runtime_path.rmdir()


def _holder(settings: Settings) -> str:
    with contextlib.suppress(OSError):
        return _lock_path(settings).read_text() or "unknown"
    return "unknown"


def _lock_path(settings: Settings) -> Path:
    return settings.home_path / "run" / "supervisor.lock"


def _note_path(settings: Settings) -> Path:
    return settings.home_path / "run" / "supervisor.json"

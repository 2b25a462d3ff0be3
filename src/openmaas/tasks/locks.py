"""Locks between processes: on files, so that they end with whoever holds them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from openmaas.core.errors import Refused

_PAUSE = 0.1


@contextlib.contextmanager
def file_lock(path: Path, waiting: Callable[[], object]) -> Iterator[None]:
    """Hold the lock on a file, which is made. `waiting` is called now and then while another process holds it; an exception
    of its own ends the waiting."""
    descriptor = _taken(path, waiting)
    try:
        yield
    finally:
        os.close(descriptor)


def measuring_lock(waiting: Callable[[], object], folder: str = "") -> contextlib.AbstractContextManager[None]:
    """One for each machine and user, whatever server somebody measures for. folder: the system's for temporary files."""
    return file_lock(Path(folder or tempfile.gettempdir()) / f"openmaas-measuring-{os.getuid()}.lock", waiting)


def _taken(path: Path, waiting: Callable[[], object]) -> int:
    while True:
        descriptor = _opened(path)
        try:
            while not _try(descriptor):
                waiting()
                time.sleep(_PAUSE)
            if _is_still(path, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _opened(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise Refused(f"The lock file {path.name!r} cannot be opened ({error.strerror}).", code="lock_failed") from None
    if os.fstat(descriptor).st_uid != os.getuid():
        os.close(descriptor)
        raise Refused(f"The lock file {path.name!r} belongs to another user.", code="lock_failed")
    return descriptor


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_still(path: Path, descriptor: int) -> bool:
    """Whether the file has not been removed meanwhile: a cleaner of temporary files may have."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False

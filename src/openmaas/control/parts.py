"""The files of uploads in progress: `uploads/ID/SHA256.part`, appended to chunk by chunk. What is there is where it stands.

Nobody waits until a chunk is on the disk: blobs are, before a version is made of them. What a power cut takes or spoils is
found out by its digest, and sent again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from openmaas.core.errors import Conflict, Unavailable
from openmaas.core.settings import Settings
from openmaas.store.files import check_room, digest_file, full_disk, sync_folder, write_all

if TYPE_CHECKING:
    from hashlib import _Hash

_BUSY_SECONDS = 10.0


@dataclass(slots=True)
class _Arrival:
    """The digest of what has arrived of a part, and the state of the file that it is true of."""

    digest: _Hash
    state: tuple[int, int, int]


class Parts:
    """Part files by upload and digest. One holder of an upload's lock at a time: chunks, completion and removal take turns."""

    def __init__(self, settings: Settings) -> None:
        self.folder = settings.home_path / "uploads"
        self._locks: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()
        self._guard = threading.Lock()
        self._arrivals: defaultdict[str, dict[str, _Arrival]] = defaultdict(dict)  # by upload and digest

    @contextlib.contextmanager
    def locked(self, upload: str, timeout: float = _BUSY_SECONDS) -> Iterator[None]:
        """Hold an upload. Raises Unavailable when somebody else holds it for longer than `timeout` seconds."""
        with self._guard:
            lock = self._locks.setdefault(upload, threading.Lock())
        if not lock.acquire(timeout=timeout):
            raise Unavailable(
                "This upload is busy: a chunk is being written, or it is being completed.", code="upload_busy", retry_after=2
            )
        try:
            yield
        finally:
            lock.release()

    def folder_of(self, upload: str) -> Path:
        return self.folder / upload

    def path(self, upload: str, sha256: str) -> Path:
        return self.folder / upload / f"{sha256}.part"

    def size(self, upload: str, sha256: str) -> int:
        """Bytes that have arrived."""
        try:
            return self.path(upload, sha256).lstat().st_size
        except FileNotFoundError:
            return 0

    def append(self, upload: str, sha256: str, offset: int, data: bytes) -> None:
        """Write a chunk where the file ends; all of it or nothing.

        Raises Conflict (`wrong_offset`) when the file does not end at `offset`, and StorageFull.
        """
        path = self.path(upload, sha256)
        self._make(path.parent)
        check_room(path.parent, len(data))
        with full_disk():
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            try:
                arrival = self._arrival(upload, sha256, offset, descriptor)
                _append(descriptor, offset, data)
                if arrival is not None:
                    arrival.digest.update(data)
                    arrival.state = _mark(descriptor)
                    self._arrivals[upload][sha256] = arrival
            finally:
                os.close(descriptor)

    def _arrival(self, upload: str, sha256: str, offset: int, descriptor: int) -> _Arrival | None:
        """What a chunk at `offset` continues; None where it is not known what lies before it."""
        known = self._arrivals[upload].pop(sha256, None)
        if offset == 0:
            return _Arrival(hashlib.sha256(), (0, 0, 0))
        return known if known is not None and known.state == _state(os.fstat(descriptor)) else None

    def digest(self, upload: str, sha256: str) -> str:
        """SHA-256 of a part: computed while it arrived, or read where the file is not as its last chunk left it."""
        path, arrival = self.path(upload, sha256), self._arrivals[upload].get(sha256)
        if arrival is not None and arrival.state == _state(path.lstat()):
            return arrival.digest.hexdigest()
        return digest_file(path)

    def remove_part(self, upload: str, sha256: str) -> None:
        self._arrivals[upload].pop(sha256, None)
        self.path(upload, sha256).unlink(missing_ok=True)

    def remove(self, upload: str) -> int:
        """Remove all of an upload; the bytes that its parts had."""
        freed = self.total(upload)
        self._arrivals.pop(upload, None)
        shutil.rmtree(self.folder_of(upload), ignore_errors=True)
        return freed

    def total(self, upload: str) -> int:
        """Bytes of all parts of an upload."""
        return sum(path.lstat().st_size for path in self.folder_of(upload).glob("*.part"))

    def touched(self, upload: str) -> float:
        """When the newest part was written to; 0 where there is none."""
        folder = self.folder_of(upload)
        return max((path.lstat().st_mtime for path in (folder, *folder.glob("*.part")) if path.exists()), default=0.0)

    def list(self) -> list[str]:
        """Every upload that has a folder."""
        try:
            return sorted(entry.name for entry in os.scandir(self.folder) if entry.is_dir(follow_symlinks=False))
        except FileNotFoundError:
            return []

    def _make(self, folder: Path) -> None:
        if folder.is_dir():
            return
        with full_disk():
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
        sync_folder(self.folder)


def _append(descriptor: int, offset: int, data: bytes) -> None:
    size = os.fstat(descriptor).st_size
    if size != offset:
        raise wrong_offset(offset, size)
    os.lseek(descriptor, offset, os.SEEK_SET)
    try:
        write_all(descriptor, data)
    except BaseException:
        os.ftruncate(descriptor, offset)
        raise


def _mark(descriptor: int) -> tuple[int, int, int]:
    """Date the file more finely than the system does, so that a later write is bound to date it otherwise."""
    now = time.time_ns()
    os.utime(descriptor, ns=(now, now))
    return _state(os.fstat(descriptor))


def _state(state: os.stat_result) -> tuple[int, int, int]:
    return state.st_ino, state.st_size, state.st_mtime_ns


def wrong_offset(offset: int, size: int) -> Conflict:
    return Conflict(
        f"The chunk begins at byte {offset}, but the file stands at {size}.",
        code="wrong_offset",
        next_step="Ask for the upload's offsets and go on from there.",
    )

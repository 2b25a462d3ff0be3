"""Files that last: digests, copies that are verified while they are written, and a full disk as our own error."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from openmaas.core.errors import Refused, StorageFull

CHUNK = 1024 * 1024
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_RESERVE = 16 * 2**20  # bytes that uploads leave free, so that the database can go on: deleting needs room too
_SYNCS = 16  # fsync at once
_RESERVE_PART = 16  # on a small disk: no more than this part of it


def digest_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk


def verified(chunks: Iterable[bytes], sha256: str, what: str) -> Iterator[bytes]:
    """The same chunks. Raises Refused after the last one when they do not have this digest."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
        yield chunk
    if digest.hexdigest() != sha256:
        raise digest_mismatch(what, sha256, digest.hexdigest())


def verify_file(path: Path, sha256: str, what: str) -> None:
    """Raises Refused (`digest_mismatch`) when the file does not have this digest."""
    found = digest_file(path)
    if found != sha256:
        raise digest_mismatch(what, sha256, found)


def digest_mismatch(what: str, expected: str, found: str) -> Refused:
    return Refused(
        f"{what} has the SHA-256 digest {found}, not {expected}.",
        code="digest_mismatch",
        next_step="Push the model again: damaged files are replaced.",
    )


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """A full disk or quota as StorageFull."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise _storage_full() from None


def check_room(folder: Path, size: int) -> None:
    """Raises StorageFull when `size` more bytes would leave too little for everything else."""
    usage = shutil.disk_usage(folder)
    if usage.free - size < min(_RESERVE, usage.total // _RESERVE_PART):
        raise _storage_full()


def _storage_full() -> StorageFull:
    return StorageFull(
        "The disk of the data folder is full.",
        next_step="Free some space (openmaas gc frees what no version needs) and run the same command again.",
    )


def write_new(path: Path, chunks: Iterable[bytes], mode: int) -> int:
    """Write a new file through to the disk; its size. Nothing is left of it when that fails."""
    with full_disk():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        try:
            size = sum(write_all(descriptor, chunk) for chunk in chunks)
            os.fsync(descriptor)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)
    return size


def write_all(descriptor: int, data: bytes) -> int:
    """Write all of it, however the system divides it."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    return len(data)


def sync_files(paths: Iterable[Path]) -> None:
    """Make the content of files, and what was done in folders, last. Several at once: the disk takes them together."""
    with ThreadPoolExecutor(_SYNCS) as pool:
        for _ in pool.map(_sync, paths):
            pass


def sync_folder(folder: Path) -> None:
    """Make what was created, renamed or removed in a folder last."""
    _sync(folder, os.O_DIRECTORY)


def _sync(path: Path, flags: int = 0) -> None:
    descriptor = os.open(path, os.O_RDONLY | flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Blobs in a local folder: `ab/abcd…`, written aside, through to the disk, and then given their name."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

from openmaas.core.errors import NotFound
from openmaas.store.blobs.base import BlobStore
from openmaas.store.files import check_room, digest_file, full_disk, read_chunks, sync_files, sync_folder, verified, write_new

_READ_ONLY = 0o444
_DIGEST_LENGTH = 64


class LocalBlobs(BlobStore):
    """A folder of read-only files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._making = folder / "tmp"

    def put(self, sha256: str, source: Path) -> int:
        if self._is_intact(sha256):
            return 0
        target = self._path(sha256)
        self._make_folder(target.parent)
        self._make_folder(self._making)
        check_room(self.folder, source.stat().st_size)
        aside = self._making / f"{sha256}.{uuid.uuid4().hex}"
        size = write_new(aside, verified(read_chunks(source), sha256, f"The file {source.name!r}"), _READ_ONLY)
        aside.replace(target)
        sync_folder(target.parent)
        return size

    def put_all(self, files: Mapping[str, Path]) -> int:
        """As `BlobStore.put_all`: a file of the same file system is linked, never copied."""
        new = {sha256: path for sha256, path in files.items() if not self._is_intact(sha256)}
        plain = [path for path in new.values() if path.is_file()]
        for path in plain:
            path.chmod(_READ_ONLY)
        with full_disk():
            sync_files(plain)
            self._make_folder(self._making)
            stored = sum(self._link(sha256, path) for sha256, path in new.items())
            sync_files({self._path(sha256).parent for sha256 in new})
        return stored

    def _link(self, sha256: str, source: Path) -> int:
        target, aside = self._path(sha256), self._making / f"{sha256}.{uuid.uuid4().hex}"
        self._make_folder(target.parent)
        try:
            aside.hardlink_to(source)
        except OSError:  # another file system, one without links, or a full one
            return self.put(sha256, source)
        aside.replace(target)
        return source.stat().st_size

    def size(self, sha256: str) -> int | None:
        try:
            return self._path(sha256).stat().st_size
        except FileNotFoundError:
            return None

    def read(self, sha256: str) -> Iterator[bytes]:
        path = self._path(sha256)
        if not path.exists():
            raise blob_missing(sha256)
        return read_chunks(path)

    def fetch(self, sha256: str, target: Path) -> None:
        source = self._path(sha256)
        try:
            target.hardlink_to(source)
        except FileNotFoundError:
            raise blob_missing(sha256) from None
        except OSError:  # another file system, or one without links
            with full_disk():
                shutil.copyfile(source, target)

    def delete(self, sha256: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._path(sha256).unlink()

    def list(self) -> Iterator[tuple[str, int]]:
        for folder in self.folder.glob("??"):
            with os.scandir(folder) as entries:
                for entry in entries:
                    if len(entry.name) == _DIGEST_LENGTH:
                        yield entry.name, entry.stat(follow_symlinks=False).st_size

    def remove_leftovers(self, before: float) -> int:
        freed = 0
        for path in self._making.glob("*"):
            with contextlib.suppress(FileNotFoundError):
                state = path.stat()
                if state.st_mtime < before:
                    path.unlink()
                    freed += state.st_size
        return freed

    def _is_intact(self, sha256: str) -> bool:
        path = self._path(sha256)
        return path.exists() and digest_file(path) == sha256

    def _path(self, sha256: str) -> Path:
        return self.folder / sha256[:2] / sha256

    def _make_folder(self, folder: Path) -> None:
        if folder.is_dir():
            return
        self._make_folder(folder.parent)
        with full_disk():
            folder.mkdir(mode=0o700, exist_ok=True)
        sync_folder(folder.parent)


def blob_missing(sha256: str) -> NotFound:
    return NotFound(
        f"The stored file with the digest {sha256} is gone.",
        code="blob_missing",
        next_step="Run openmaas doctor, then push the model again.",
    )

"""What every blob store does, and a version's folder made from its blobs."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from openmaas.core.datasets import DatasetManifest
from openmaas.core.errors import Unavailable
from openmaas.core.manifest import FileEntry, Manifest, check_path
from openmaas.store.files import digest_file, full_disk, verify_file

_ATTEMPTS = 5
_PUTS = 4  # at once

Described = Manifest | DatasetManifest
"""What has files: a version of a model or of a dataset."""


class BlobStore(ABC):
    """Files by digest. Thread-safe, and safe for several processes at once.

    A blob is whole or absent: nobody ever sees a part of one. Raises StorageFull where nothing more fits and Unavailable where
    the store does not answer.
    """

    @abstractmethod
    def put(self, sha256: str, source: Path) -> int:
        """Keep a file; the bytes newly stored, 0 when an intact blob of that digest was there.

        Raises Refused (`digest_mismatch`) when the file has another digest; nothing is kept then.
        """

    def put_all(self, files: Mapping[str, Path]) -> int:
        """Keep files by digest that were verified already, all of them when this returns; the bytes newly stored.

        Nobody may write to these files any more: one may become the blob itself. Raises as `put`; what was kept then stays.
        """
        with ThreadPoolExecutor(_PUTS) as pool:
            return sum(pool.map(self.put, files.keys(), files.values()))

    @abstractmethod
    def size(self, sha256: str) -> int | None:
        """Bytes of a blob, None where there is none."""

    @abstractmethod
    def read(self, sha256: str) -> Iterator[bytes]:
        """A blob's bytes in pieces. Raises NotFound (`blob_missing`) before the first one."""

    @abstractmethod
    def fetch(self, sha256: str, target: Path) -> None:
        """Make a new file `target` with a blob's bytes; not verified. Raises NotFound (`blob_missing`)."""

    @abstractmethod
    def delete(self, sha256: str) -> None:
        """Forget a blob. Nothing happens where there is none."""

    @abstractmethod
    def list(self) -> Iterator[tuple[str, int]]:
        """(digest, size) of every blob, in no order."""

    def remove_leftovers(self, before: float) -> int:
        """Remove what killed writers left, if it is older than a Unix time; the bytes freed."""
        return 0

    def materialize(self, manifest: Described, into: Path) -> Path:
        """Make the version's folder `into` from its blobs, every digest verified; a whole folder that is there is used again.

        Several processes may make the same folder at once. Raises Refused (`digest_mismatch`) for a damaged blob and NotFound
        (`blob_missing`) for one that is gone.
        """
        into.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for _ in range(_ATTEMPTS):
            if _is_whole(manifest, into):
                return into
            with _scratch(into) as scratch:
                self._fill(manifest, scratch / "new")
                # A folder can only take the place of an empty or absent one, so what is there is moved out of the way first.
                with contextlib.suppress(OSError):
                    into.rename(scratch / "old")
                with contextlib.suppress(OSError):
                    (scratch / "new").rename(into)
        raise Unavailable(f"The folder of version {manifest.digest[:12]} keeps changing while it is made.", retry_after=1)

    def _fill(self, manifest: Described, folder: Path) -> None:
        folder.mkdir()
        for file in manifest.files:
            target = folder / check_path(file.path)
            with full_disk():
                target.parent.mkdir(parents=True, exist_ok=True)
            self.fetch(file.sha256, target)
            verify_file(target, file.sha256, f"The stored file {file.path!r}")


@contextlib.contextmanager
def _scratch(into: Path) -> Iterator[Path]:
    """A folder beside `into`, so that renaming to it is one step; gone afterwards."""
    with full_disk():
        scratch = Path(tempfile.mkdtemp(prefix=".making-", dir=into.parent))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _is_whole(manifest: Described, folder: Path) -> bool:
    """Whether the folder holds exactly the version's files, each a regular file with its digest."""
    return folder.is_dir() and _paths(folder) == {file.path for file in manifest.files} and all(
        _is_intact(file, folder / file.path) for file in manifest.files
    )  # fmt: skip


def _is_intact(file: FileEntry, path: Path) -> bool:
    try:
        return path.stat().st_size == file.size and digest_file(path) == file.sha256
    except OSError:
        return False


def _paths(folder: Path) -> set[str]:
    """Relative paths of all that lies below a folder and is not a plain folder itself."""
    found: set[str] = set()
    for parent, folders, files in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]  # noqa: PTH114, PTH118
        found.update((Path(parent) / name).relative_to(folder).as_posix() for name in (*files, *links))
    return found

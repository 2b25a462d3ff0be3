"""Garbage: blobs that no version, dataset or upload needs, uploads that nobody goes on with, copies of versions that are gone,
jobs that ended long ago.

Safe beside a push: what an upload will need is pinned by rows of its own before it is relied on, and every blob is looked up
once more under the write lock in which it is deleted.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Sequence
from itertools import islice

from sqlalchemy import delete, not_, or_, select
from sqlalchemy.orm import Session

from openmaas.control.ended_jobs import EndedJobs
from openmaas.control.parts import Parts
from openmaas.control.uploads import forget_upload
from openmaas.core.errors import Unavailable
from openmaas.core.resources import GcReport
from openmaas.core.settings import Settings
from openmaas.store.blobs import BlobStore
from openmaas.store.database import Database
from openmaas.store.tables import (
    BlobRow,
    DatasetFileRow,
    DatasetVersionRow,
    UploadFileRow,
    UploadRow,
    VersionFileRow,
    VersionRow,
)

STALE = 24 * 3600.0  # seconds after which an upload that nobody touched is given up
_BATCH = 100  # blobs that are deleted under one lock
_REFERRING = (VersionFileRow, DatasetFileRow)


class GarbageService:
    """Says what would be freed, and frees it. Of all projects: blobs are shared between them."""

    def __init__(
        self, settings: Settings, database: Database, blobs: BlobStore, parts: Parts, clock: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._parts = parts
        self._cache = settings.home_path / "cache"
        self._clock = clock
        self._jobs = EndedJobs(settings, database, clock)
        self._one_at_a_time = threading.Lock()

    def report(self) -> GcReport:
        """What `apply` would free now."""
        with self._database.read() as session:
            stale = self._stale(session)
        unused = self._unused(leaving_out=stale)
        jobs, logs = self._jobs.report()
        size = sum(size for _, size in unused) + sum(self._parts.total(upload) for upload in stale) + logs
        digests = sorted(sha256 for sha256, _ in unused)
        return GcReport(blobs=len(unused), bytes=size, uploads=len(stale), done=False, digests=digests, jobs=jobs)

    def apply(self) -> GcReport:
        """Free it; what was freed. What a push has come to need in the meantime stays."""
        with self._one_at_a_time:
            with self._database.read() as session:
                stale = self._stale(session)
            given_up = [size for upload in stale if (size := self._give_up(upload)) is not None]
            freed = self._free_blobs()
            jobs, logs = self._jobs.remove()
            size = sum(given_up) + sum(freed.values()) + logs + self._blobs.remove_leftovers(self._clock() - STALE)
            self._clear_cache()
        return GcReport(blobs=len(freed), bytes=size, uploads=len(given_up), done=True, digests=sorted(freed), jobs=jobs)

    # blobs

    def _unused(self, leaving_out: Sequence[str] = ()) -> list[tuple[str, int]]:
        """Blobs that no version or dataset refers to, nor any upload but those left out."""
        kept = list(self._blobs.list())
        with self._database.read() as session:
            used = {sha256 for files in _REFERRING for sha256 in session.scalars(select(files.sha256).distinct())}
            for upload, sha256 in session.execute(select(UploadFileRow.upload_id, UploadFileRow.sha256)):
                if upload not in leaving_out:
                    used.add(sha256)
        return [(sha256, size) for sha256, size in kept if sha256 not in used]

    def _free_blobs(self) -> dict[str, int]:
        freed: dict[str, int] = {}
        unused = iter(self._unused())
        while batch := dict(islice(unused, _BATCH)):
            with self._database.write() as session:
                for sha256 in batch.keys() - _used_of(session, list(batch)):
                    self._blobs.delete(sha256)
                    freed[sha256] = batch[sha256]
        with self._database.write() as session:
            referred = [select(files.sha256).where(files.sha256 == BlobRow.sha256).exists() for files in _REFERRING]
            session.execute(delete(BlobRow).where(not_(or_(*referred))))
        return freed

    # uploads

    def _stale(self, session: Session) -> list[str]:
        """Uploads that nobody touched for long, and folders of uploads that are over."""
        before = self._clock() - STALE
        updated = dict(session.execute(select(UploadRow.id, UploadRow.updated_at)).all())
        known = updated.keys() | set(self._parts.list())
        return sorted(upload for upload in known if max(updated.get(upload, 0.0), self._parts.touched(upload)) < before)

    def _give_up(self, upload: str) -> int | None:
        """Remove a stale upload; the bytes freed, or None when somebody has come back to it."""
        try:
            with self._parts.locked(upload, timeout=0):
                with self._database.write() as session:
                    if upload not in self._stale(session):
                        return None
                    forget_upload(session, upload)
                return self._parts.remove(upload)
        except Unavailable:
            return None

    # copies

    def _clear_cache(self) -> None:
        """Remove the folders that replicas and jobs made of versions that are gone, and half-made ones of killed replicas."""
        if not self._cache.is_dir():
            return
        folders = list(self._cache.iterdir())  # before the versions are read: a newer folder is then left alone
        with self._database.read() as session:
            live = {
                digest
                for versions in (VersionRow, DatasetVersionRow)
                for digest in session.scalars(select(versions.digest).where(versions.deleted_at.is_(None)))
            }
        for folder in folders:
            half_made = folder.name.startswith(".")
            if folder.name not in live and (not half_made or folder.stat().st_mtime < self._clock() - STALE):
                shutil.rmtree(folder, ignore_errors=True)


def _used_of(session: Session, digests: Sequence[str]) -> set[str]:
    every = (session.scalars(select(files.sha256).where(files.sha256.in_(digests))) for files in (*_REFERRING, UploadFileRow))
    return {sha256 for some in every for sha256 in some}

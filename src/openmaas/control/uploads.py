"""Uploads: files that arrive in chunks, and go on where they stopped whatever was killed in between.

The same project, name and files are the same upload. How far each file is, its part on the disk says; a file that a version
or dataset of the project has already need not be sent again.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Literal

import msgspec
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from openmaas.control.parts import Parts, wrong_offset
from openmaas.control.references import find_version
from openmaas.control.requests import check_request, is_digest, upload_id
from openmaas.core.errors import InvalidInput, NotFound, TooLarge
from openmaas.core.names import DEFAULT_PROJECT
from openmaas.core.packs import unpack
from openmaas.core.resources import UploadFile, UploadInfo, UploadRequest
from openmaas.core.settings import Settings
from openmaas.store.blobs import BlobStore
from openmaas.store.database import Database
from openmaas.store.files import digest_mismatch
from openmaas.store.tables import DatasetFileRow, UploadFileRow, UploadRow, VersionFileRow

_MANY = 500  # values in one IN (…)


class UploadService:
    """Begins, continues and gives up uploads. What becomes of a whole one is control/pushes.py's."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        blobs: BlobStore,
        parts: Parts,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._chunk_size = settings.chunk_size
        self._max_size = settings.max_model_size
        self._database = database
        self._blobs = blobs
        self._parts = parts
        self._clock = clock

    def begin(self, request: UploadRequest, *, actor: str, project: str = DEFAULT_PROJECT) -> UploadInfo:
        """A new upload, or the open one with the same name and files; what else the request says replaces what it said.

        Raises InvalidInput, TooLarge, and NotFound for a parent that does not exist.
        """
        check_request(request, self._max_size)
        upload, now = upload_id(project, request), self._clock()
        with self._database.write() as session:
            text = msgspec.json.encode(_with_parent(session, project, request)).decode()
            row = session.get(UploadRow, upload)
            if row is None:
                session.add(
                    UploadRow(
                        id=upload, project=project, name=request.name, request=text, actor=actor, created_at=now, updated_at=now
                    )
                )
                session.flush()
                session.add_all(_file_row(upload, project, file) for file in request.files)
                session.flush()
            else:
                row.request, row.updated_at, row.actor = text, now, actor
            _mark_known(session, project, upload)
        return self.get(upload, project=project)

    def get(self, upload: str, *, project: str = DEFAULT_PROJECT) -> UploadInfo:
        """How far it is. Raises NotFound (`upload_not_found`)."""
        with self._database.read() as session:
            row = find_upload(session, project, upload)
            files = select(UploadFileRow.sha256, UploadFileRow.size).where(UploadFileRow.upload_id == upload)
            missing = dict(
                session.execute(files.where(UploadFileRow.size > 0, ~UploadFileRow.known, ~UploadFileRow.added)).all()
            )
        stands = {sha256: self._parts.size(upload, sha256) for sha256 in missing}
        offsets = {sha256: offset for sha256, offset in stands.items() if offset < missing[sha256]}
        return self._info(upload, row.name, offsets)

    def kind(self, upload: str, *, project: str = DEFAULT_PROJECT) -> Literal["model", "dataset"]:
        """What becomes of it when it is complete. Raises NotFound."""
        with self._database.read() as session:
            return request_of(find_upload(session, project, upload)).kind

    def write(self, upload: str, sha256: str, offset: int, data: bytes, *, project: str = DEFAULT_PROJECT) -> UploadInfo:
        """Append a chunk to a file; the answer's offsets speak of this file alone.

        Raises NotFound, Conflict (`wrong_offset`) when the file stands elsewhere, InvalidInput, TooLarge, StorageFull.
        """
        self._check_size(data)
        with self._parts.locked(upload):
            name, sizes = self._expected(upload, [sha256], project)
            size = sizes[sha256]
            stands = self._parts.size(upload, sha256)
            if offset != stands:
                raise wrong_offset(offset, stands)
            if not data or offset + len(data) > size:
                raise InvalidInput(
                    f"A chunk of {len(data)} bytes at {offset} does not fit a file of {size} bytes.", code="invalid_chunk"
                )
            self._parts.append(upload, sha256, offset, data)
        stands = offset + len(data)
        return self._info(upload, name, {sha256: stands} if stands < size else {})

    def write_whole(self, upload: str, data: bytes, *, project: str = DEFAULT_PROJECT) -> UploadInfo:
        """Take small files whole, as core.packs has them: all of them, or those before the one that fails.

        Raises NotFound, InvalidInput, TooLarge, Refused (`digest_mismatch`), StorageFull.
        """
        self._check_size(data)
        files = unpack(data)
        with self._parts.locked(upload):
            name, sizes = self._expected(upload, list(files), project)
            for sha256, content in files.items():
                if len(content) != sizes[sha256]:
                    raise InvalidInput(f"{len(content)} bytes came for a file of {sizes[sha256]} bytes.", code="invalid_chunk")
                if (found := hashlib.sha256(content).hexdigest()) != sha256:
                    raise digest_mismatch("A file as it arrived", sha256, found)
            for sha256, content in files.items():
                if self._parts.size(upload, sha256) < len(content):
                    self._parts.remove_part(upload, sha256)
                    self._parts.append(upload, sha256, 0, content)
        return self._info(upload, name, {})

    def _info(self, upload: str, name: str, offsets: dict[str, int]) -> UploadInfo:
        return UploadInfo(id=upload, name=name, chunk_size=self._chunk_size, offsets=offsets)

    def _check_size(self, data: bytes) -> None:
        if len(data) > self._chunk_size:
            raise TooLarge(
                f"The chunk has {len(data)} bytes; {self._chunk_size} are allowed.", next_step="See chunk_size of the upload."
            )

    def delete(self, upload: str, *, project: str = DEFAULT_PROJECT) -> None:
        """Give an upload up. Raises NotFound."""
        with self._parts.locked(upload):
            with self._database.write() as session:
                find_upload(session, project, upload)
                forget_upload(session, upload)
            self._parts.remove(upload)

    def _expected(self, upload: str, digests: Sequence[str], project: str) -> tuple[str, dict[str, int]]:
        """The upload's name, and the size of each of these files. Raises NotFound for what is not one of its files."""
        query = select(UploadFileRow.sha256, UploadFileRow.size).where(UploadFileRow.upload_id == upload, ~UploadFileRow.added)
        sizes: dict[str, int] = {}
        with self._database.read() as session:
            name = find_upload(session, project, upload).name
            for some in in_slices(digest for digest in digests if is_digest(digest)):
                sizes.update(session.execute(query.where(UploadFileRow.sha256.in_(some))).all())
        unknown = next((sha256 for sha256 in digests if sha256 not in sizes), None)
        if unknown is not None:
            raise NotFound(f"This upload has no file with the digest {unknown[:80]!r}.", code="file_not_in_upload")
        return name, sizes


def find_upload(session: Session, project: str, upload: str) -> UploadRow:
    """The upload, or NotFound."""
    row = session.get(UploadRow, upload) if len(upload) <= 64 and upload.isalnum() and upload.isascii() else None
    if row is None or row.project != project:
        raise NotFound(
            f"There is no upload {upload[:80]!r}.", code="upload_not_found", next_step="Push again: it may be done already."
        )
    return row


def request_of(row: UploadRow) -> UploadRequest:
    """What was asked for, without the files."""
    return msgspec.json.decode(row.request, type=UploadRequest)


def forget_upload(session: Session, upload: str) -> None:
    session.execute(delete(UploadFileRow).where(UploadFileRow.upload_id == upload))
    session.execute(delete(UploadRow).where(UploadRow.id == upload))


def in_slices(values: Iterable[str]) -> Iterable[Sequence[str]]:
    """The values, as many at a time as one IN (…) takes."""
    some = list(values)
    return (some[start : start + _MANY] for start in range(0, len(some), _MANY))


def _mark_known(session: Session, project: str, upload: str) -> None:
    """Mark the files that a version or dataset of this project has. Another project's are not spoken of."""
    for files in (VersionFileRow, DatasetFileRow):
        had = select(files.sha256).where(files.project == project)
        session.execute(
            update(UploadFileRow).where(UploadFileRow.upload_id == upload, UploadFileRow.sha256.in_(had)).values(known=True)
        )


def _with_parent(session: Session, project: str, request: UploadRequest) -> UploadRequest:
    """The request without its files (rows hold them), its parent by number: `digits@champion` may mean another one tomorrow."""
    parent = request.parent
    if parent is not None:
        model, version = find_version(session, project, parent)
        parent = f"{model.name}:{version.number}"
    return replace(request, files=[], parent=parent)


def _file_row(upload: str, project: str, file: UploadFile) -> UploadFileRow:
    return UploadFileRow(upload_id=upload, path=file.path, project=project, sha256=file.sha256, size=file.size, added=False)

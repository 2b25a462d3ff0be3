"""Completing an upload: every digest verified, the files examined, blobs kept, and then one transaction that shows the version.

    assemble    the files at their paths, from parts and blobs, each held against its digest
    examine     in a child process: what they are, and what a conversion adds
    pin         rows that say which blobs are coming, so that garbage collection leaves them
    keep        blobs, through to the disk
    register    number, digest, files: visible from here on, or not at all

Whatever is cut off before the last step leaves the upload as it was, to be completed again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, Protocol

import msgspec
from sqlalchemy import delete, select, update

from openmaas.control.approvals import ApprovalService
from openmaas.control.dataset_registration import register_dataset
from openmaas.control.parts import Parts
from openmaas.control.registration import Registration, register
from openmaas.control.requests import check_collisions, check_total, parity_of
from openmaas.control.uploads import UploadService, find_upload, request_of
from openmaas.core.datasets import DatasetManifest
from openmaas.core.errors import Conflict, NotFound, Refused
from openmaas.core.manifest import FileEntry, Manifest, Parity, check_path
from openmaas.core.names import DEFAULT_PROJECT
from openmaas.core.resources import DatasetPushResult, PushResult, UploadRequest, VersionInfo
from openmaas.core.settings import Settings
from openmaas.formats import Examined, ExaminedDataset
from openmaas.formats import examine as examine_in_child
from openmaas.formats import examine_dataset as examine_dataset_in_child
from openmaas.store.blobs import BlobStore
from openmaas.store.database import Database
from openmaas.store.files import digest_file, digest_mismatch, full_disk, verify_file
from openmaas.store.tables import UploadFileRow


class ExamineDataset(Protocol):
    """openmaas.formats.examine_dataset, or a fake."""

    def __call__(self, folder: Path, *, label: str | None, timeout: float, memory: int) -> ExaminedDataset: ...


class Examine(Protocol):
    """openmaas.formats.examine, or a fake."""

    def __call__(
        self,
        folder: Path,
        *,
        sample: str | None,
        parity: Parity | None,
        approved: frozenset[str],
        output: Path,
        timeout: float,
        memory: int,
    ) -> Examined: ...


FollowUp = Callable[[VersionInfo, Examined, str, str], list[str]]
"""Begins the jobs that a new version asks for, by actor and project; their ids."""


class PushService:
    """Makes versions of uploads that are whole."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        blobs: BlobStore,
        parts: Parts,
        uploads: UploadService,
        approvals: ApprovalService,
        examine: Examine = examine_in_child,
        follow_up: FollowUp = lambda version, examined, actor, project: [],
        examine_dataset: ExamineDataset = examine_dataset_in_child,
    ) -> None:
        self._examine_dataset = examine_dataset
        self._follow_up = follow_up
        self._settings = settings
        self._database = database
        self._blobs = blobs
        self._parts = parts
        self._uploads = uploads
        self._approvals = approvals
        self._examine = examine

    def complete(self, upload: str, *, actor: str, project: str = DEFAULT_PROJECT) -> PushResult:
        """Make a version of an upload. Blocks while the files are examined.

        `created` is False when the newest version had exactly these files; what the request says of metadata and card is
        taken over all the same. Raises NotFound, Conflict for an upload that is not whole, Refused (`digest_mismatch`, or
        why the model is not accepted), InvalidInput, StorageFull, and Unavailable while somebody else completes it.
        """
        with self._parts.locked(upload):
            request, files = self._load(upload, project, "model")
            with self._workplace(upload) as place:
                self._assemble(upload, files, place / "files")
                examined = self._look(request, place, project)
                added = _added(place / "output", examined.added)
                manifest = examined.manifest([*files, *added])
                self._check(manifest)
                self._pin(upload, project, added)
                stored = self._keep(upload, files, added, place / "output")
            with self._database.write() as session:
                find_upload(session, project, upload)
                version, created = register(session, Registration(project, actor, upload, request, examined, manifest))
            self._parts.remove(upload)
        jobs = self._follow_up(version, examined, actor, project) if created else []
        return PushResult(version=version, created=created, stored_bytes=stored, jobs=jobs)

    def complete_dataset(self, upload: str, *, actor: str, project: str = DEFAULT_PROJECT) -> DatasetPushResult:
        """Make a dataset's version of an upload. Blocks while every row is read.

        `created` is False when the newest version is the same. Raises as `complete`.
        """
        with self._parts.locked(upload):
            request, files = self._load(upload, project, "dataset")
            with self._workplace(upload) as place:
                self._assemble(upload, files, place / "files")
                examined = self._examine_dataset(
                    place / "files",
                    label=request.label,
                    timeout=self._settings.examine_timeout,
                    memory=self._settings.examine_memory,
                )
                manifest = _dataset_manifest(examined, files)
                stored = self._keep(upload, files, [], place / "output")
            with self._database.write() as session:
                find_upload(session, project, upload)
                dataset, created = register_dataset(
                    session, project=project, actor=actor, upload=upload, name=request.name, manifest=manifest
                )
            self._parts.remove(upload)
        return DatasetPushResult(dataset=dataset, created=created, stored_bytes=stored)

    def _load(self, upload: str, project: str, kind: Literal["model", "dataset"]) -> tuple[UploadRequest, list[FileEntry]]:
        missing = self._uploads.get(upload, project=project).offsets
        if missing:
            raise Conflict(
                f"{len(missing)} of the upload's files are not complete.",
                code="upload_incomplete",
                next_step="Send what is missing, from the offsets of the upload.",
            )
        with self._database.read() as session:
            request = request_of(find_upload(session, project, upload))
            if request.kind != kind:
                raise Conflict(f"This is the upload of a {request.kind}, not of a {kind}.", code="other_kind")
            rows = session.scalars(select(UploadFileRow).where(UploadFileRow.upload_id == upload, ~UploadFileRow.added))
            return request, [FileEntry(path=row.path, size=row.size, sha256=row.sha256) for row in rows]

    @contextlib.contextmanager
    def _workplace(self, upload: str) -> Iterator[Path]:
        """An empty folder with `files` and `output` in it, beside the parts; gone afterwards."""
        place = self._parts.folder_of(upload) / "work"
        shutil.rmtree(place, ignore_errors=True)
        with full_disk():
            (place / "files").mkdir(mode=0o700, parents=True)
            (place / "output").mkdir(mode=0o700)
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)

    # assemble

    def _assemble(self, upload: str, files: Sequence[FileEntry], folder: Path) -> None:
        for file in files:
            target = folder / file.path
            with full_disk():
                target.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._put_in_place(upload, file, target)
            except (NotFound, Refused):
                self._drop(upload, file)
                raise

    def _put_in_place(self, upload: str, file: FileEntry, target: Path) -> None:
        part = self._whole_part(upload, file)
        with full_disk():
            if part is not None:
                self._verify(upload, file)
                _link(part, target)
            elif file.size:
                self._blobs.fetch(file.sha256, target)
                verify_file(target, file.sha256, f"The stored file {file.path!r}")
            else:
                target.touch(mode=0o600)

    def _verify(self, upload: str, file: FileEntry) -> None:
        found = self._parts.digest(upload, file.sha256)
        if found != file.sha256:
            raise digest_mismatch(f"The file {file.path!r} as it arrived", file.sha256, found)

    def _drop(self, upload: str, file: FileEntry) -> None:
        """A part or blob that does not have its digest is worth nothing; without it, the file is asked for again."""
        if self._whole_part(upload, file) is not None:
            self._parts.remove_part(upload, file.sha256)
            return
        self._blobs.delete(file.sha256)
        with self._database.write() as session:
            rows = update(UploadFileRow).where(UploadFileRow.upload_id == upload, UploadFileRow.sha256 == file.sha256)
            session.execute(rows.values(known=False))

    def _whole_part(self, upload: str, file: FileEntry) -> Path | None:
        """Where the file lies as it arrived; None when it is empty or a blob already, so that it need not be sent."""
        arrived = file.size and self._parts.size(upload, file.sha256) == file.size
        return self._parts.path(upload, file.sha256) if arrived else None

    # examine

    def _look(self, request: UploadRequest, place: Path, project: str) -> Examined:
        return self._examine(
            place / "files",
            sample=request.sample,
            parity=parity_of(request),
            approved=self._approvals.digests(project=project),
            output=place / "output",
            timeout=self._settings.examine_timeout,
            memory=self._settings.examine_memory,
        )

    def _check(self, manifest: Manifest) -> None:
        check_collisions(file.path for file in manifest.files)
        check_total(manifest.size, self._settings.max_model_size)
        if manifest.entry not in {file.path for file in manifest.files}:
            raise Refused(f"The entry {manifest.entry[:120]!r} is not among the files.", code="bad_examination")
        if not _survives(manifest):
            raise Refused("What the examination found cannot be kept as JSON.", code="bad_examination")

    # pin and keep

    def _pin(self, upload: str, project: str, added: Sequence[FileEntry]) -> None:
        with self._database.write() as session:
            find_upload(session, project, upload)
            session.execute(delete(UploadFileRow).where(UploadFileRow.upload_id == upload, UploadFileRow.added))
            session.add_all(
                UploadFileRow(upload_id=upload, path=file.path, project=project, sha256=file.sha256, size=file.size, added=True)
                for file in added
            )

    def _keep(self, upload: str, files: Sequence[FileEntry], added: Sequence[FileEntry], output: Path) -> int:
        """Put every file that is not a blob yet; the bytes newly stored."""
        sources = {file.sha256: output / file.path for file in added}
        for file in files:
            if (part := self._whole_part(upload, file)) is not None:
                self._verify(upload, file)  # once more: the examination had it in its hands
                sources[file.sha256] = part
            elif not file.size:
                sources[file.sha256] = Path(os.devnull)
        return self._blobs.put_all(sources)


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:  # a file system without links
        shutil.copyfile(source, target)


def _added(output: Path, paths: Sequence[str]) -> list[FileEntry]:
    """The files that the examination made. Raises Refused for what is not a regular file below `output`."""
    return [_entry(output, check_path(path)) for path in paths]


def _entry(folder: Path, path: str) -> FileEntry:
    target = folder / path
    try:
        state = target.lstat()
    except OSError:
        raise Refused(f"The examination names {path!r}, which it did not make.", code="bad_examination") from None
    if not stat.S_ISREG(state.st_mode) or target.resolve() != folder.resolve() / path:
        raise Refused(f"The examination made {path!r}, which is not a plain file.", code="bad_examination")
    return FileEntry(path=path, size=state.st_size, sha256=digest_file(target))


def _dataset_manifest(examined: ExaminedDataset, files: Sequence[FileEntry]) -> DatasetManifest:
    """What the child has said, with the files. Raises Refused where it cannot be so."""
    manifest = DatasetManifest(
        format=examined.format,
        entry=examined.entry,
        purpose=examined.purpose,
        rows=examined.rows,
        columns=examined.columns,
        label=examined.label,
        classes=examined.classes,
        counts=examined.counts,
        missing=examined.missing,
        preview=examined.preview,
        notes=examined.notes,
        files=tuple(sorted(files, key=lambda file: file.path)),
    )
    entries = {"", *(file.path for file in files)}
    if manifest.entry not in entries or manifest.rows < 1 or not _survives(manifest):
        raise Refused("What the examination of the dataset found cannot be so.", code="bad_examination")
    return manifest


def _survives(manifest: Manifest | DatasetManifest) -> bool:
    """Whether the canonical form says the same when it is read again: JSON knows no infinity, and what processes tell others
    no number beyond 64 bits."""
    try:
        msgspec.msgpack.encode(manifest)
        return msgspec.json.decode(manifest.canonical(), type=type(manifest)).digest == manifest.digest
    except (msgspec.MsgspecError, OverflowError):
        return False

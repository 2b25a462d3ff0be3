"""The transaction that makes a version visible: its number, its files, and what the model's row says of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from openmaas.control.details import check_card, encode_metadata
from openmaas.control.uploads import forget_upload, in_slices
from openmaas.control.versions import version_info
from openmaas.core.manifest import FileEntry, Manifest
from openmaas.core.resources import UploadRequest, VersionInfo
from openmaas.formats import Examined
from openmaas.store.tables import BlobRow, ModelRow, VersionFileRow, VersionRow


@dataclass(frozen=True, slots=True)
class Registration:
    """All that a version is made of. Its blobs are in the store."""

    project: str
    actor: str
    upload: str
    request: UploadRequest
    examined: Examined
    manifest: Manifest


def register(session: Session, registration: Registration) -> tuple[VersionInfo, bool]:
    """The version, and whether it is new: not when the newest one has the same digest. The upload is over with it."""
    now = time.time()
    model = _model(session, registration, now)
    newest = _newest(session, model)
    forget_upload(session, registration.upload)
    if newest is not None and newest.digest == registration.manifest.digest:
        _take_over(newest, registration)
        return version_info(session, model, newest), False
    version = _new_version(session, model, registration, now)
    return version_info(session, model, version), True


def _model(session: Session, registration: Registration, now: float) -> ModelRow:
    """The model's row, made with its first version."""
    project, name = registration.project, registration.request.name
    model = session.scalar(select(ModelRow).where(ModelRow.project == project, ModelRow.name == name))
    if model is None:
        model = ModelRow(project=project, name=name, last_number=0, versions=0, size=0, created_at=now, updated_at=now)
        session.add(model)
        session.flush()
    return model


def _newest(session: Session, model: ModelRow) -> VersionRow | None:
    if not model.versions:
        return None
    query = select(VersionRow).where(VersionRow.model_id == model.id, VersionRow.number == model.latest)
    return session.scalars(query).one()


def _new_version(session: Session, model: ModelRow, registration: Registration, now: float) -> VersionRow:
    manifest, request = registration.manifest, registration.request
    model.last_number += 1
    model.versions += 1
    model.latest, model.format, model.size, model.updated_at = model.last_number, manifest.format, manifest.size, now
    version = VersionRow(
        project=registration.project,
        model_id=model.id,
        number=model.last_number,
        digest=manifest.digest,
        format=manifest.format,
        engine=manifest.engine,
        size=manifest.size,
        manifest=manifest.canonical().decode(),
        details=_metadata(registration),
        card=_card(registration),
        parent=request.parent,
        recipe=request.recipe,
        created_at=now,
        created_by=registration.actor,
    )
    session.add(version)
    session.flush()
    _add_files(session, version, manifest, now)
    return version


def add_blobs(session: Session, files: Sequence[FileEntry], now: float) -> None:
    """Rows of the files' blobs, which rows of files refer to."""
    sizes = {file.sha256: file.size for file in files}
    for some in in_slices(sizes):
        there = set(session.scalars(select(BlobRow.sha256).where(BlobRow.sha256.in_(some))))
        session.add_all(BlobRow(sha256=sha256, size=sizes[sha256], created_at=now) for sha256 in some if sha256 not in there)
    session.flush()


def _add_files(session: Session, version: VersionRow, manifest: Manifest, now: float) -> None:
    add_blobs(session, manifest.files, now)
    session.add_all(
        VersionFileRow(version_id=version.id, path=file.path, project=version.project, sha256=file.sha256, size=file.size)
        for file in manifest.files
    )
    session.flush()


def _take_over(version: VersionRow, registration: Registration) -> None:
    """The same files again, perhaps with more to say about them."""
    if registration.request.metadata:
        version.details = _metadata(registration)
    if registration.request.card is not None:
        version.card = _card(registration)


def _metadata(registration: Registration) -> str:
    """What openmaas.yaml says, and over it what the push says."""
    examined = registration.examined
    licence = {"licence": examined.licence} if examined.licence else {}
    return encode_metadata({**licence, **examined.metadata, **registration.request.metadata})


def _card(registration: Registration) -> str:
    request = registration.request
    return check_card(registration.examined.card if request.card is None else request.card)

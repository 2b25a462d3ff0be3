"""The transaction that makes a dataset's version visible: its number, its files, and what the dataset's row says of it."""

from __future__ import annotations

import time

from sqlalchemy import select
from sqlalchemy.orm import Session

from openmaas.control.datasets import dataset_info
from openmaas.control.registration import add_blobs
from openmaas.control.uploads import forget_upload
from openmaas.core.datasets import DatasetManifest
from openmaas.core.resources import DatasetInfo
from openmaas.store.tables import DatasetFileRow, DatasetRow, DatasetVersionRow


def register_dataset(
    session: Session, *, project: str, actor: str, upload: str, name: str, manifest: DatasetManifest
) -> tuple[DatasetInfo, bool]:
    """The version, and whether it is new: not when the newest one has the same digest. The upload is over with it.

    Its blobs are in the store.
    """
    now = time.time()
    dataset = _dataset(session, project, name, now)
    newest = _newest(session, dataset)
    forget_upload(session, upload)
    if newest is not None and newest.digest == manifest.digest:
        return dataset_info(dataset, newest), False
    return dataset_info(dataset, _new_version(session, dataset, manifest, actor, now)), True


def _dataset(session: Session, project: str, name: str, now: float) -> DatasetRow:
    """The dataset's row, made with its first version."""
    dataset = session.scalar(select(DatasetRow).where(DatasetRow.project == project, DatasetRow.name == name))
    if dataset is None:
        dataset = DatasetRow(project=project, name=name, last_number=0, versions=0, created_at=now, updated_at=now)
        session.add(dataset)
        session.flush()
    return dataset


def _newest(session: Session, dataset: DatasetRow) -> DatasetVersionRow | None:
    if not dataset.versions:
        return None
    rows = select(DatasetVersionRow).where(DatasetVersionRow.dataset_id == dataset.id)
    return session.scalars(rows.where(DatasetVersionRow.number == dataset.latest)).one()


def _new_version(session: Session, dataset: DatasetRow, manifest: DatasetManifest, actor: str, now: float) -> DatasetVersionRow:
    dataset.last_number += 1
    dataset.versions += 1
    dataset.latest, dataset.updated_at = dataset.last_number, now
    version = DatasetVersionRow(
        project=dataset.project,
        dataset_id=dataset.id,
        number=dataset.last_number,
        digest=manifest.digest,
        manifest=manifest.canonical().decode(),
        size=manifest.size,
        rows=manifest.rows,
        created_at=now,
        created_by=actor,
    )
    session.add(version)
    session.flush()
    add_blobs(session, manifest.files, now)
    session.add_all(
        DatasetFileRow(version_id=version.id, path=file.path, project=version.project, sha256=file.sha256, size=file.size)
        for file in manifest.files
    )
    session.flush()
    return version

"""Datasets: what versions are evaluated, calibrated and trained on. Immutable; made by completing an upload."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import msgspec
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from openmaas.control.gates import check_force
from openmaas.control.paging import DEFAULT_LIMIT, check_limit, make_page, number_after, within
from openmaas.control.references import find_dataset
from openmaas.control.usage import refuse_while_dataset_gates, refuse_while_dataset_in_jobs, refuse_while_dataset_named
from openmaas.core.errors import InvalidInput, NotFound
from openmaas.core.manifest import FileEntry
from openmaas.core.names import DEFAULT_PROJECT, check_name, parse_reference
from openmaas.core.resources import DatasetInfo, DatasetSummary, Page
from openmaas.store.blobs import BlobStore
from openmaas.store.database import Database
from openmaas.store.tables import DatasetFileRow, DatasetRow, DatasetVersionRow

_PAGE_BYTES = 4 * 2**20  # of manifests; a page holds at least one version


class DatasetService:
    """Shows and deletes datasets, and reads their files."""

    def __init__(self, database: Database, blobs: BlobStore, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._blobs = blobs
        self._clock = clock

    def list(
        self, *, project: str = DEFAULT_PROJECT, after: str | None = None, limit: int = DEFAULT_LIMIT
    ) -> Page[DatasetSummary]:
        """A page of the datasets, by name. Raises InvalidInput."""
        check_limit(limit)
        condition = (DatasetRow.project == project, DatasetRow.versions > 0)
        rows = select(DatasetRow).where(*condition).order_by(DatasetRow.name).limit(limit + 1)
        if after is not None:
            rows = rows.where(DatasetRow.name > check_name(after, "dataset"))
        with self._database.read() as session:
            total = session.scalar(select(func.count()).select_from(DatasetRow).where(*condition)) or 0
            found = session.scalars(rows).all()
            return make_page(found, limit, total, lambda row: row.name, lambda shown: _summaries(session, shown))

    def versions(
        self, name: str, *, project: str = DEFAULT_PROJECT, after: str | None = None, limit: int = DEFAULT_LIMIT
    ) -> Page[DatasetInfo]:
        """A page of a dataset's versions, newest first. Raises NotFound."""
        check_limit(limit)
        before = number_after(after)
        with self._database.read() as session:
            dataset, _ = find_dataset(session, project, check_name(name, "dataset"))
            weighed = select(DatasetVersionRow.number, func.length(DatasetVersionRow.manifest)).where(
                DatasetVersionRow.dataset_id == dataset.id, DatasetVersionRow.deleted_at.is_(None)
            )
            if before is not None:
                weighed = weighed.where(DatasetVersionRow.number < before)
            found = session.execute(weighed.order_by(DatasetVersionRow.number.desc()).limit(limit + 1)).all()
            shown = within([size for _, size in found], limit, _PAGE_BYTES)
            numbers = [number for number, _ in found]
            return make_page(
                numbers, shown, dataset.versions, lambda number: number, lambda some: _load(session, dataset, some)
            )

    def get(self, reference: str, *, project: str = DEFAULT_PROJECT) -> DatasetInfo:
        """The version that a reference means now: digits-test (its newest) or digits-test:2. Raises NotFound."""
        with self._database.read() as session:
            return dataset_info(*find_dataset(session, project, reference))

    def read_file(self, reference: str, path: str, *, project: str = DEFAULT_PROJECT) -> tuple[FileEntry, Iterator[bytes]]:
        """A file of a dataset: what it is, and its bytes in pieces. Raises NotFound."""
        with self._database.read() as session:
            dataset, version = find_dataset(session, project, reference)
            row = session.get(DatasetFileRow, (version.id, path)) if path.isprintable() else None
            if row is None:
                raise NotFound(
                    f"{dataset.name}:{version.number} has no file {path[:120]!r}.",
                    code="file_not_found",
                    next_step=f"openmaas data show {dataset.name}:{version.number} lists its files.",
                )
            entry = FileEntry(path=row.path, size=row.size, sha256=row.sha256)
        return entry, self._blobs.read(entry.sha256)

    def delete(self, name: str, *, actor: str, force: bool = False, reason: str = "", project: str = DEFAULT_PROJECT) -> None:
        """Delete all versions of a dataset; the numbers go on if it comes back. Raises as `delete_version`."""
        with self._database.write() as session:
            dataset, _ = find_dataset(session, project, check_name(name, "dataset"))
            live = select(DatasetVersionRow).where(
                DatasetVersionRow.dataset_id == dataset.id, DatasetVersionRow.deleted_at.is_(None)
            )
            versions = session.scalars(live.order_by(DatasetVersionRow.number)).all()
            self._delete(session, dataset, versions, actor, force, reason)

    def delete_version(
        self, reference: str, *, actor: str, force: bool = False, reason: str = "", project: str = DEFAULT_PROJECT
    ) -> None:
        """Delete one version; its files go with the next garbage collection.

        Raises NotFound, and Conflict while the rules of a gate name it or a job that has not ended does, and while a version
        was made with it or evaluated on it. force: although the latter; the reason is kept with the name of who did it.
        """
        if parse_reference(reference).number is None:
            raise InvalidInput(
                f"{reference!r} does not say which version to delete.",
                next_step=f"Write {reference}:NUMBER.",
                code="no_version",
            )
        with self._database.write() as session:
            dataset, version = find_dataset(session, project, reference)
            self._delete(session, dataset, [version], actor, force, reason)

    def _delete(
        self,
        session: Session,
        dataset: DatasetRow,
        versions: Sequence[DatasetVersionRow],
        actor: str,
        force: bool,
        reason: str,
    ) -> None:
        check_force(force, reason)
        references = {f"{dataset.name}:{version.number}" for version in versions}
        refuse_while_dataset_gates(session, dataset.project, references)
        refuse_while_dataset_in_jobs(session, dataset.project, references)
        if not force:
            refuse_while_dataset_named(session, dataset.project, references)
        now = self._clock()
        for version in versions:
            version.deleted_at, version.deleted_by, version.deleted_for = now, actor, reason or None
            session.execute(delete(DatasetFileRow).where(DatasetFileRow.version_id == version.id))
        session.flush()
        live = select(func.max(DatasetVersionRow.number)).where(
            DatasetVersionRow.dataset_id == dataset.id, DatasetVersionRow.deleted_at.is_(None)
        )
        dataset.versions -= len(versions)
        dataset.latest, dataset.updated_at = session.scalar(live), now


def dataset_info(dataset: DatasetRow, version: DatasetVersionRow) -> DatasetInfo:
    """A dataset's version as the API shows it."""
    manifest = msgspec.json.decode(version.manifest)
    return DatasetInfo(
        name=dataset.name,
        project=version.project,
        number=version.number,
        digest=version.digest,
        format=manifest["format"],
        purpose=manifest["purpose"],
        rows=version.rows,
        size=version.size,
        manifest=manifest,
        created_at=version.created_at,
        created_by=version.created_by,
    )


def _load(session: Session, dataset: DatasetRow, numbers: Sequence[int]) -> list[DatasetInfo]:
    rows = select(DatasetVersionRow).where(DatasetVersionRow.dataset_id == dataset.id, DatasetVersionRow.number.in_(numbers))
    return [dataset_info(dataset, version) for version in session.scalars(rows.order_by(DatasetVersionRow.number.desc()))]


class _Brief(msgspec.Struct):
    """Of a manifest."""

    format: str
    purpose: str


def _summaries(session: Session, datasets: Sequence[DatasetRow]) -> list[DatasetSummary]:
    newest = (
        select(DatasetVersionRow)
        .join(DatasetRow, DatasetRow.id == DatasetVersionRow.dataset_id)
        .where(DatasetRow.id.in_([dataset.id for dataset in datasets]), DatasetVersionRow.number == DatasetRow.latest)
    )
    versions = {version.dataset_id: version for version in session.scalars(newest)}
    return [_summary(dataset, versions[dataset.id]) for dataset in datasets]


def _summary(dataset: DatasetRow, version: DatasetVersionRow) -> DatasetSummary:
    brief = msgspec.json.decode(version.manifest, type=_Brief)
    return DatasetSummary(
        name=dataset.name,
        project=dataset.project,
        versions=dataset.versions,
        latest=version.number,
        format=brief.format,
        purpose=brief.purpose,
        rows=version.rows,
        size=version.size,
        updated_at=dataset.updated_at,
    )

"""Versions: what was pushed. Immutable but for free metadata and the card."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import msgspec
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from openmaas.control.details import check_card, encode_metadata
from openmaas.control.gate_rows import refuse_while_baseline
from openmaas.control.paging import DEFAULT_LIMIT, check_limit, make_page, number_after, within
from openmaas.control.references import find_model, find_version
from openmaas.control.serving import served_by
from openmaas.control.usage import refuse_while_aliased, refuse_while_deployed, refuse_while_in_jobs
from openmaas.control.variants import newest_variant
from openmaas.core.errors import InvalidInput, NotFound
from openmaas.core.manifest import FileEntry
from openmaas.core.names import DEFAULT_PROJECT, parse_reference
from openmaas.core.resources import Page, VersionChange, VersionInfo
from openmaas.store.blobs import BlobStore
from openmaas.store.database import Database
from openmaas.store.tables import AliasRow, ModelRow, VersionFileRow, VersionRow

_PAGE_BYTES = 4 * 2**20  # of manifests and cards; a page holds at least one version


Measured = Callable[[Session, VersionRow], tuple[dict[str, Any] | None, str | None]]
"""What is known of a version's engines: the newest measurement as JSON, and the id of a job that is at one."""


class VersionService:
    """Shows, describes and deletes versions, and reads their files."""

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        clock: Callable[[], float] = time.time,
        measured: Measured = lambda session, version: (None, None),
    ) -> None:
        self._measured = measured
        self._database = database
        self._blobs = blobs
        self._clock = clock

    def list(
        self, model: str, *, project: str = DEFAULT_PROJECT, after: str | None = None, limit: int = DEFAULT_LIMIT
    ) -> Page[VersionInfo]:
        """A page of a model's versions, newest first. Raises NotFound."""
        check_limit(limit)
        before = number_after(after)
        with self._database.read() as session:
            row = find_model(session, project, model)
            weighed = select(VersionRow.number, func.length(VersionRow.manifest) + func.length(VersionRow.card)).where(
                VersionRow.model_id == row.id, VersionRow.deleted_at.is_(None)
            )
            if before is not None:
                weighed = weighed.where(VersionRow.number < before)
            numbers = [
                (number, size) for number, size in session.execute(weighed.order_by(VersionRow.number.desc()).limit(limit + 1))
            ]
            shown = within([size for _, size in numbers], limit, _PAGE_BYTES)
            return make_page(
                [number for number, _ in numbers],
                shown,
                row.versions,
                lambda number: number,
                lambda some: _load(session, row, some),
            )

    def get(self, reference: str, *, project: str = DEFAULT_PROJECT) -> VersionInfo:
        """The version that a reference means now. Raises NotFound."""
        with self._database.read() as session:
            model, version = find_version(session, project, reference)
            measurement, job = self._measured(session, version)
            info = version_info(session, model, version)
            variant, engines = newest_variant(session, version), served_by(session, version)
            return replace(info, measurement=measurement, measuring=job, variant=variant, serving=engines)

    def change(self, reference: str, change: VersionChange, *, project: str = DEFAULT_PROJECT) -> VersionInfo:
        """Replace its metadata or card. Raises NotFound, and TooLarge or InvalidInput for what cannot be kept."""
        metadata = None if change.metadata is None else encode_metadata(change.metadata)
        card = None if change.card is None else check_card(change.card)
        with self._database.write() as session:
            model, version = find_version(session, project, reference)
            version.details = version.details if metadata is None else metadata
            version.card = version.card if card is None else card
            model.updated_at = self._clock()
            return version_info(session, model, version)

    def delete(self, reference: str, *, project: str = DEFAULT_PROJECT) -> None:
        """Delete one version; its files go with the next garbage collection.

        Raises NotFound, and Conflict while an alias stands at it, a deployment runs it, a job is about it or a gate measures
        losses against it.
        """
        target = parse_reference(reference)
        if target.number is None and target.alias is None:
            raise InvalidInput(
                f"{reference!r} does not say which version to delete.",
                next_step=f"Write {reference}:NUMBER.",
                code="no_version",
            )
        with self._database.write() as session:
            model, version = find_version(session, project, target)
            refuse_while_deployed(session, f"{model.name}:{version.number}", [version.id])
            refuse_while_aliased(session, model.name, version.number, version.id)
            exact = f"{model.name}:{version.number}"
            refuse_while_in_jobs(session, exact, project, [version.id], {exact})
            refuse_while_baseline(session, project, f"{model.name}:{version.number}")
            version.deleted_at = model.updated_at = self._clock()
            session.execute(delete(VersionFileRow).where(VersionFileRow.version_id == version.id))
            session.flush()
            _sum_up(session, model)

    def read_file(self, reference: str, path: str, *, project: str = DEFAULT_PROJECT) -> tuple[FileEntry, Iterator[bytes]]:
        """A file of a version: what it is, and its bytes in pieces. Raises NotFound."""
        with self._database.read() as session:
            model, version = find_version(session, project, reference)
            row = session.get(VersionFileRow, (version.id, path)) if path.isprintable() else None
            if row is None:
                raise NotFound(
                    f"{model.name}:{version.number} has no file {path[:120]!r}.",
                    code="file_not_found",
                    next_step=f"openmaas show {model.name}:{version.number} lists its files.",
                )
            entry = FileEntry(path=row.path, size=row.size, sha256=row.sha256)
        return entry, self._blobs.read(entry.sha256)


def version_info(session: Session, model: ModelRow, version: VersionRow) -> VersionInfo:
    """A version as the API shows it."""
    aliases = session.scalars(select(AliasRow.alias).where(AliasRow.version_id == version.id).order_by(AliasRow.alias))
    return _info(model, version, list(aliases))


def _info(model: ModelRow, version: VersionRow, aliases: list[str]) -> VersionInfo:
    return VersionInfo(
        model=model.name,
        project=version.project,
        number=version.number,
        digest=version.digest,
        format=version.format,
        engine=version.engine,
        size=version.size,
        manifest=msgspec.json.decode(version.manifest),
        metadata=msgspec.json.decode(version.details),
        card=version.card,
        aliases=aliases,
        created_at=version.created_at,
        created_by=version.created_by,
        parent=version.parent,
        recipe=version.recipe,
    )


def _load(session: Session, model: ModelRow, numbers: Sequence[int]) -> list[VersionInfo]:
    aliases: dict[int, list[str]] = {number: [] for number in numbers}
    standing = select(AliasRow).where(AliasRow.model_id == model.id, AliasRow.number.in_(numbers)).order_by(AliasRow.alias)
    for row in session.scalars(standing):
        aliases[row.number].append(row.alias)
    query = select(VersionRow).where(VersionRow.model_id == model.id, VersionRow.number.in_(numbers))
    found = session.scalars(query.order_by(VersionRow.number.desc()))
    return [_info(model, version, aliases[version.number]) for version in found]


def _sum_up(session: Session, model: ModelRow) -> None:
    """Write what the model's row says of its versions anew, after one is gone."""
    live = select(VersionRow).where(VersionRow.model_id == model.id, VersionRow.deleted_at.is_(None))
    newest = session.scalar(live.order_by(VersionRow.number.desc()).limit(1))
    model.versions -= 1
    model.latest = None if newest is None else newest.number
    model.format = None if newest is None else newest.format
    model.size = 0 if newest is None else newest.size

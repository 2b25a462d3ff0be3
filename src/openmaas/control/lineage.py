"""Lineage: what a version was made of, and what was made of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from openmaas.control.references import find_version
from openmaas.core.errors import OpenMaaSError
from openmaas.core.made import Made, read_made
from openmaas.core.names import DEFAULT_PROJECT, parse_reference
from openmaas.core.recipes import Distil, Merge, Recipe
from openmaas.core.resources import Lineage, LineageLink, LineageNode
from openmaas.store.database import Database
from openmaas.store.tables import AliasRow, DatasetRow, DatasetVersionRow, EvaluationRow, ModelRow, VariantRow, VersionRow

MOST_NODES: Final = 500
_Found = tuple[ModelRow, VersionRow]


class _Quality(msgspec.Struct):
    """What is read of an evaluation."""

    metric: str
    metrics: dict[str, Any] = {}


class _Loss(msgspec.Struct):
    """What is read of a comparison's entrant."""

    loss: dict[str, Any] | None = None


class LineageService:
    """Tells of versions that were made of each other, those that are deleted too."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, reference: str, *, project: str = DEFAULT_PROJECT, most: int = MOST_NODES) -> Lineage:
        """A version, its ancestors up to the first, and all that was made of it; at most so many. Raises NotFound."""
        with self._database.read() as session:
            start = find_version(session, project, reference)
            found, complete = _family(session, project, start, most)
            return Lineage(version=_name(start), nodes=_nodes(session, project, found), complete=complete)


def _name(found: _Found) -> str:
    return f"{found[0].name}:{found[1].number}"


def _family(session: Session, project: str, start: _Found, most: int) -> tuple[list[_Found], bool]:
    """Ancestors from the first one on, the version itself, descendants by generation; and whether these are all."""
    ancestors: list[_Found] = []
    seen = {_name(start)}
    parent = start[1].parent
    while parent is not None and parent not in seen and len(seen) < most:
        found = _row(session, project, parent)
        if found is None:
            break
        ancestors.append(found)
        seen.add(parent)
        parent = found[1].parent
    complete = parent is None or len(seen) < most
    family = [*reversed(ancestors), start]
    generation = [_name(start)]
    while generation and len(family) < most:
        query = select(ModelRow, VersionRow).join(VersionRow, VersionRow.model_id == ModelRow.id)
        query = query.where(VersionRow.project == project, VersionRow.parent.in_(generation))
        rows = session.execute(query.order_by(ModelRow.name, VersionRow.number).limit(most)).all()
        children = [(model, version) for model, version in rows if f"{model.name}:{version.number}" not in seen]
        complete = complete and len(family) + len(children) <= most and len(rows) < most
        children = children[: most - len(family)]
        family += children
        generation = [_name(child) for child in children]
        seen.update(generation)
    if generation and complete:
        made = select(VersionRow.id).where(VersionRow.project == project, VersionRow.parent.in_(generation))
        complete = session.scalar(made.limit(1)) is None
    return family, complete


def _row(session: Session, project: str, reference: str) -> _Found | None:
    """A version that may be deleted."""
    try:
        target = parse_reference(reference)
    except OpenMaaSError:
        return None
    query = select(ModelRow, VersionRow).join(VersionRow, VersionRow.model_id == ModelRow.id)
    query = query.where(ModelRow.project == project, ModelRow.name == target.model, VersionRow.number == target.number)
    found = session.execute(query).first()
    return None if found is None else (found[0], found[1])


def _nodes(session: Session, project: str, family: Sequence[_Found]) -> list[LineageNode]:
    versions = [version for _, version in family]
    aliases: dict[int, list[str]] = defaultdict(list)
    standing = select(AliasRow).where(AliasRow.version_id.in_([version.id for version in versions])).order_by(AliasRow.alias)
    for row in session.scalars(standing):
        aliases[row.version_id].append(row.alias)
    digests = {version.digest for version in versions}
    qualities = {row.digest: _quality(row) for row in _newest(session, EvaluationRow, project, digests)}
    compared = {row.digest: _compared(row) for row in _newest(session, VariantRow, project, digests)}
    return [
        _node(session, project, found, aliases[found[1].id], qualities.get(found[1].digest), compared.get(found[1].digest, {}))
        for found in family
    ]


def _newest(session: Session, table: Any, project: str, digests: set[str]) -> Any:
    """A few at a time: a result has up to a mebibyte."""
    newest = select(func.max(table.id)).where(table.project == project, table.digest.in_(digests)).group_by(table.digest)
    return session.scalars(select(table).where(table.id.in_(newest)).execution_options(yield_per=8))


def _node(
    session: Session,
    project: str,
    found: _Found,
    aliases: list[str],
    quality: dict[str, Any] | None,
    compared: Mapping[str, Any],
) -> LineageNode:
    version = found[1]
    made = read_made(version.recipe)
    return LineageNode(
        version=_name(found),
        number=version.number,
        digest=version.digest,
        format=version.format,
        size=version.size,
        deleted=version.deleted_at is not None,
        aliases=aliases,
        created_at=version.created_at,
        created_by=version.created_by,
        parent=version.parent,
        recipe=made.label,
        details=made.details,
        links=[*_links(session, project, made.recipe), *_lost(session, project, made)],
        quality=quality,
        **compared,
    )


def _links(session: Session, project: str, recipe: Recipe | None) -> list[LineageLink]:
    """Versions that steps name."""
    named: list[tuple[str, str]] = []
    for step in recipe.steps if recipe is not None else ():
        if isinstance(step, Distil):
            named += [("teacher", step.teacher), ("student", step.student)]
        elif isinstance(step, Merge):
            named += [*(("merged", one) for one in step.versions), ("base", step.base)]
    links = []
    for role, reference in dict.fromkeys(pair for pair in named if pair[1]):
        row = _row(session, project, reference)
        links.append(LineageLink(role=role, version=reference, deleted=row is None or row[1].deleted_at is not None))
    return links


def _lost(session: Session, project: str, made: Made) -> list[LineageLink]:
    """Datasets without which it cannot be made again."""
    lost = []
    for role, reference in made.datasets.items():
        row = _dataset(session, project, reference)
        if row is None:
            lost.append(LineageLink(role=role, version=reference, deleted=True))
        elif row.deleted_at is not None:
            why = f": {row.deleted_for}" if row.deleted_for else ""
            lost.append(LineageLink(role=role, version=reference, deleted=True, note=f"by {row.deleted_by or 'somebody'}{why}"))
    return lost


def _dataset(session: Session, project: str, reference: str) -> DatasetVersionRow | None:
    """A version that may be deleted."""
    try:
        target = parse_reference(reference)
    except OpenMaaSError:
        return None
    query = select(DatasetVersionRow).join(DatasetRow, DatasetRow.id == DatasetVersionRow.dataset_id)
    query = query.where(DatasetRow.project == project, DatasetRow.name == target.model)
    return session.scalar(query.where(DatasetVersionRow.number == target.number))


def _quality(row: EvaluationRow) -> dict[str, Any]:
    found: dict[str, Any] = {"metric": row.metric, "value": row.value, "low": None, "high": None}
    try:
        told = msgspec.json.decode(row.result, type=_Quality)
        found.update(told.metrics.get(row.metric) or {})
    except (msgspec.MsgspecError, TypeError, ValueError):
        pass
    return {**found, "dataset": row.dataset, "job": row.job, "at": row.at}


def _compared(row: VariantRow) -> dict[str, Any]:
    """What a node tells of it."""
    try:
        lost = msgspec.json.decode(row.result, type=_Loss).loss
    except msgspec.MsgspecError:
        lost = None
    return {"loss": lost, "baseline": row.baseline, "dominated": row.dominated}

"""Models: the registered names."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from openmaas.control.aliases import remove_all
from openmaas.control.gate_rows import refuse_while_gated
from openmaas.control.paging import DEFAULT_LIMIT, check_limit, make_page
from openmaas.control.references import find_model
from openmaas.control.usage import refuse_while_deployed, refuse_while_in_jobs
from openmaas.core.errors import InvalidInput
from openmaas.core.names import DEFAULT_PROJECT
from openmaas.core.resources import ModelSummary, Page
from openmaas.store.database import Database
from openmaas.store.tables import AliasRow, ModelRow, VersionFileRow, VersionRow

_AFTER_ALL_NAMES = "\x7f"  # names are ASCII


class ModelService:
    """Lists, shows and deletes models. They are made by their first version."""

    def __init__(self, database: Database, changed: Callable[[], None], clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._changed = changed
        self._clock = clock

    def list(
        self, *, project: str = DEFAULT_PROJECT, prefix: str = "", after: str | None = None, limit: int = DEFAULT_LIMIT
    ) -> Page[ModelSummary]:
        """A page of the models whose name begins with `prefix`, by name. Raises InvalidInput."""
        check_limit(limit)
        condition = [ModelRow.project == project, ModelRow.versions > 0]
        if prefix:
            condition += [ModelRow.name >= _plain(prefix), ModelRow.name < prefix + _AFTER_ALL_NAMES]
        rows = select(ModelRow).where(*condition).order_by(ModelRow.name).limit(limit + 1)
        if after is not None:
            rows = rows.where(ModelRow.name > _plain(after))
        with self._database.read() as session:
            total = session.scalar(select(func.count()).select_from(ModelRow).where(*condition)) or 0
            found = session.scalars(rows).all()
            return make_page(found, limit, total, lambda row: row.name, lambda shown: _summaries(session, shown))

    def get(self, name: str, *, project: str = DEFAULT_PROJECT) -> ModelSummary:
        """Raises NotFound."""
        with self._database.read() as session:
            return _summaries(session, [find_model(session, project, name)])[0]

    def delete(self, name: str, *, actor: str, project: str = DEFAULT_PROJECT) -> None:
        """Delete all its versions and aliases; the numbers go on if it comes back. Raises NotFound, Conflict while in use."""
        now = self._clock()
        with self._database.write() as session:
            model = find_model(session, project, name)
            live = select(VersionRow.id).where(VersionRow.model_id == model.id, VersionRow.deleted_at.is_(None))
            numbers = select(VersionRow.number).where(VersionRow.model_id == model.id, VersionRow.deleted_at.is_(None))
            ids, exact = session.scalars(live).all(), {f"{name}:{number}" for number in session.scalars(numbers)}
            refuse_while_deployed(session, f"The model {name!r}", ids)
            refuse_while_in_jobs(session, f"The model {name!r}", project, ids, exact)
            refuse_while_gated(session, model)
            remove_all(session, model, actor, now)
            session.execute(delete(VersionFileRow).where(VersionFileRow.version_id.in_(live)))
            session.execute(
                update(VersionRow)
                .where(VersionRow.model_id == model.id, VersionRow.deleted_at.is_(None))
                .values(deleted_at=now)
            )
            model.versions, model.latest, model.format, model.size, model.updated_at = 0, None, None, 0, now
        self._changed()


def _plain(text: str) -> str:
    if not text.isascii() or not text.isprintable():
        raise InvalidInput(f"No model name begins like {text[:80]!r}.", code="invalid_name")
    return text


def _summaries(session: Session, models: Sequence[ModelRow]) -> list[ModelSummary]:
    aliases: dict[int, dict[str, int]] = {model.id: {} for model in models}
    for row in session.scalars(select(AliasRow).where(AliasRow.model_id.in_(aliases)).order_by(AliasRow.alias)):
        aliases[row.model_id][row.alias] = row.number
    return [
        ModelSummary(
            name=model.name,
            project=model.project,
            versions=model.versions,
            latest=model.latest,
            format=model.format,
            size=model.size,
            aliases=aliases[model.id],
            updated_at=model.updated_at,
        )
        for model in models
    ]

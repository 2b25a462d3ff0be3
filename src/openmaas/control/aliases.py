"""Aliases: names that move between a model's versions. Every move is a row that stays.

A rollback undoes the newest move that is not undone yet, so that rolling back again walks further back:

    set 1, set 2, set 3      champion → 3
    rollback                 champion → 2
    rollback                 champion → 1
    set 4, rollback          champion → 1
    rollback                 refused: there is nothing before

Removing is a move like any other: a rollback after it brings the alias back. A gate (control/gates.py) is asked before an
alias is set. It does not stop a rollback, since there the alias stood already, and what it says of it is kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from openmaas.control.gates import ROLLBACK, GateService, Wish, check_force
from openmaas.control.paging import DEFAULT_LIMIT, check_limit, make_page, number_after
from openmaas.control.references import find_model, find_version
from openmaas.core.errors import Conflict, NotFound
from openmaas.core.names import DEFAULT_PROJECT, Reference, check_alias
from openmaas.core.resources import AliasMove, Page
from openmaas.store.database import Database
from openmaas.store.tables import AliasMoveRow, AliasRow, ModelRow, VersionRow


class AliasService:
    """Moves aliases and tells their history. `changed` is called after each move: gateways know aliases too."""

    def __init__(
        self,
        database: Database,
        changed: Callable[[], None],
        clock: Callable[[], float] = time.time,
        gates: GateService | None = None,
    ) -> None:
        self._gates = gates or GateService(database, clock=clock)
        self._database = database
        self._changed = changed
        self._clock = clock

    def set(
        self,
        model: str,
        alias: str,
        number: int,
        *,
        actor: str,
        force: bool = False,
        reason: str = "",
        project: str = DEFAULT_PROJECT,
    ) -> AliasMove:
        """Let the alias stand at a version; where it does already, the move that put it there.

        force: although its gate refuses, for a reason that is kept. Raises NotFound, and Refused by the gate.
        """
        check_alias(alias)
        check_force(force, reason)
        self._gates.prepare(model, "alias", alias, number, project=project)
        with self._database.write() as session:
            row, version = find_version(session, project, Reference(model, number=number))
            last = _last_move(session, row, alias)
            if last is not None and last.number == number:
                return _view(last, model)
            previous = None if last is None else last.number
            wish = Wish(
                target="alias",
                name=alias,
                model=row,
                version=version,
                previous=previous,
                actor=actor,
                force=force,
                reason=reason,
            )
            refusal = self._gates.decide(session, wish)
            if refusal is None:
                base = None if last is None else last.id
                move = self._move(session, row, alias, version, base=base, previous=last, action="set", actor=actor)
        if refusal is not None:
            raise refusal
        self._changed()
        return _view(move, model)

    def remove(self, model: str, alias: str, *, actor: str, project: str = DEFAULT_PROJECT) -> AliasMove:
        """Raises NotFound where there is no such alias."""
        check_alias(alias)
        with self._database.write() as session:
            row = find_model(session, project, model)
            last = _last_move(session, row, alias)
            if last is None or last.number is None:
                raise _no_alias(model, alias)
            move = self._move(session, row, alias, None, base=last.id, previous=last, action="remove", actor=actor)
        self._changed()
        return _view(move, model)

    def rollback(self, model: str, alias: str, *, actor: str, project: str = DEFAULT_PROJECT) -> AliasMove:
        """Move the alias back to where it stood before. Raises NotFound, and Conflict where nothing is before or it is gone."""
        check_alias(alias)
        with self._database.read() as session:
            _, last, before = _before(session, project, model, alias)
        if before.number is not None:
            self._gates.prepare(model, "alias", alias, before.number, project=project)
        with self._database.write() as session:
            row, last, before = _before(session, project, model, alias)
            version = _version_before(session, row, alias, before)
            if version is not None:
                self._gates.decide(
                    session,
                    Wish(
                        target="alias", name=alias, model=row, version=version, previous=last.number, actor=actor, force=True,
                        reason=ROLLBACK,
                    ),
                )  # fmt: skip
            move = self._move(session, row, alias, version, base=before.base, previous=last, action="rollback", actor=actor)
        self._changed()
        return _view(move, model)

    def history(
        self, model: str, *, project: str = DEFAULT_PROJECT, after: str | None = None, limit: int = DEFAULT_LIMIT
    ) -> Page[AliasMove]:
        """A page of all moves of the model's aliases, newest first. Raises NotFound."""
        check_limit(limit)
        before = number_after(after)
        with self._database.read() as session:
            row = find_model(session, project, model)
            moves = select(AliasMoveRow).where(AliasMoveRow.model_id == row.id)
            total = session.scalar(select(func.count()).select_from(moves.subquery())) or 0
            if before is not None:
                moves = moves.where(AliasMoveRow.id < before)
            found = session.scalars(moves.order_by(AliasMoveRow.id.desc()).limit(limit + 1)).all()
            return make_page(found, limit, total, lambda move: move.id, lambda shown: [_view(move, model) for move in shown])

    def _move(
        self,
        session: Session,
        model: ModelRow,
        alias: str,
        version: VersionRow | None,
        *,
        base: int | None,
        previous: AliasMoveRow | None,
        action: str,
        actor: str,
    ) -> AliasMoveRow:
        move = AliasMoveRow(
            project=model.project,
            model_id=model.id,
            alias=alias,
            number=None if version is None else version.number,
            previous=None if previous is None else previous.number,
            base=base,
            action=action,
            actor=actor,
            at=self._clock(),
        )
        session.add(move)
        session.flush()
        _stand(session, model, alias, version, move)
        model.updated_at = move.at
        return move


def remove_all(session: Session, model: ModelRow, actor: str, at: float) -> None:
    """Remove every alias of a model that is deleted, each with a move of its own."""
    for row in session.scalars(select(AliasRow).where(AliasRow.model_id == model.id)).all():
        session.add(
            AliasMoveRow(
                project=model.project,
                model_id=model.id,
                alias=row.alias,
                number=None,
                previous=row.number,
                base=row.move_id,
                action="remove",
                actor=actor,
                at=at,
            )
        )
        session.delete(row)


def _stand(session: Session, model: ModelRow, alias: str, version: VersionRow | None, move: AliasMoveRow) -> None:
    row = session.get(AliasRow, (model.id, alias))
    if version is None:
        if row is not None:
            session.delete(row)
        return
    if row is None:
        row = AliasRow(model_id=model.id, alias=alias, project=model.project)
        session.add(row)
    row.number, row.version_id, row.move_id = version.number, version.id, move.id


def _last_move(session: Session, model: ModelRow, alias: str) -> AliasMoveRow | None:
    moves = select(AliasMoveRow).where(AliasMoveRow.model_id == model.id, AliasMoveRow.alias == alias)
    return session.scalar(moves.order_by(AliasMoveRow.id.desc()).limit(1))


def _before(session: Session, project: str, model: str, alias: str) -> tuple[ModelRow, AliasMoveRow, AliasMoveRow]:
    """The model, the alias's last move, and the one that a rollback goes back to. Raises NotFound, Conflict."""
    row = find_model(session, project, model)
    last = _last_move(session, row, alias)
    if last is None:
        raise _no_alias(model, alias)
    before = None if last.base is None else session.get_one(AliasMoveRow, last.base)
    if before is None:
        raise Conflict(f"{model}@{alias} stood nowhere before {model}:{last.number}.", code="nothing_before")
    return row, last, before


def _version_before(session: Session, model: ModelRow, alias: str, before: AliasMoveRow) -> VersionRow | None:
    if before.number is None:
        return None
    query = select(VersionRow).where(VersionRow.model_id == model.id, VersionRow.number == before.number)
    version = session.scalars(query).one()
    if version.deleted_at is not None:
        raise Conflict(
            f"{model.name}@{alias} stood at {model.name}:{before.number} before, which is deleted.",
            code="version_deleted",
            next_step=f"openmaas alias {model.name}:{model.latest} {alias} moves it to a version that exists.",
        )
    return version


def _no_alias(model: str, alias: str) -> NotFound:
    return NotFound(
        f"{model} has no alias {alias!r}.", code="alias_not_found", next_step=f"openmaas alias {model} lists its aliases."
    )


def _view(move: AliasMoveRow, model: str) -> AliasMove:
    return AliasMove(
        id=move.id,
        model=model,
        alias=move.alias,
        number=move.number,
        previous=move.previous,
        action=move.action,
        actor=move.actor,
        at=move.at,
    )

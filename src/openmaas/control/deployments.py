"""Deployments: public names with append-only revisions, of which one serves.

deploy     adds a revision that is `starting`, while the older one goes on serving (control/rollout.py finishes it); one that
           was still starting is `superseded`
undeploy   adds a revision too: from then on nothing serves
rollback   undoes the newest move that is not undone yet, as a new revision, so that rolling back again walks further back:

    deploy 1, deploy 2, deploy 3      serves 3
    rollback                          serves 2
    rollback                          serves 1
    rollback                          refused: nothing served before
    undeploy, rollback                serves 1

A gate (control/gates.py) is asked before a deploy. It does not stop a rollback, since what that goes back to served already,
and what it says of it is kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import msgspec
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from openmaas.control.decisions import Decision, ask_gate, enact
from openmaas.control.deployment_logs import LogLines, check_window, read_log
from openmaas.control.deployment_views import view_deployment, view_move, view_replicas
from openmaas.control.gate_rows import refuse_gated_for_another
from openmaas.control.gates import ROLLBACK, GateService, check_force
from openmaas.control.observed import Fleet
from openmaas.control.paging import DEFAULT_LIMIT, check_limit, make_page, number_after
from openmaas.control.references import find_version
from openmaas.control.resolution import decode_resolution
from openmaas.control.revisions import Options, decode_options, options_of
from openmaas.core.errors import Conflict, NotFound
from openmaas.core.manifest import Manifest
from openmaas.core.names import DEFAULT_PROJECT, Reference, check_name
from openmaas.core.resources import DeploymentInfo, DeploymentMove, DeployRequest, Page, ReplicaInfo
from openmaas.store.database import Database
from openmaas.store.tables import DeploymentRevisionRow, DeploymentRow, ModelRow, VersionRow


class Engines(Protocol):
    """openmaas.control.measurements.MeasurementService, or a fake."""

    def prepare(self, reference: str, options: Options, *, actor: str, project: str) -> None: ...

    def choose(self, session: Session, version: VersionRow, options: Options) -> Decision: ...


class DeploymentService:
    """Decides what should run and tells what does. `changed` is called after each decision; `logs` is the folder of logs."""

    def __init__(
        self,
        database: Database,
        fleet: Fleet,
        changed: Callable[[], None],
        logs: Path,
        engines: Engines,
        clock: Callable[[], float] = time.time,
        gates: GateService | None = None,
    ) -> None:
        self._engines = engines
        self._gates = gates or GateService(database, clock=clock)
        self._database = database
        self._fleet = fleet
        self._changed = changed
        self._logs = logs
        self._clock = clock

    # looking

    def list(
        self, *, project: str = DEFAULT_PROJECT, after: str | None = None, limit: int = DEFAULT_LIMIT
    ) -> Page[DeploymentInfo]:
        """A page of the deployments that are not stopped, by name."""
        check_limit(limit)
        condition = [DeploymentRow.project == project, DeploymentRow.state != "stopped"]
        rows = select(DeploymentRow).where(*condition).order_by(DeploymentRow.name).limit(limit + 1)
        if after is not None:
            rows = rows.where(DeploymentRow.name > check_name(after, "deployment"))
        with self._database.read() as session:
            total = session.scalar(select(func.count()).select_from(DeploymentRow).where(*condition)) or 0
            found = session.scalars(rows).all()
            return make_page(
                found, limit, total, lambda row: row.name, lambda shown: [self._view(session, row) for row in shown]
            )

    def states(self, *, project: str = DEFAULT_PROJECT) -> dict[str, str]:
        """The state of each deployment that is not stopped, by name, as it is now and not only as it was written."""
        rows = select(DeploymentRow).where(DeploymentRow.project == project, DeploymentRow.state != "stopped")
        with self._database.read() as session:
            found = session.scalars(rows.order_by(DeploymentRow.name)).all()
            return {row.name: self._view(session, row).state for row in found}

    def get(self, name: str, *, project: str = DEFAULT_PROJECT) -> DeploymentInfo:
        """A stopped deployment too. Raises NotFound."""
        with self._database.read() as session:
            return self._view(session, find_deployment(session, project, name))

    def history(
        self, name: str, *, project: str = DEFAULT_PROJECT, after: str | None = None, limit: int = DEFAULT_LIMIT
    ) -> Page[DeploymentMove]:
        """A page of its revisions, newest first. Raises NotFound."""
        check_limit(limit)
        before = number_after(after)
        with self._database.read() as session:
            row = find_deployment(session, project, name)
            moves = select(DeploymentRevisionRow).where(DeploymentRevisionRow.deployment_id == row.id)
            if before is not None:
                moves = moves.where(DeploymentRevisionRow.revision < before)
            found = session.scalars(moves.order_by(DeploymentRevisionRow.revision.desc()).limit(limit + 1)).all()
            return make_page(
                found, limit, row.revision, lambda move: move.revision, lambda shown: [view_move(move, name) for move in shown]
            )

    def replicas(self, *, project: str = DEFAULT_PROJECT) -> Sequence[ReplicaInfo]:
        """All that run, come up or drain, as the supervisor last told."""
        with self._database.read() as session:
            return view_replicas(session, project, self._fleet.replicas)

    def logs(
        self,
        name: str,
        *,
        lines: int = 200,
        replica: str | None = None,
        offset: int | None = None,
        project: str = DEFAULT_PROJECT,
    ) -> LogLines:
        """What its replicas wrote: the last `lines` lines, or with `offset` those that came since. Raises NotFound."""
        check_window(lines, offset)
        with self._database.read() as session:
            find_deployment(session, project, name)
        return read_log(self._logs / f"{name}.log", lines, replica, offset)

    # deciding

    def deploy(self, request: DeployRequest, *, actor: str, project: str = DEFAULT_PROJECT) -> DeploymentInfo:
        """Start a version under a public name; it serves when all its replicas are ready.

        With the engine `auto`, it waits for the measurement of its engines where one is on its way. With weights that a version
        which generates text has not got yet, it waits for their conversion, and the revision becomes one of its result.
        Raises InvalidInput for an option out of its bounds and for an engine or weights that the version cannot have, NotFound
        for no such version, Conflict where the name stands for another model or the version must be converted first, and
        Refused by the gate. A gate that can be asked only when a job is over fails the revision instead.
        """
        check_force(request.force, request.reason)
        found, generates = self._find(request.version, project)
        options = options_of(request, generates=generates)
        name = check_name(request.name or found.model, "deployment")
        self._gates.prepare(found.model, "deployment", name, found.number or 0, project=project)
        self._engines.prepare(request.version, options, actor=actor, project=project)
        with self._database.write() as session:
            model, version = find_version(session, project, request.version)
            row = _named(session, project, name)
            _refuse_other_model(row, model.name)
            refuse_gated_for_another(session, model, name)
            decision = self._engines.choose(session, version, options)
            refusal = None
            if decision.engine is not None or not generates:  # else it is not known yet which variant will serve
                refusal = ask_gate(
                    session, self._gates, decision, options,
                    name=name, previous=_serves(session, row), actor=actor, settled=decision.engine is not None,
                )  # fmt: skip
            if refusal is None:
                row = row or self._create(session, project, name, model.name, actor)
                base = _served_before(session, row)
                same = base is not None and base.model == model.name
                self._start(
                    session, row, model.name, version, options, "deploy", base.revision if base and same else None, actor
                )
                enact(session, find_revision(session, row, row.revision), decision, self._clock())
                info = self._view(session, row)
        if refusal is not None:
            raise refusal
        self._changed()
        return info

    def rollback(self, name: str, *, actor: str, project: str = DEFAULT_PROJECT) -> DeploymentInfo:
        """Back to what served before the newest revision. Raises NotFound, and Conflict where nothing did or it is deleted."""
        with self._database.write() as session:
            row = find_deployment(session, project, name)
            newest = find_revision(session, row, row.revision)
            if newest.base is None:
                raise Conflict(
                    f"Nothing served under the name {name!r} before {newest.model}:{newest.number}.", code="nothing_before"
                )
            target = find_revision(session, row, newest.base)
            version = session.get_one(VersionRow, target.version_id)
            if version.deleted_at is not None:
                raise Conflict(
                    f"{target.model}:{target.number}, which served before, is deleted.",
                    code="version_deleted",
                    next_step=f"openmaas deploy {target.model}:NUMBER --as {name}",
                )
            options = decode_options(target.options)
            model = session.get_one(ModelRow, version.model_id)
            refuse_gated_for_another(session, model, name)
            previous = _serves(session, row)
            self._start(session, row, target.model, version, options, "rollback", target.base, actor)
            find_revision(session, row, row.revision).engine = target.engine
            served = Decision(version, decode_resolution(target.engine))
            forced = msgspec.structs.replace(options, force=True, reason=ROLLBACK)
            ask_gate(session, self._gates, served, forced, name=name, previous=previous, actor=actor)
            info = self._view(session, row)
        self._changed()
        return info

    def undeploy(self, name: str, *, actor: str, project: str = DEFAULT_PROJECT) -> DeploymentInfo:
        """Stop serving under this name; a rollback brings it back. Raises NotFound, also where it is stopped already."""
        with self._database.write() as session:
            row = find_deployment(session, project, name)
            if row.state == "stopped":
                raise NotFound(f"Deployment {name!r} is stopped already.", code="deployment_not_found")
            newest, base = find_revision(session, row, row.revision), _served_before(session, row)
            if row.serving is not None:
                find_revision(session, row, row.serving).state = "stopped"
            last = base if row.serving is not None and base is not None else newest
            version = session.get_one(VersionRow, last.version_id)
            options = decode_options(last.options)
            self._append(session, row, last.model, version, options, "undeploy", base.revision if base else None, actor)
            row.serving, row.state = None, "stopped"
            info = self._view(session, row)
        self._changed()
        return info

    def _find(self, reference: str, project: str) -> tuple[Reference, bool]:
        """The exact version, and whether it generates text."""
        with self._database.read() as session:
            model, version = find_version(session, project, reference)
            generates = msgspec.json.decode(version.manifest, type=Manifest).generator is not None
            return Reference(model.name, number=version.number), generates

    # rows

    def _create(self, session: Session, project: str, name: str, model: str, actor: str) -> DeploymentRow:
        now = self._clock()
        row = DeploymentRow(
            project=project, name=name, model=model, revision=0, state="starting", actor=actor, created_at=now, updated_at=now
        )
        session.add(row)
        session.flush()
        return row

    def _start(
        self,
        session: Session,
        row: DeploymentRow,
        model: str,
        version: VersionRow,
        options: Options,
        action: str,
        base: int | None,
        actor: str,
    ) -> None:
        _refuse_other_model(row, model)
        self._append(session, row, model, version, options, action, base, actor)
        row.model, row.state = model, "starting" if row.serving is None else "updating"

    def _append(
        self,
        session: Session,
        row: DeploymentRow,
        model: str,
        version: VersionRow,
        options: Options,
        action: str,
        base: int | None,
        actor: str,
    ) -> None:
        """Add a revision. The one before, if it is still starting, will not be needed."""
        if row.revision:
            newest = find_revision(session, row, row.revision)
            newest.state = "superseded" if newest.state == "starting" else newest.state
        now = self._clock()
        row.revision, row.actor, row.updated_at = row.revision + 1, actor, now
        session.add(
            DeploymentRevisionRow(
                deployment_id=row.id,
                project=row.project,
                revision=row.revision,
                model=model,
                version_id=version.id,
                number=version.number,
                action=action,
                state="stopped" if action == "undeploy" else "starting",
                options=msgspec.json.encode(options).decode(),
                base=base,
                actor=actor,
                at=now,
            )
        )
        session.flush()

    def _view(self, session: Session, row: DeploymentRow) -> DeploymentInfo:
        newest = find_revision(session, row, row.revision)
        serving = find_revision(session, row, row.serving) if row.serving is not None else None
        return view_deployment(row, newest, serving, self._fleet)


def find_deployment(session: Session, project: str, name: str) -> DeploymentRow:
    """The deployment, or NotFound."""
    row = _named(session, project, check_name(name, "deployment"))
    if row is None:
        raise NotFound(
            f"Nothing was ever deployed under the name {name!r}.",
            code="deployment_not_found",
            next_step="openmaas ps shows what runs.",
        )
    return row


def find_revision(session: Session, row: DeploymentRow, number: int) -> DeploymentRevisionRow:
    query = select(DeploymentRevisionRow).where(
        DeploymentRevisionRow.deployment_id == row.id, DeploymentRevisionRow.revision == number
    )
    return session.scalars(query).one()


def _refuse_other_model(row: DeploymentRow | None, model: str) -> None:
    if row is not None and row.serving is not None and row.model != model:
        raise Conflict(
            f"Deployment {row.name!r} serves the model {row.model!r}, not {model!r}.",
            code="other_model",
            next_step=f"Choose another name with --as, or openmaas undeploy {row.name} first.",
        )


def _serves(session: Session, row: DeploymentRow | None) -> int | None:
    """The number of the version that answers."""
    return None if row is None or row.serving is None else find_revision(session, row, row.serving).number


def _named(session: Session, project: str, name: str) -> DeploymentRow | None:
    return session.scalar(select(DeploymentRow).where(DeploymentRow.project == project, DeploymentRow.name == name))


def _served_before(session: Session, row: DeploymentRow) -> DeploymentRevisionRow | None:
    """What a rollback of the next revision goes back to: the serving one; where none serves, what the newest would go to."""
    number = row.serving
    if number is None and row.revision:
        number = find_revision(session, row, row.revision).base
    return None if number is None else find_revision(session, row, number)

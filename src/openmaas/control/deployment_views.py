"""Deployments, their history and their replicas as people see them: rows together with what runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from openmaas.control.observed import Fleet
from openmaas.control.resolution import decode_resolution
from openmaas.control.revisions import cause_info, count_ready, decode_cause, decode_options, failure, replica_ids
from openmaas.core.contracts import Cause, ReplicaStatus
from openmaas.core.resources import DeploymentInfo, DeploymentMove, EngineInfo, ReplicaInfo
from openmaas.store.tables import DeploymentRevisionRow, DeploymentRow

State = Literal["starting", "ready", "updating", "failed", "stopped"]


def view_deployment(
    row: DeploymentRow, newest: DeploymentRevisionRow, serving: DeploymentRevisionRow | None, fleet: Fleet
) -> DeploymentInfo:
    """Counted are the replicas of the revision that is starting, else of the one that serves."""
    shown = newest if newest.state == "starting" else serving
    options = decode_options((shown or newest).options)
    ids = [] if shown is None else replica_ids(row.project, row.name, shown.revision, options.replicas)
    ready = count_ready(ids, fleet.replicas)
    cause = decode_cause(newest.cause) or failure(ids, fleet.replicas)
    return DeploymentInfo(
        name=row.name,
        project=row.project,
        model=row.model,
        state=_state(row, ready, cause, fleet),
        revision=row.revision,
        version=newest.number,
        serving=serving.number if serving is not None else None,
        replicas=len(ids),
        ready=ready,
        options=options.as_dict,
        cause=cause_info(cause),
        updated_at=row.updated_at,
        actor=row.actor,
        engine=_engine(shown or newest),
        measuring=newest.measuring if newest.state == "starting" else None,
    )


def _engine(revision: DeploymentRevisionRow) -> EngineInfo | None:
    chosen = decode_resolution(revision.engine)
    return None if chosen is None else EngineInfo(name=chosen.choice.label, threads=chosen.choice.threads, why=chosen.why)


def _state(row: DeploymentRow, ready: int, cause: Cause | None, fleet: Fleet) -> State:
    """A row that says `ready` was so when it was written: gateways may not have heard of it yet, its replicas may have ended
    since, or be on their way again."""
    if row.state != "ready" or fleet.routed is None:
        return row.state
    routed = fleet.routed.get((row.project, row.name))
    if routed != row.serving:
        return "starting" if routed is None else "updating"
    if ready == 0:
        return "failed" if cause is not None else "starting"
    return "ready"


def view_move(move: DeploymentRevisionRow, deployment: str) -> DeploymentMove:
    return DeploymentMove(
        deployment=deployment,
        revision=move.revision,
        model=move.model,
        version=move.number,
        action=move.action,
        state=move.state,
        cause=cause_info(decode_cause(move.cause)),
        actor=move.actor,
        at=move.at,
    )


def view_replicas(session: Session, project: str, replicas: Mapping[str, ReplicaStatus]) -> list[ReplicaInfo]:
    """By id. The rows tell which version each one holds; a replica that no row knows is left out."""
    known = _holders(session, project, set(replicas))
    return [_view_replica(replicas[name], *known[name]) for name in sorted(known)]


def _holders(session: Session, project: str, names: set[str]) -> dict[str, tuple[str, int]]:
    """Deployment and version number by replica id."""
    revisions = {int(name.rsplit("-", 2)[1]) for name in names}
    rows = session.execute(
        select(DeploymentRow.name, DeploymentRevisionRow)
        .join(DeploymentRevisionRow, DeploymentRevisionRow.deployment_id == DeploymentRow.id)
        .where(DeploymentRow.project == project, DeploymentRevisionRow.revision.in_(revisions))
    )
    return {
        name: (deployment, revision.number)
        for deployment, revision in rows
        for name in replica_ids(project, deployment, revision.revision, decode_options(revision.options).replicas)
        if name in names
    }


def _view_replica(status: ReplicaStatus, deployment: str, number: int) -> ReplicaInfo:
    return ReplicaInfo(
        id=status.id,
        deployment=deployment,
        version=number,
        pid=status.pid,
        state=status.state,
        restarts=status.restarts,
        memory=status.memory,
        since=status.since,
        cause=cause_info(status.cause),
    )

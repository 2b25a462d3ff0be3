"""Moves deployments on by what the supervisor tells: all replicas of a new revision ready, or one of them down for good."""

from __future__ import annotations

import time
from collections.abc import Callable

from sqlalchemy import select
from sqlalchemy.orm import Session

from openmaas.control.decisions import fail
from openmaas.control.deployments import find_revision
from openmaas.control.observed import Fleet
from openmaas.control.revisions import all_ready, failure
from openmaas.control.snapshots import Hub, Running, running_revisions
from openmaas.core.contracts import Observed
from openmaas.core.log import get_logger
from openmaas.store.database import Database
from openmaas.store.tables import DeploymentRow

_log = get_logger("deployment")


class Rollout:
    """Takes each Observed. Decisions are single transactions, and pushed at once."""

    def __init__(self, database: Database, fleet: Fleet, hub: Hub, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._fleet = fleet
        self._hub = hub
        self._clock = clock

    def observe(self, observed: Observed) -> None:
        """Remember what runs, finish the revisions that came up or failed, and tell everyone what changed by it."""
        moved = self._fleet.take(observed)
        if self._decide() or moved or self._hub.outdated:
            self._hub.publish()

    def _decide(self) -> bool:
        with self._database.read() as session:
            if not _anything_starts(session) or not any(self._settled(one) for one in _starting(session)):
                return False
        with self._database.write() as session:
            for one in _starting(session):
                self._settle(session, one)
        return True

    def _settled(self, one: Running) -> bool:
        seen = self._fleet.replicas
        return all_ready(one.ids, seen) or failure(one.ids, seen) is not None

    def _settle(self, session: Session, one: Running) -> None:
        cause = failure(one.ids, self._fleet.replicas)
        if cause is not None:
            fail(one.deployment, one.revision, cause, self._clock())
        elif all_ready(one.ids, self._fleet.replicas):
            self._serve(session, one)

    def _serve(self, session: Session, one: Running) -> None:
        row = one.deployment
        if row.serving is not None:
            find_revision(session, row, row.serving).state = "superseded"
        one.revision.state = row.state = "ready"
        row.serving, row.updated_at = one.revision.revision, self._clock()
        _log.info("serves", name=row.name, version=one.revision.number, revision=one.revision.revision)


def _anything_starts(session: Session) -> bool:
    """Nearly always it does not, and then nothing else need be read."""
    return (
        session.scalar(select(DeploymentRow.id).where(DeploymentRow.state.in_(("starting", "updating"))).limit(1)) is not None
    )


def _starting(session: Session) -> list[Running]:
    return [one for one in running_revisions(session) if one.revision.state == "starting"]

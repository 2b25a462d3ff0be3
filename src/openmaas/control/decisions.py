"""What becomes of a revision that is starting: a version and the engine that serves it, a job that it waits for, or a failure.

A generator may be deployed with weights that it was not pushed with. What serves then is a variant, a version of its own with
its own number and digest, and the revision becomes one of that version as soon as the variant is known. So traffic goes to the
number that answers, `ps`, `history` and aliases name what really runs, and a rollback brings exactly that version back, without
asking again which weights are best. Until then the revision names the version that was asked for. The options keep what was
asked for.

The deployment's gate is asked about the version and the engine that will serve, as soon as both are known. And so are the
gates of aliases that stand at the version, where the engine is another than theirs were asked about: whoever asks for the alias
would be answered by it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from openmaas.control.gates import GateService, Wish
from openmaas.control.resolution import Resolution
from openmaas.control.revisions import Options
from openmaas.core.contracts import Cause
from openmaas.core.errors import Refused
from openmaas.core.log import get_logger
from openmaas.store.tables import AliasRow, DeploymentRevisionRow, DeploymentRow, ModelRow, VersionRow

_log = get_logger("deployment")


class Decision(NamedTuple):
    """Of engine, job and cause exactly one is given."""

    version: VersionRow
    engine: Resolution | None = None
    job: str = ""
    cause: Cause | None = None


def ask_gate(
    session: Session,
    gates: GateService,
    decision: Decision,
    options: Options,
    *,
    name: str,
    previous: int | None,
    actor: str,
    settled: bool = True,
) -> Refused | None:
    """Whether the deployment's gate, and those of the version's aliases, let the decision serve; as GateService.decide.
    settled: nothing is left to be measured."""
    if decision.cause is not None:
        return None  # nothing will serve
    wish = Wish(
        target="deployment",
        name=name,
        model=session.get_one(ModelRow, decision.version.model_id),
        version=decision.version,
        previous=previous,
        actor=actor,
        force=options.force,
        reason=options.reason,
        engine=decision.engine.choice.label if decision.engine is not None else "",
        pending=not settled,
    )
    refusal = gates.decide(session, wish)
    if refusal is not None or not settled or gates.known_to_serve(session, decision.version, wish.engine):
        return refusal
    standing = select(AliasRow.alias).where(AliasRow.version_id == decision.version.id).order_by(AliasRow.alias)
    for alias in session.scalars(standing).all():
        asked = replace(wish, target="alias", name=alias, previous=decision.version.number)
        if (refusal := gates.decide(session, asked)) is not None:
            return refusal
    return None


def enact(session: Session, row: DeploymentRevisionRow, decision: Decision, now: float) -> None:
    """Write it into the revision, and a failure into its deployment too."""
    row.version_id, row.number = decision.version.id, decision.version.number
    row.measuring = decision.job or None
    row.engine = msgspec.json.encode(decision.engine).decode() if decision.engine is not None else None
    if decision.cause is not None:
        fail(session.get_one(DeploymentRow, row.deployment_id), row, decision.cause, now)
    elif decision.engine is not None:
        engine = decision.engine
        _log.info("chosen", version=f"{row.model}:{row.number}", engine=engine.choice.label, why=engine.why)


def fail(deployment: DeploymentRow, revision: DeploymentRevisionRow, cause: Cause, now: float) -> None:
    """The newest revision does not come up. What served before goes on serving."""
    revision.state = deployment.state = "failed"
    revision.cause = msgspec.json.encode(cause).decode()
    deployment.updated_at = now
    _log.warning("failed", name=deployment.name, version=revision.number, code=cause.code, cause=cause.message)

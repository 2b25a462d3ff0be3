"""Who uses a version: what must not be deleted, and what to do first."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from openmaas.control.job_rows import OPEN, job_id
from openmaas.core.errors import Conflict
from openmaas.store.tables import AliasRow, DeploymentRevisionRow, DeploymentRow, JobRow


def refuse_while_deployed(session: Session, what: str, version_ids: Sequence[int]) -> None:
    """Raises Conflict when the newest or the serving revision of a deployment that is not stopped runs one of the versions."""
    revision = DeploymentRevisionRow
    query = (
        select(DeploymentRow.name, revision.model, revision.number)
        .join(revision, revision.deployment_id == DeploymentRow.id)
        .where(DeploymentRow.state != "stopped", revision.version_id.in_(version_ids))
        .where((revision.revision == DeploymentRow.revision) | (revision.revision == DeploymentRow.serving))
        .order_by(DeploymentRow.name)
        .limit(1)
    )
    found = session.execute(query).first()
    if found is not None:
        name, model, number = found
        raise Conflict(
            f"{what} is in use: the deployment {name!r} runs {model}:{number}.",
            code="version_deployed",
            next_step=f"openmaas undeploy {name}, or deploy another version there.",
        )


def refuse_while_aliased(session: Session, model: str, number: int, version_id: int) -> None:
    """Raises Conflict when an alias stands at the version."""
    alias = session.scalar(select(AliasRow.alias).where(AliasRow.version_id == version_id).order_by(AliasRow.alias).limit(1))
    if alias is not None:
        raise Conflict(
            f"{model}:{number} is in use: the alias {model}@{alias} stands at it.",
            code="version_aliased",
            next_step=f"openmaas alias {model}@{alias} --remove, or move it to another version.",
        )


def refuse_while_in_jobs(session: Session, what: str, version_ids: Sequence[int]) -> None:
    """Raises Conflict when a job that has not ended is about one of the versions: it reads their files."""
    busy = select(JobRow.number).where(JobRow.state.in_(OPEN), JobRow.version_id.in_(version_ids))
    number = session.scalar(busy.order_by(JobRow.number).limit(1))
    if number is not None:
        raise Conflict(
            f"{what} is in use: the job {job_id(number)} is about it.",
            code="version_in_job",
            next_step=f"Wait for it, or openmaas jobs cancel {job_id(number)}.",
        )

"""Who uses a version or a dataset: what must not be deleted, and what to do first."""

from __future__ import annotations

from collections.abc import Collection, Sequence, Set

import msgspec
from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from openmaas.control.gate_rows import gate_arguments, live_gates, rules_of, target_label
from openmaas.control.job_rows import OPEN, job_id
from openmaas.core.errors import Conflict, OpenMaaSError
from openmaas.core.jobs import KINDS, OptimizeArguments, check_arguments
from openmaas.core.made import read_made
from openmaas.store.tables import (
    AliasRow,
    DeploymentRevisionRow,
    DeploymentRow,
    EvaluationRow,
    JobRow,
    ModelRow,
    VersionRow,
)


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


def refuse_while_in_jobs(session: Session, what: str, project: str, version_ids: Collection[int], references: Set[str]) -> None:
    """Raises Conflict when a job that has not ended is about one of the versions, or names one: it reads their files.

    references: the exact ones of the same versions.
    """
    busy = select(JobRow.number, JobRow.kind, JobRow.arguments, JobRow.version_id)
    busy = busy.where(JobRow.project == project, JobRow.state.in_(OPEN)).order_by(JobRow.number)
    for number, kind, text, about in session.execute(busy):
        if about in version_ids or references & _named(kind, text):
            raise Conflict(
                f"{what} is in use: the job {job_id(number)} is about it.",
                code="version_in_job",
                next_step=f"Wait for it, or openmaas jobs cancel {job_id(number)}.",
            )


def _named(kind: str, text: str) -> set[str]:
    """The exact references of all versions that a job's arguments name, those in a recipe's steps too."""
    try:
        arguments = check_arguments(kind, msgspec.json.decode(text))
    except OpenMaaSError:  # of another release
        return set()
    named: list[str] = []
    for field in arguments.version_fields:
        value = getattr(arguments, field)
        named += [value] if isinstance(value, str) else value
    recipe = arguments.steps if isinstance(arguments, OptimizeArguments) else None
    return {*named, *(recipe.versions if recipe is not None else ())}


def refuse_while_dataset_gates(session: Session, project: str, references: Collection[str]) -> None:
    """Raises Conflict when the rules of a gate that stands name one of the datasets, given by exact references."""
    for model, gate in live_gates(session, project):
        named = rules_of(gate).dataset
        if named in references:
            raise Conflict(
                f"The dataset {named} is in use: the gate of {target_label(model.name, gate.target, gate.name)} judges by it.",
                code="dataset_in_gate",
                next_step=f"openmaas gate rm {gate_arguments(model.name, gate.target, gate.name)}, or set it with other data.",
            )


def refuse_while_dataset_in_jobs(session: Session, project: str, references: Collection[str]) -> None:
    """Raises Conflict when a job that has not ended reads one of the datasets, given by exact references."""
    busy = select(JobRow.number, JobRow.kind, JobRow.arguments).where(JobRow.project == project, JobRow.state.in_(OPEN))
    for number, kind, text in session.execute(busy.order_by(JobRow.number)):
        arguments = msgspec.json.decode(text)
        fields = KINDS[kind].dataset_fields if kind in KINDS else ()
        named = next((arguments.get(field) for field in fields if arguments.get(field) in references), None)
        if named is not None:
            raise Conflict(
                f"The dataset {named} is in use: the job {job_id(number)} reads it.",
                code="dataset_in_job",
                next_step=f"Wait for it, or openmaas jobs cancel {job_id(number)}.",
            )


def refuse_while_dataset_named(session: Session, project: str, references: Collection[str]) -> None:
    """Raises Conflict when a version that is there was made with one of the datasets, given by exact references, or was
    evaluated on it: neither could be done again."""
    made = _made_with(session, project, references)
    if made is not None:
        version, dataset, role = made
        raise _named_by(dataset, f"{version} was made with it ({role})", f"openmaas lineage {version} shows how")
    live = select(VersionRow.id).where(
        VersionRow.project == project, VersionRow.digest == EvaluationRow.digest, VersionRow.deleted_at.is_(None)
    )
    where = (EvaluationRow.project == project, EvaluationRow.dataset.in_(references), live.exists())
    newest = session.scalar(select(EvaluationRow).where(*where).order_by(EvaluationRow.id.desc()).limit(1))
    if newest is not None:
        count = session.scalar(select(func.count()).select_from(EvaluationRow).where(*where))
        told = f"{count} evaluations are on it, the newest of {newest.version} by {newest.job}"
        raise _named_by(newest.dataset, told if count != 1 else f"{newest.version} was evaluated on it by {newest.job}", "")


def _made_with(session: Session, project: str, references: Collection[str]) -> tuple[str, str, str] | None:
    """A version that is there, the dataset that it was made with, and what that was for."""
    query = select(ModelRow.name, VersionRow.number, VersionRow.recipe).join(ModelRow, ModelRow.id == VersionRow.model_id)
    query = query.where(VersionRow.project == project, VersionRow.deleted_at.is_(None))
    query = query.where(or_(*(VersionRow.recipe.contains(one, autoescape=True) for one in references)))
    for model, number, recipe in session.execute(query.order_by(VersionRow.id.desc())):
        for role, dataset in read_made(recipe).datasets.items():
            if dataset in references:
                return f"{model}:{number}", dataset, role
    return None


def _named_by(dataset: str, why: str, look: str) -> Conflict:
    force = f"openmaas data rm {dataset} --force --reason TEXT removes it all the same: then nobody can do that again."
    return Conflict(
        f"The dataset {dataset} is in use: {why}.", code="dataset_named", next_step=f"{look}. {force}" if look else force
    )

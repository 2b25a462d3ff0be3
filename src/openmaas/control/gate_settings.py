"""What a gate's rules are when they are set: bounds, and what is chosen for what was left open."""

from __future__ import annotations

from typing import Final

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from openmaas.control.job_rows import is_process
from openmaas.control.references import find_dataset, find_version
from openmaas.core.errors import InvalidInput, NotFound
from openmaas.core.evaluations import Rules
from openmaas.core.metrics import find_metric
from openmaas.core.names import Reference
from openmaas.core.resources import GateRequest, GateTarget
from openmaas.store.tables import AliasRow, DeploymentRevisionRow, DeploymentRow, EvaluationRow, ModelRow, VersionRow

_BOUNDS: Final[dict[str, tuple[float, float]]] = {
    "max_loss": (0.0, 1.0),
    "minimum": (-1e12, 1e12),
    "max_p99": (1e-6, 3600.0),
    "max_size": (1, 2**50),
    "max_cost": (1e-9, 1e9),
}


class _Evaluated(msgspec.Struct):
    metrics: dict[str, object]
    metric: str


def settle_rules(
    session: Session, model: ModelRow, target: GateTarget, name: str, request: GateRequest, present: Rules | None
) -> tuple[Rules, list[str]]:
    """The rules with exact references, and what was chosen in sentences. present: those that they take the place of, also where
    the gate was taken away before.

    Raises InvalidInput, NotFound.
    """
    _check_bounds(request)
    notes: list[str] = []
    quality = request.max_loss is not None or request.minimum is not None
    if request.metric and not quality:
        raise _invalid(f"The metric {request.metric[:40]!r} is given without a limit", "Add --max-loss or --min.")
    if request.baseline and request.max_loss is None:
        raise _invalid("A baseline is given without a loss that is allowed", "Add --max-loss.")
    dataset, dataset_digest = _dataset(session, model, request, present, notes)
    baseline = ""
    if request.max_loss is not None:
        baseline = _baseline(session, model, target, name, request, present, notes)
    metric = _metric(session, model, request, present, baseline, dataset, dataset_digest, notes) if quality else ""
    rules = Rules(
        dataset=dataset,
        baseline=baseline,
        metric=metric,
        max_loss=request.max_loss,
        minimum=request.minimum,
        max_p99=request.max_p99,
        max_size=request.max_size,
        max_cost=request.max_cost,
    )
    return rules, notes


def _check_bounds(request: GateRequest) -> None:
    given = {rule: getattr(request, rule) for rule in _BOUNDS}
    if all(value is None for value in given.values()):
        raise _invalid("A gate needs a rule", "Give --max-loss, --min, --max-p99, --max-size or --max-cost.")
    for rule, value in given.items():
        least, most = _BOUNDS[rule]
        if value is not None and not least <= value <= most:  # NaN is not either
            told = value if isinstance(value, float) or value.bit_length() < 100 else "far beyond"
            raise _invalid(f"{rule} is {told}; it must be from {least:g} to {most:g}", "Give one within these bounds.")


def _dataset(
    session: Session, model: ModelRow, request: GateRequest, present: Rules | None, notes: list[str]
) -> tuple[str, str]:
    """The exact dataset and its digest."""
    reference = request.data
    if not reference and present is not None:
        reference = present.dataset
        notes.append(f"dataset {reference}, as before")
    if not reference:
        query = select(EvaluationRow.dataset).where(EvaluationRow.project == model.project)
        query = query.where(EvaluationRow.version.startswith(f"{model.name}:", autoescape=True))
        found = session.scalar(query.order_by(EvaluationRow.id.desc()).limit(1))
        if found is None:
            raise _invalid(
                f"No version of {model.name} was evaluated yet, so that there is no dataset to choose",
                f"Give --data DATASET, or evaluate first: openmaas evaluate {model.name}:{model.latest} --data DATASET",
            )
        reference = found
        notes.append(f"dataset {reference}, of the newest evaluation of {model.name}")
    row, version = find_dataset(session, model.project, reference)
    return f"{row.name}:{version.number}", version.digest


def _baseline(
    session: Session,
    model: ModelRow,
    target: GateTarget,
    name: str,
    request: GateRequest,
    present: Rules | None,
    notes: list[str],
) -> str:
    if request.baseline:
        found, version = find_version(session, model.project, request.baseline)
        return f"{found.name}:{version.number}"
    if present is not None and present.baseline:
        if _is_there(session, model.project, present.baseline):
            notes.append(f"baseline {present.baseline}, as before")
            return present.baseline
        notes.append(f"the baseline was {present.baseline}, which is deleted")
    where = f"{model.name}@{name}" if target == "alias" else f"the deployment {name!r}"
    number = _stands_at(session, model, target, name)
    if number is not None:
        notes.append(f"baseline {model.name}:{number}, where {where} stands")
        return f"{model.name}:{number}"
    _, newest = find_version(session, model.project, Reference(model.name))
    number = _pushed_by_somebody(session, model) or newest.number
    made = "" if number == newest.number else f" that somebody pushed ({model.name}:{newest.number} was made by a job)"
    notes.append(f"baseline {model.name}:{number}, the newest version{made}, since {where} stands nowhere yet")
    return f"{model.name}:{number}"


def _is_there(session: Session, project: str, version: str) -> bool:
    try:
        find_version(session, project, version)
    except NotFound:
        return False
    return True


def _pushed_by_somebody(session: Session, model: ModelRow) -> int | None:
    """The newest version that no job made: what is compressed already is no measure of what compression loses."""
    query = select(VersionRow.number, VersionRow.created_by)
    query = query.where(VersionRow.model_id == model.id, VersionRow.deleted_at.is_(None)).order_by(VersionRow.number.desc())
    return next((number for number, actor in session.execute(query) if not is_process(actor)), None)


def _stands_at(session: Session, model: ModelRow, target: GateTarget, name: str) -> int | None:
    if target == "alias":
        alias = session.get(AliasRow, (model.id, name))
        return None if alias is None else alias.number
    revision = DeploymentRevisionRow
    query = (
        select(revision.number)
        .join(DeploymentRow, revision.deployment_id == DeploymentRow.id)
        .where(DeploymentRow.project == model.project, DeploymentRow.name == name, revision.model == model.name)
        .where(revision.revision == DeploymentRow.serving)
    )
    return session.scalar(query)


def _metric(
    session: Session,
    model: ModelRow,
    request: GateRequest,
    present: Rules | None,
    baseline: str,
    dataset: str,
    dataset_digest: str,
    notes: list[str],
) -> str:
    """The one that is asked for, the present gate's, or the usual one of an evaluation on this dataset.

    The baseline's evaluation is looked at where there is one, else that of any version of the model.
    """
    query = select(EvaluationRow).where(EvaluationRow.project == model.project, EvaluationRow.dataset_digest == dataset_digest)
    query = query.order_by(EvaluationRow.id.desc()).limit(1)
    row = None
    if baseline:
        digest = find_version(session, model.project, baseline)[1].digest
        row = session.scalar(query.where(EvaluationRow.digest == digest))
    if row is None:
        row = session.scalar(query.where(EvaluationRow.version.startswith(f"{model.name}:", autoescape=True)))
    told = None if row is None else msgspec.json.decode(row.result, type=_Evaluated)
    metric = request.metric or (present.metric if present is not None else "")
    if not metric:
        if told is None:
            raise _invalid(
                f"No version of {model.name} was evaluated on {dataset} yet, so that there is no metric to choose",
                f"Give --metric, or evaluate first: openmaas evaluate {baseline or model.name} --data {dataset}",
            )
        metric = told.metric
        notes.append(f"metric {metric}, the usual one of this evaluation")
    find_metric(metric)
    if told is not None and metric not in told.metrics:
        there = ", ".join(told.metrics) or "none"
        raise _invalid(f"The evaluation on {dataset} has no {metric}; it has {there}", "Choose one of these with --metric.")
    return metric


def _invalid(message: str, next_step: str) -> InvalidInput:
    return InvalidInput(f"{message}.", code="invalid_gate", next_step=next_step)

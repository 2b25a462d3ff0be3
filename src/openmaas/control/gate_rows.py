"""Rows of gates: which are live, and what they bind."""

from __future__ import annotations

import msgspec
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from openmaas.core.errors import Conflict
from openmaas.core.evaluations import Rules
from openmaas.store.tables import GateRow, ModelRow


def live_gates(session: Session, project: str, model: ModelRow | None = None) -> list[tuple[ModelRow, GateRow]]:
    """The newest row of each target that has a gate, by model, target and name; of all models, or of one."""
    newest = select(func.max(GateRow.id)).where(GateRow.project == project)
    newest = newest.group_by(GateRow.model_id, GateRow.target, GateRow.name)
    if model is not None:
        newest = newest.where(GateRow.model_id == model.id)
    query = select(ModelRow, GateRow).join(GateRow, GateRow.model_id == ModelRow.id).where(GateRow.id.in_(newest))
    query = query.where(GateRow.rules.is_not(None)).order_by(ModelRow.name, GateRow.target, GateRow.name)
    return [(row, gate) for row, gate in session.execute(query)]


def live_gate(session: Session, model: ModelRow, target: str, name: str) -> GateRow | None:
    """The gate of a target; None where it has none, or it was taken away."""
    query = select(GateRow).where(GateRow.model_id == model.id, GateRow.target == target, GateRow.name == name)
    row = session.scalar(query.order_by(GateRow.id.desc()).limit(1))
    return row if row is not None and row.rules is not None else None


def last_rules(session: Session, model: ModelRow, target: str, name: str) -> Rules | None:
    """Those that the target has or, where its gate was taken away, had."""
    query = select(GateRow).where(GateRow.model_id == model.id, GateRow.target == target, GateRow.name == name)
    row = session.scalar(query.where(GateRow.rules.is_not(None)).order_by(GateRow.id.desc()).limit(1))
    return None if row is None else rules_of(row)


def rules_of(row: GateRow) -> Rules:
    return msgspec.json.decode(row.rules or "null", type=Rules)


def target_label(model: str, target: str, name: str) -> str:
    """As people write it: digits@champion, or the deployment 'digits'."""
    return f"{model}@{name}" if target == "alias" else f"the deployment {name!r} of {model}"


def gate_arguments(model: str, target: str, name: str) -> str:
    """What names a gate after `openmaas gate show`, `rm` and `set`."""
    return f"{model} {name}" if target == "alias" else f"{model} --deployment {name}"


def refuse_gated_for_another(session: Session, model: ModelRow, name: str) -> None:
    """Raises Conflict where a gate binds this name of a deployment to what it lets pass of another model: else the same files,
    pushed as that of another model, would serve unasked."""
    for owner, row in live_gates(session, model.project):
        if (row.target, row.name) == ("deployment", name) and owner.id != model.id:
            raise Conflict(
                f"The name {name!r} is in use: there is a gate of {target_label(owner.name, row.target, name)}, which "
                f"{model.name} cannot pass.",
                code="name_gated",
                next_step=f"Choose another name with --as, or openmaas gate rm {gate_arguments(owner.name, row.target, name)}",
            )


def refuse_while_baseline(session: Session, project: str, version: str) -> None:
    """Raises Conflict where a gate measures losses against this version (digits:3)."""
    for model, row in live_gates(session, project):
        if rules_of(row).baseline == version:
            label = target_label(model.name, row.target, row.name)
            raise Conflict(
                f"{version} is in use: the gate of {label} measures losses against it.",
                code="version_in_gate",
                next_step=f"openmaas gate rm {gate_arguments(model.name, row.target, row.name)}, or set it again with another "
                "--baseline.",
            )


def refuse_while_gated(session: Session, model: ModelRow) -> None:
    """Raises Conflict where the model has gates, or versions that those of others measure against: all would end in silence."""
    for owner, row in live_gates(session, model.project):
        baseline = rules_of(row).baseline
        if owner.id == model.id or baseline.rpartition(":")[0] == model.name:
            label = target_label(owner.name, row.target, row.name)
            raise Conflict(
                f"The model {model.name!r} is in use: there is a gate of {label}"
                + ("." if owner.id == model.id else f", which measures losses against {baseline}."),
                code="model_gated",
                next_step=f"openmaas gate rm {gate_arguments(owner.name, row.target, row.name)} takes it away.",
            )

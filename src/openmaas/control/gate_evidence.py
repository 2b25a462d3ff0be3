"""Which evaluations of a version a gate counts. Nobody chooses among several until one passes:

dataset   exactly the gate's, by its digest, and all of its rows; of more than an evaluation holds, those that the standard seed
          draws
seed      the standard one, which intervals depend on
engine    the one that serves the version, or would serve it where nobody asks for another (control/serving.py); of a
          deployment, the one that it will serve by

Of those that count, the newest tells quality and size, which do not change from one to the next. Times do: of them the newest
counts or, where that is worse, the median of all (control/gate_rules.py). What does not count is named with its reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import msgspec
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from openmaas.control.gate_rules import Brief, Measured, Subject
from openmaas.control.references import find_dataset
from openmaas.core.errors import OpenMaaSError
from openmaas.core.evaluations import STANDARD_SEED, Evaluation
from openmaas.core.metrics import MOST_ROWS
from openmaas.store.tables import DatasetVersionRow, EvaluationRow

MOST_COUNTED: Final = 50
"""Evaluations that count, the newest; no more are looked at."""
_MOST_READ: Final = 400  # evaluations of a version on a dataset


class _Doubt(Exception):
    """Why an evaluation does not count, and the command that makes one that does."""

    def __init__(self, why: str, options: str = "") -> None:
        self.why, self.options = why, options


def evidence(
    session: Session, project: str, reference: str, digest: str, dataset: str, engine: str, *, asked: bool = False
) -> Subject:
    """What is known of the version on the gate's dataset. dataset: an exact reference. engine: that must have answered; empty
    where it is not known yet, and then any does. asked: it is not what `openmaas evaluate` takes unasked."""
    evaluate = f"openmaas evaluate {reference} --data {dataset}"
    by = f"{evaluate} --engine {engine}"
    subject = Subject(version=reference, digest=digest, engine=engine, evaluate=by if asked else evaluate)
    try:
        _, rows = find_dataset(session, project, dataset)
    except OpenMaaSError:
        return replace(subject, missing=f"the gate's dataset {dataset} is gone")
    where = (
        EvaluationRow.project == project,
        EvaluationRow.digest == digest,
        EvaluationRow.dataset_digest == rows.digest,
    )
    existing = session.scalar(select(func.count()).select_from(EvaluationRow).where(*where)) or 0
    if not existing:
        return replace(subject, missing=f"{reference} was never evaluated on {dataset}")
    counted: list[Brief] = []
    newest: EvaluationRow | None = None
    missing, doubtful = "", ""
    query = select(EvaluationRow).where(*where).order_by(EvaluationRow.id.desc()).limit(_MOST_READ)
    for row in session.scalars(query.execution_options(yield_per=8)):
        try:
            counted.append(_brief(row, reference, digest, rows, engine))
            newest = newest or row
        except _Doubt as doubt:
            missing, doubtful = missing or doubt.why, doubtful or (by if doubt.options == "engine" else "")
        if len(counted) == MOST_COUNTED:
            break
    subject = replace(subject, existing=existing, counted=tuple(counted))
    if newest is None:
        others = f" (none of its {existing} evaluations counts)" if existing > 1 else ""
        return replace(subject, missing=missing + others, evaluate=doubtful or subject.evaluate)
    evaluation = msgspec.json.decode(newest.result, type=Evaluation)
    return replace(subject, measured=Measured(id=newest.id, evaluation=evaluation, job=newest.job, at=newest.at))


def _brief(row: EvaluationRow, reference: str, digest: str, dataset: DatasetVersionRow, engine: str) -> Brief:
    try:
        told = msgspec.json.decode(row.result, type=Brief)
    except msgspec.MsgspecError:
        raise _Doubt(f"the evaluation of {reference} by {row.job} cannot be read") from None
    for doubt in _doubts(told, row, reference, digest, dataset, engine):
        raise doubt
    return told


def _doubts(
    told: Brief, row: EvaluationRow, reference: str, digest: str, dataset: DatasetVersionRow, engine: str
) -> Iterator[_Doubt]:
    made = f"the evaluation of {reference} by {row.job}"
    if (told.digest, told.dataset_digest) != (digest, dataset.digest):
        yield _Doubt(f"{made} is of something else")
    if engine and told.figures is None:
        yield _Doubt(f"{made} does not tell which engine answered, and {engine} would serve it")
    if engine and told.figures is not None and (label := told.figures.choice.label) != engine:
        yield _Doubt(f"{reference} was evaluated by the engine {label}, and {engine} would serve it", "engine")
    there = told.total if told.task == "generation" else dataset.rows  # a passage is no row
    if told.rows != min(there, MOST_ROWS):
        of = f" of {there:,}" if there else ", and does not tell of how many"
        yield _Doubt(f"{made} is of {told.rows:,} rows{of}, and all must be answered")
    if told.seed != STANDARD_SEED:
        yield _Doubt(f"{made} has the seed {told.seed}, and only those of the standard one ({STANDARD_SEED}) count")

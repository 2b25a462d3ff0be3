"""Versions, datasets and evaluations written by hand, for tests of what hangs on them."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from sqlalchemy import select

from openmaas.core.evaluations import Estimate, Evaluation, Figures, Outcomes, Speed
from openmaas.core.hardware import Processor
from openmaas.core.manifest import Artifact, EngineChoice
from openmaas.core.metrics import encode_outcomes, estimate
from openmaas.store.database import Database
from openmaas.store.tables import DatasetRow, DatasetVersionRow, EvaluationRow, ModelRow, VersionRow

HERE = Processor(model="This one", cores=4)
ELSEWHERE = Processor(model="Another", cores=4)
ROWS = 1000


def add_dataset(database: Database, name: str = "digits-test", number: int = 1) -> None:
    with database.write() as session:
        row = session.scalar(select(DatasetRow).where(DatasetRow.name == name))
        if row is None:
            row = DatasetRow(project="default", name=name, last_number=0, versions=0, created_at=1, updated_at=1)
            session.add(row)
        row.last_number = row.latest = number
        row.versions += 1
        session.flush()
        version = DatasetVersionRow(
            project="default", dataset_id=row.id, number=number, digest=f"{name}-{number}".rjust(64, "0"), manifest="{}",
            size=1, rows=ROWS, created_at=1, created_by="admin",
        )  # fmt: skip
        session.add(version)


def figures(
    p99: float = 0.01,
    size: int = 1000,
    cost: float = 1.0,
    engine: str | EngineChoice = "dummy",
    calls: int = 100,
    library: str = "",
) -> Figures:
    speed = Speed(batch=1, p50=p99 / 2, p99=p99, rate=1 / p99, calls=calls)
    choice = EngineChoice(engine=engine, artifact=Artifact(kind="dummy", entry="1")) if isinstance(engine, str) else engine
    return Figures(choice=choice, library=library, size=size, memory=1, load=0.1, speeds=(speed,), cost=cost)


def answers(wrong: int, rows: str = "all") -> Outcomes:
    """Of ROWS rows, so many answered wrongly: the first."""
    truth = np.arange(ROWS) % 10
    given = np.where(np.arange(ROWS) < wrong, (truth + 1) % 10, truth)
    return encode_outcomes("classes", truth, given, rows)


def evaluate(
    database: Database,
    version: str,
    wrong: int = 0,
    *,
    data: str = "digits-test:1",
    rows: str = "all",
    processor: Processor = HERE,
    job: str = "job-000001",
    change: Any = None,
    **more: Any,
) -> None:
    """What the recording of a job's result leaves. change: of the result as plain data, before it is written."""
    name, _, number = version.partition(":")
    set_name, _, set_number = data.partition(":")
    outcomes = answers(wrong, rows)
    with database.write() as session:
        model = session.scalars(select(ModelRow).where(ModelRow.name == name)).one()
        row = session.scalars(select(VersionRow).where(VersionRow.model_id == model.id, VersionRow.number == int(number))).one()
        dataset = session.scalars(
            select(DatasetVersionRow)
            .join(DatasetRow, DatasetRow.id == DatasetVersionRow.dataset_id)
            .where(DatasetRow.name == set_name, DatasetVersionRow.number == int(set_number))
        ).one()
        metrics = {"accuracy": estimate("accuracy", outcomes, 0, 100), "f1": Estimate(value=0.9, low=0.8, high=0.95)}
        evaluation = Evaluation(
            version=version, digest=row.digest, dataset=data, dataset_digest=dataset.digest, task="classification",
            metric="accuracy", rows=ROWS, metrics=metrics, outcomes=outcomes, figures=figures(**more), processor=processor,
        )  # fmt: skip
        plain = msgspec.to_builtins(evaluation)
        if change is not None:
            change(plain)
        session.add(
            EvaluationRow(
                project="default", version=version, digest=row.digest, dataset=data, dataset_digest=dataset.digest,
                metric="accuracy", value=metrics["accuracy"].value, result=msgspec.json.encode(plain).decode(), job=job,
                actor="admin", at=1.0,
            )
        )  # fmt: skip

"""Evaluations: kept when a job that made some succeeds, and told. Rows are only added; the newest of a version counts."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from openmaas.control.jobs import JobService
from openmaas.control.paging import DEFAULT_LIMIT, check_limit, make_page, number_after
from openmaas.control.references import find_dataset, find_version
from openmaas.core.errors import InvalidInput
from openmaas.core.evaluations import Evaluation
from openmaas.core.jobs import CompareArguments, EvaluateArguments, OptimizeArguments
from openmaas.core.names import DEFAULT_PROJECT
from openmaas.core.resources import EvaluationInfo, JobInfo, Page
from openmaas.store.database import Database
from openmaas.store.tables import EvaluationRow

KINDS = (EvaluateArguments.kind, CompareArguments.kind, OptimizeArguments.kind)
"""Of jobs whose results may hold `evaluation`, or a list `evaluations`."""


class EvaluationService:
    def __init__(self, database: Database, jobs: JobService, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock
        for kind in KINDS:
            jobs.on_success(kind, self._record)

    # keeping

    def _record(self, session: Session, job: JobInfo) -> None:
        """In the transaction that ends the job. Raises InvalidInput for a result that holds what is no evaluation of a version
        and a dataset that there are, NotFound."""
        result = job.result or {}
        several = result.get("evaluations") or []
        found = [*([result["evaluation"]] if result.get("evaluation") is not None else []), *several]
        if not found and job.kind == EvaluateArguments.kind:
            raise _invalid("it holds none")
        for told in found:
            session.add(self._row(session, job, told))

    def _row(self, session: Session, job: JobInfo, told: Any) -> EvaluationRow:
        text = msgspec.json.encode(told)
        try:
            made = msgspec.json.decode(text, type=Evaluation)  # as it will be read again
        except msgspec.ValidationError as error:
            raise _invalid(str(error)) from None
        value = made.metrics.get(made.metric)
        if value is None or not math.isfinite(value.value):
            raise _invalid(f"it has no {made.metric}")
        model, version = find_version(session, job.project, made.version)
        dataset, rows = find_dataset(session, job.project, made.dataset)
        exact = (f"{model.name}:{version.number}", f"{dataset.name}:{rows.number}")
        if (made.version, made.dataset) != exact or (made.digest, made.dataset_digest) != (version.digest, rows.digest):
            raise _invalid(f"{made.version} on {made.dataset} is not what their digests say")
        asked = (job.subject, job.arguments.get("data"))
        if job.kind == EvaluateArguments.kind and (made.version, made.dataset) != asked:  # gates trust in it
            raise _invalid(f"it is of {made.version} on {made.dataset}, and the job is about {asked[0]} on {asked[1]}")
        return EvaluationRow(
            project=job.project,
            version=made.version,
            digest=made.digest,
            dataset=made.dataset,
            dataset_digest=made.dataset_digest,
            metric=made.metric,
            value=value.value,
            result=text.decode(),
            job=job.id,
            actor=job.actor,
            at=self._clock(),
        )

    # telling

    def list(
        self,
        reference: str,
        *,
        dataset: str = "",
        project: str = DEFAULT_PROJECT,
        after: str | None = None,
        limit: int = DEFAULT_LIMIT,
    ) -> Page[EvaluationInfo]:
        """A page of a version's evaluations, newest first; on one dataset where it is given. Raises NotFound."""
        check_limit(limit)
        before = number_after(after)
        with self._database.read() as session:
            _, version = find_version(session, project, reference)
            where: list[ColumnElement[bool]] = [EvaluationRow.project == project, EvaluationRow.digest == version.digest]
            if dataset:
                where.append(EvaluationRow.dataset_digest == find_dataset(session, project, dataset)[1].digest)
            total = session.scalar(select(func.count()).select_from(EvaluationRow).where(*where)) or 0
            query = select(EvaluationRow).where(*where).order_by(EvaluationRow.id.desc()).limit(limit + 1)
            if before is not None:
                query = query.where(EvaluationRow.id < before)
            found = session.scalars(query).all()
        return make_page(found, limit, total, lambda row: row.id, _views)


def newest(session: Session, version_digest: str, dataset_digest: str, project: str) -> EvaluationRow | None:
    """The newest evaluation of exactly this version on exactly this dataset."""
    query = select(EvaluationRow).where(
        EvaluationRow.project == project,
        EvaluationRow.digest == version_digest,
        EvaluationRow.dataset_digest == dataset_digest,
    )
    return session.scalar(query.order_by(EvaluationRow.id.desc()).limit(1))


def _views(rows: Sequence[EvaluationRow]) -> list[EvaluationInfo]:
    return [
        EvaluationInfo(
            id=row.id,
            version=row.version,
            dataset=row.dataset,
            metric=row.metric,
            value=row.value,
            evaluation={**msgspec.json.decode(row.result), "outcomes": None},
            job=row.job,
            actor=row.actor,
            at=row.at,
        )
        for row in rows
    ]


def _invalid(reason: str) -> InvalidInput:
    return InvalidInput(f"The result is not an evaluation: {reason}.", code="invalid_result")

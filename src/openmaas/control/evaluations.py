"""Evaluations: kept when a job that made some succeeds, and told. Rows are only added; gates say which of them count."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from openmaas.control.jobs import JobService
from openmaas.control.paging import DEFAULT_LIMIT, check_limit, make_page, number_after, within
from openmaas.control.references import find_dataset, find_version
from openmaas.core.errors import InvalidInput
from openmaas.core.evaluations import STANDARD_SEED, Evaluation
from openmaas.core.jobs import CompareArguments, EvaluateArguments, OptimizeArguments
from openmaas.core.metrics import METRICS, decode_outcomes
from openmaas.core.names import DEFAULT_PROJECT
from openmaas.core.resources import EvaluationInfo, JobInfo, Page
from openmaas.store.database import Database
from openmaas.store.tables import EvaluationRow, VersionRow

KINDS = (EvaluateArguments.kind, CompareArguments.kind, OptimizeArguments.kind)
"""Of jobs whose results may hold `evaluation`, or a list `evaluations`."""

_PAGE_BYTES = 8 * 2**20  # of results with their outcomes; a page holds at least one
MOST_OF_A_JOB = 64
"""Evaluations of one result."""


class EvaluationService:
    def __init__(self, database: Database, jobs: JobService, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock
        for kind in KINDS:
            jobs.on_success(kind, self._record)

    # keeping

    def _record(self, session: Session, job: JobInfo) -> None:
        """In the transaction that ends the job. Raises InvalidInput for a result that holds what is no evaluation of a version
        and a dataset that the job is about, NotFound."""
        result = job.result or {}
        several = result.get("evaluations") or []
        if not isinstance(several, list) or len(several) > MOST_OF_A_JOB:
            raise _invalid(f"a job tells at most {MOST_OF_A_JOB}, as a list")
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
        _check_figures(made)
        value = made.metrics[made.metric]
        model, version = find_version(session, job.project, made.version)
        dataset, rows = find_dataset(session, job.project, made.dataset)
        exact = (f"{model.name}:{version.number}", f"{dataset.name}:{rows.number}")
        if (made.version, made.dataset) != exact or (made.digest, made.dataset_digest) != (version.digest, rows.digest):
            raise _invalid(f"{made.version} on {made.dataset} is not what their digests say")
        versions, datasets = _asked(job)
        its_own = job.kind == OptimizeArguments.kind and _made_by(version, job)
        if (made.version not in versions and not its_own) or made.dataset not in datasets:  # gates trust in it
            about = f"{' and '.join(versions)} on {' and '.join(datasets) or 'no dataset'}"
            raise _invalid(f"it is of {made.version} on {made.dataset}, and the job is about {about}")
        _check_asked(job, made)
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
            weighed = select(EvaluationRow.id, func.length(EvaluationRow.result)).where(*where)
            if before is not None:
                weighed = weighed.where(EvaluationRow.id < before)
            found = session.execute(weighed.order_by(EvaluationRow.id.desc()).limit(limit + 1)).all()
            shown = within([size for _, size in found], limit, _PAGE_BYTES)
            return make_page([one for one, _ in found], shown, total, lambda one: one, lambda some: _views(session, some))


def _asked(job: JobInfo) -> tuple[list[str], list[str]]:
    """The exact versions and datasets that a job may tell evaluations of, besides the versions that it made."""
    told = job.arguments
    if job.kind != CompareArguments.kind:
        return [job.subject], [name for name in (told.get("data"), told.get("evaluation")) if name]
    versions = [job.subject, *told["others"]]
    engines = told.get("engines") or [""] * len(versions)
    usual = [version for version, engine in zip(versions, engines, strict=True) if not engine]
    return list(dict.fromkeys(usual)), [told["data"]] if told.get("data") else []


def _check_asked(job: JobInfo, made: Evaluation) -> None:
    """Raises InvalidInput for rows, a seed or an engine that the job was not asked for: gates count by these."""
    told = job.arguments
    seed = STANDARD_SEED if job.kind == OptimizeArguments.kind else told.get("seed", STANDARD_SEED)
    engine = told.get("engine", "")
    if made.seed != seed:
        raise _invalid(f"its seed is {made.seed}, and the job's {seed}")
    if told.get("rows") and made.rows > told["rows"]:
        raise _invalid(f"it is of {made.rows} rows, and the job was asked for {told['rows']}")
    if engine and (made.figures is None or made.figures.choice.label != engine):
        raise _invalid(f"it does not say that the engine {engine} answered, for which the job was asked")


def _made_by(version: VersionRow, job: JobInfo) -> bool:
    """Whether the job pushed it; one whose files were the newest version's already was made of the same parent before."""
    return version.created_by.startswith(f"{job.id}-") or version.parent == job.subject


def _check_figures(made: Evaluation) -> None:
    """Raises InvalidInput for figures that nothing measures: gates would let them pass."""
    if made.metric not in made.metrics:
        raise _invalid(f"it has no {made.metric[:40]}")
    for name, one in made.metrics.items():
        if name not in METRICS:
            raise _invalid(f"{name[:40]!r} is not a metric")
        low, high = (one.value if bound is None else bound for bound in (one.low, one.high))
        metric = METRICS[name]
        least = 0.0 if metric.kind == "classes" or not metric.share else -math.inf
        possible = least <= one.value <= (1 + 1e-9 if metric.share else math.inf)
        if not all(map(math.isfinite, (low, one.value, high))) or low > high or not possible:
            raise _invalid(f"its {name} is {one.value}, from {one.low} to {one.high}")
    if made.outcomes is not None and len(decode_outcomes(made.outcomes)) != made.rows:
        raise _invalid(f"its outcomes are not those of {made.rows} rows")
    figures = made.figures
    if figures is not None:
        speeds = [(one.batch, one.p50, one.p99, one.rate, one.calls) for one in figures.speeds]
        positive = [figures.size, *(figure for speed in speeds for figure in speed)]
        rest = [figures.memory, figures.load, figures.cost]
        if not speeds or not all(0 < one < math.inf for one in positive) or not all(0 <= one < math.inf for one in rest):
            raise _invalid("its figures of speed and size are not above 0")


def _views(session: Session, ids: Sequence[int]) -> list[EvaluationInfo]:
    rows = session.scalars(select(EvaluationRow).where(EvaluationRow.id.in_(ids)).order_by(EvaluationRow.id.desc()))
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

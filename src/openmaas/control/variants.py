"""What comparisons said of versions beside those that they were made of: kept when a job that compared succeeds, and told."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from openmaas.control.jobs import JobService
from openmaas.control.references import find_version
from openmaas.core.errors import InvalidInput, NotFound
from openmaas.core.evaluations import Entrant, VersionComparison
from openmaas.core.jobs import CompareArguments, OptimizeArguments
from openmaas.core.resources import JobInfo
from openmaas.store.tables import VariantRow, VersionRow

KINDS = (CompareArguments.kind, OptimizeArguments.kind)
"""Of jobs whose results may hold a `comparison`."""

_MOST_ANCESTORS = 100


class VariantService:
    def __init__(self, jobs: JobService, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        for kind in KINDS:
            jobs.on_success(kind, self._record)

    def _record(self, session: Session, job: JobInfo) -> None:
        """In the transaction that ends the job: a row for each registered entrant that was made of the baseline, directly or by
        others between. Raises InvalidInput for a result that is no comparison of versions that there are, NotFound."""
        told = (job.result or {}).get("comparison")
        if told is None or any(job.arguments.get("engines", ())):
            return
        try:
            comparison = msgspec.json.decode(msgspec.json.encode(told), type=VersionComparison)
        except msgspec.ValidationError as error:
            raise _invalid(str(error)) from None
        if len(comparison.entrants) < 2:
            raise _invalid(f"it has {len(comparison.entrants)} entrants")
        _exact(session, job, comparison.entrants[0].version)
        for entrant in comparison.entrants[1:]:
            if entrant.registered:
                version = _exact(session, job, entrant.version)
                if _descends(session, job.project, version, comparison.entrants[0].version):
                    session.add(self._row(job, comparison, entrant, version))

    def _row(self, job: JobInfo, comparison: VersionComparison, entrant: Entrant, version: VersionRow) -> VariantRow:
        baseline = comparison.entrants[0]
        kept = msgspec.to_builtins(msgspec.structs.replace(entrant, changed=(), classes=()), str_keys=True)
        beside = {
            "baseline_figures": msgspec.to_builtins(baseline.figures, str_keys=True),
            "metric": comparison.metric,
            "dataset": comparison.dataset,
            "recommended": comparison.recommended == entrant.version,
        }
        return VariantRow(
            project=job.project,
            version=entrant.version,
            digest=version.digest,
            baseline=baseline.version,
            dominated=entrant.dominated,
            result=msgspec.json.encode({**kept, **beside}).decode(),
            job=job.id,
            at=self._clock(),
        )


def newest_variant(session: Session, version: VersionRow) -> dict[str, Any] | None:
    """What the newest comparison with an ancestor said of a version: core.evaluations.Entrant as JSON, without single rows and
    classes, with `baseline`, `baseline_figures`, `metric`, `dataset`, `recommended`, `job` and `at`."""
    query = select(VariantRow).where(VariantRow.project == version.project, VariantRow.digest == version.digest)
    row = session.scalar(query.order_by(VariantRow.id.desc()).limit(1))
    return None if row is None else {**msgspec.json.decode(row.result), "baseline": row.baseline, "job": row.job, "at": row.at}


def _exact(session: Session, job: JobInfo, reference: str) -> VersionRow:
    model, version = find_version(session, job.project, reference)
    if f"{model.name}:{version.number}" != reference:
        raise _invalid(f"{reference[:80]!r} is no exact reference")
    return version


def _descends(session: Session, project: str, version: VersionRow, baseline: str) -> bool:
    for _ in range(_MOST_ANCESTORS):
        if version.parent is None:
            return False
        if version.parent == baseline:
            return True
        try:
            version = find_version(session, project, version.parent)[1]
        except NotFound:  # deleted since
            return False
    return False


def _invalid(reason: str) -> InvalidInput:
    return InvalidInput(f"The result is not a comparison: {reason}.", code="invalid_result")

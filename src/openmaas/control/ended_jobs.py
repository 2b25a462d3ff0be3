"""Jobs that ended long ago: what nothing refers to any more is removed, and the logs of all.

A result that stays (an evaluation, a measurement, a comparison, a version that a job pushed, a revision that waited for one)
keeps the row of its job, so that it can be told for ever how it came about.
"""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from sqlalchemy import ColumnElement, Select, delete, select
from sqlalchemy.orm import Session

from openmaas.control.job_rows import OPEN, job_id
from openmaas.core.settings import Settings
from openmaas.store.database import Database
from openmaas.store.tables import (
    AliasMoveRow,
    DatasetVersionRow,
    DeploymentRevisionRow,
    EvaluationRow,
    GateDecisionRow,
    JobRow,
    KeyRow,
    MeasurementRow,
    VariantRow,
    VersionRow,
)

_LOG = re.compile(r"job-(\d{6,10})\.log(\.1)?", re.ASCII)
_ID = re.compile(r"job-(\d{6,10})(-\d+)?", re.ASCII)
_REFERRING = (
    EvaluationRow.job, MeasurementRow.job, VariantRow.job, DeploymentRevisionRow.measuring, DeploymentRevisionRow.actor,
    VersionRow.created_by, DatasetVersionRow.created_by, AliasMoveRow.actor, GateDecisionRow.actor, EvaluationRow.actor,
)  # fmt: skip
"""Columns that may name a job, or the key of its process."""
_BATCH = 200  # jobs that are removed under one lock


class EndedJobs:
    """Says what would go, and removes it."""

    def __init__(self, settings: Settings, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._retention = settings.job_retention
        self._logs = settings.home_path / "logs" / "jobs"
        self._database = database
        self._clock = clock

    def report(self) -> tuple[int, int]:
        """How many jobs, and bytes of logs, `remove` would remove now."""
        with self._database.read() as session:
            old = session.scalars(self._old()).all()
            kept = _referred_to(session)
        logs = self._logs_of(old)
        return len([number for number in old if number not in kept]), sum(map(_size, logs))

    def remove(self) -> tuple[int, int]:
        """Remove what is due; how many jobs, and bytes of logs, were removed."""
        with self._database.read() as session:
            old = session.scalars(self._old()).all()
        jobs = size = 0
        for start in range(0, len(old), _BATCH):
            # Under the lock without which no job is retried: one that runs again keeps its row and its log.
            with self._database.write() as session:
                some = session.scalars(self._old().where(JobRow.number.in_(old[start : start + _BATCH]))).all()
                going = [number for number in some if number not in _referred_to(session)]
                _remove_keys(session, going)
                session.execute(delete(JobRow).where(JobRow.number.in_(going)))
                for log in self._logs_of(some):
                    size += _size(log)
                    log.unlink(missing_ok=True)
            jobs += len(going)
        return jobs, size

    def _old(self) -> Select[int]:
        due: list[ColumnElement[bool]] = [JobRow.state.not_in(OPEN), JobRow.ended_at < self._clock() - self._retention]
        return select(JobRow.number).where(*due).order_by(JobRow.number)

    def _logs_of(self, numbers: Iterable[int]) -> list[Path]:
        by_number: defaultdict[int, list[Path]] = defaultdict(list)
        for path in self._logs.glob("job-*.log*"):
            if match := _LOG.fullmatch(path.name):
                by_number[int(match[1])].append(path)
        return [path for number in numbers for path in by_number.get(number, ())]


def _referred_to(session: Session) -> set[int]:
    named = (session.scalars(select(column).where(column.like("job-%")).distinct()) for column in _REFERRING)
    return {int(match[1]) for some in named for text in some if (match := _ID.fullmatch(text or ""))}


def _remove_keys(session: Session, numbers: Sequence[int]) -> None:
    """The keys of their processes, long retired: numbers are never given again, and so are these."""
    starts = session.execute(select(JobRow.number, JobRow.starts).where(JobRow.number.in_(numbers)))
    for number, count in starts.all():
        session.execute(delete(KeyRow).where(KeyRow.id.in_([f"{job_id(number)}-{start}" for start in range(1, count + 1)])))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0

"""A job's row: its id, its states, and what others see of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from openmaas.control.revisions import cause_info, decode_cause
from openmaas.core.contracts import JobSpec, JobStatus
from openmaas.core.errors import InvalidInput, NotFound
from openmaas.core.resources import JobInfo
from openmaas.store.tables import JobRow

LIVE: Final = ("running", "cancelling")
"""States in which a job has, or may have, a process."""

OPEN: Final = ("queued", *LIVE)
"""States of a job that has not ended."""

LONGEST_LISTED: Final = 16 * 1024
"""Characters of a result that is told in a list of jobs: one may have a mebibyte."""

_ID = re.compile(r"job-(\d{6,10})", re.ASCII)
_KEY_ID = re.compile(r"job-\d{6,10}-\d+", re.ASCII)


def job_id(number: int) -> str:
    """Sorts as the numbers do."""
    return f"job-{number:06d}"


def key_id(row: JobRow) -> str:
    """The id of the API key of the process that was asked for last."""
    return f"{job_id(row.number)}-{row.starts}"


def is_process(actor: str) -> bool:
    """Whether this is the id of the key of a job's process, not that of a person's."""
    return _KEY_ID.fullmatch(actor) is not None


def start_of(row: JobRow) -> tuple[str, int]:
    """What names the process that was asked for last, for ever."""
    return job_id(row.number), row.starts


def find_job(session: Session, project: str, job: str) -> JobRow:
    """The job, or NotFound; InvalidInput for what is no job's id."""
    match = _ID.fullmatch(job)
    if match is None:
        raise InvalidInput(f"{job[:40]!r} is not a job's id, such as {job_id(42)}.", code="invalid_name")
    row = session.get(JobRow, int(match[1]))
    if row is None or row.project != project or job_id(row.number) != job:
        raise NotFound(f"There is no job {job!r}.", code="job_not_found", next_step="openmaas jobs ls shows the jobs.")
    return row


def view_job(row: JobRow, seen: Mapping[tuple[str, int], JobStatus], result: str | None) -> JobInfo:
    """A job as people see it: its row together with what runs. result: the row's, or None where it is left out."""
    status = seen.get(start_of(row)) if row.state in LIVE else None
    return JobInfo(
        id=job_id(row.number),
        project=row.project,
        kind=row.kind,
        subject=row.subject,
        arguments=msgspec.json.decode(row.arguments),
        state=row.state,
        attempt=row.attempt,
        stage=row.stage,
        done=row.done,
        total=row.total,
        result=None if result is None else msgspec.json.decode(result),
        cause=cause_info(decode_cause(row.cause)),
        measures=row.measures,
        actor=row.actor,
        pid=status.pid if status is not None else None,
        created_at=row.created_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
    )


def job_specs(session: Session, keys: Mapping[tuple[str, int], str]) -> tuple[JobSpec, ...]:
    """The jobs that should run, in the order of their numbers."""
    rows = session.scalars(select(JobRow).where(JobRow.state == "running").order_by(JobRow.number))
    return tuple(
        JobSpec(
            id=job_id(row.number),
            attempt=row.starts,
            kind=row.kind,
            project=row.project,
            arguments=msgspec.json.decode(row.arguments),
            key=keys.get(start_of(row), ""),
        )
        for row in rows
    )

"""Jobs: anything long, in a process of its own.

    queued ──→ running ──→ succeeded            its process reported a result
      │  ↑        │  └───→ failed               it reported a cause, or ended without a result
      │  └────────┤                             the server was asked to stop: it is put back
      ↓           ↓
    cancelled ← cancelling                      until its process is gone

A retry puts one that failed or was cancelled back into the queue. Every end happens once, in a transaction of its own. Control
asks the supervisor for a process through Desired (`starts` counts them) and hears of its end through Observed; what the process
has to say it says over the API, with a key of its own that is good while it runs.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, case, func, select
from sqlalchemy.orm import Session, defer

from openmaas.control.deployment_logs import LogLines, check_window, read_log
from openmaas.control.job_rows import LIVE, LONGEST_LISTED, OPEN, find_job, job_id, key_id, start_of, view_job
from openmaas.control.job_schedule import Verdict, due, verdict
from openmaas.control.keys import KeyService
from openmaas.control.observed import Fleet
from openmaas.control.paging import DEFAULT_LIMIT, check_limit, make_page, number_after
from openmaas.control.references import find_dataset, find_version
from openmaas.core.contracts import Cause, JobStatus, Observed
from openmaas.core.errors import Cancelled, Conflict, Forbidden, InvalidInput, LimitReached
from openmaas.core.jobs import Arguments, check_arguments
from openmaas.core.log import get_logger
from openmaas.core.names import DEFAULT_PROJECT
from openmaas.core.resources import JobInfo, JobReport, JobState, Page
from openmaas.core.settings import Settings
from openmaas.store.database import Database
from openmaas.store.tables import JobRow, VersionRow

OnSuccess = Callable[[Session, JobInfo], object]
OnEnd = Callable[[JobInfo], object]

_MOST_WAITING = 1000
_LONGEST_STAGE = 200
_LONGEST_MESSAGE = 4000
_SHOWN_LINES = 20

_log = get_logger("job")


@dataclass(frozen=True)
class _Decision:
    """A write transaction, and what follows its commit: the jobs that ended by it, and the starts whose keys are no good."""

    session: Session
    ended: list[JobInfo] = field(default_factory=list)
    gone: list[tuple[str, int]] = field(default_factory=list)


class JobService:
    """Takes, starts, follows and ends jobs. `changed` is called after each commit that the supervisor must hear of."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        fleet: Fleet,
        keys: KeyService,
        changed: Callable[[], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._limit = settings.jobs or max(1, len(os.sched_getaffinity(0)) // 2)
        self._logs = settings.home_path / "logs" / "jobs"
        self._database = database
        self._fleet = fleet
        self._keys = keys
        self._changed = changed
        self._clock = clock
        self._on_success: dict[str, list[OnSuccess]] = defaultdict(list)
        self._on_end: dict[str, list[OnEnd]] = defaultdict(list)

    def on_success(self, kind: str, callback: OnSuccess) -> None:
        """Call back in the transaction that stores a success. An OpenMaaSError from it makes a failure of the success."""
        self._on_success[kind].append(callback)

    def on_end(self, kind: str, callback: OnEnd) -> None:
        """Call back after the commit of every end. Not for what must not be missed: control may be killed in between."""
        self._on_end[kind].append(callback)

    # looking

    def get(self, job: str, *, project: str = DEFAULT_PROJECT) -> JobInfo:
        """Raises NotFound."""
        with self._database.read() as session:
            return self._view(find_job(session, project, job))

    def list(
        self,
        *,
        project: str = DEFAULT_PROJECT,
        after: str | None = None,
        limit: int = DEFAULT_LIMIT,
        state: JobState | None = None,
        kind: str | None = None,
    ) -> Page[JobInfo]:
        """A page of the jobs, newest first; of one state or kind where these are given. Long results are left out."""
        check_limit(limit)
        before = number_after(after)
        condition: list[ColumnElement[bool]] = [JobRow.project == project]
        condition += [JobRow.state == state] if state else []
        condition += [JobRow.kind == kind] if kind else []
        short = case((func.length(JobRow.result) <= LONGEST_LISTED, JobRow.result))
        rows = select(JobRow, short).options(defer(JobRow.result)).where(*condition)
        rows = rows.order_by(JobRow.number.desc()).limit(limit + 1)
        if before is not None:
            rows = rows.where(JobRow.number < before)
        with self._database.read() as session:
            total = session.scalar(select(func.count()).select_from(JobRow).where(*condition)) or 0
            found = session.execute(rows).all()
        seen = self._fleet.jobs
        return make_page(
            found, limit, total, lambda one: one[0].number, lambda some: [view_job(row, seen, result) for row, result in some]
        )

    def counts(self, *, project: str = DEFAULT_PROJECT) -> dict[str, int]:
        """How many of the jobs that have not ended are in which state."""
        query = select(JobRow.state, func.count()).where(JobRow.project == project, JobRow.state.in_(OPEN))
        with self._database.read() as session:
            return {str(state): count for state, count in session.execute(query.group_by(JobRow.state))}

    def logs(self, job: str, *, lines: int = 200, offset: int | None = None, project: str = DEFAULT_PROJECT) -> LogLines:
        """What its processes wrote: the last `lines` lines, or with `offset` those that came since. Raises NotFound."""
        check_window(lines, offset)
        with self._database.read() as session:
            row = find_job(session, project, job)
        return read_log(self._logs / f"{job_id(row.number)}.log", lines, offset=offset)

    # what people ask for

    def submit(self, kind: str, arguments: Mapping[str, Any], *, actor: str, project: str = DEFAULT_PROJECT) -> JobInfo:
        """Begin a job; one with the same kind and arguments that has not ended is returned instead.

        Raises InvalidInput for an unknown kind or arguments that do not fit it, NotFound for a version that there is not, and
        LimitReached when too many wait already.
        """
        asked = check_arguments(kind, dict(arguments))
        with self._deciding() as decision:
            session = decision.session
            asked, version = _pin(session, project, asked)
            text = msgspec.json.encode(asked, order="deterministic").decode()
            row = _equal(session, project, kind, text)
            if row is None:
                _refuse_too_many(session, project)
                now = self._clock()
                row = JobRow(
                    project=project,
                    kind=kind,
                    subject=asked.version,
                    version_id=version.id if version is not None else None,
                    arguments=text,
                    state="queued",
                    measures=asked.measures,
                    actor=actor,
                    created_at=now,
                    queued_at=now,
                )
                session.add(row)
                session.flush()
        return self._view(row)

    def cancel(self, job: str, *, project: str = DEFAULT_PROJECT) -> JobInfo:
        """One that waits is cancelled at once, one that runs as soon as its process is gone. Raises NotFound, Conflict."""
        with self._deciding() as decision:
            row = find_job(decision.session, project, job)
            if row.state == "queued":
                self._end(decision, row, "cancelled")
            elif row.state == "running":
                row.state = "cancelling"
            elif row.state != "cancelling":
                raise Conflict(f"The job {job} is over: it {_said(row.state)}.", code="job_ended")
        return self._view(row)

    def retry(self, job: str, *, project: str = DEFAULT_PROJECT) -> JobInfo:
        """Run one that failed or was cancelled again. Raises NotFound, also of its version, and Conflict."""
        with self._deciding() as decision:
            session = decision.session
            row = find_job(session, project, job)
            if row.state not in ("failed", "cancelled"):
                raise Conflict(f"The job {job} {_said(row.state)}; only one that failed or was cancelled is retried.",
                               code="job_not_retried")  # fmt: skip
            if row.subject:
                find_version(session, project, row.subject)
            same = _equal(session, project, row.kind, row.arguments)
            if same is not None:
                raise Conflict(
                    f"The job {job_id(same.number)}, with the same arguments, {_said(same.state)}.",
                    code="job_repeated",
                    next_step=f"openmaas jobs show {job_id(same.number)}",
                )
            row.state, row.attempt, row.queued_at = "queued", row.attempt + 1, self._clock()
            row.stage, row.done, row.total = "", 0.0, 0.0
            row.result = row.cause = row.started_at = row.ended_at = None
        return self._view(row)

    # what its process tells

    def report(self, job: str, report: JobReport, *, key: str, project: str = DEFAULT_PROJECT) -> JobInfo:
        """Take how far a job is, or its result or the cause of its failure, from the process whose key has this id.

        Raises Forbidden for another process, Cancelled when the job is being cancelled, Conflict when it is over.
        """
        if report.result is not None and report.cause is not None:
            raise InvalidInput("A report has a result or a cause, not both.", code="invalid_report")
        last = report.result is not None or report.cause is not None
        with self._deciding() if last else self._noting() as decision:
            row = find_job(decision.session, project, job)
            if key_id(row) != key:
                raise Forbidden(f"This key is not that of the process of {job}.", code="other_job")
            if row.state == "cancelling":
                raise Cancelled(f"The job {job} is being cancelled.", code="job_cancelled")
            if row.state != "running":
                raise Conflict(f"The job {job} {_said(row.state)}.", code="job_ended")
            if report.stage or report.done or report.total:
                row.stage = "".join(c for c in report.stage if c.isprintable())[:_LONGEST_STAGE]
                row.done, row.total = max(0.0, report.done), max(0.0, report.total)
            if report.result is not None:
                row.result, row.done = msgspec.json.encode(report.result).decode(), row.total
                self._end(decision, row, "succeeded")
            elif report.cause is not None:
                cause = Cause(
                    code=report.cause.code[:64],
                    message=report.cause.message[:_LONGEST_MESSAGE],
                    stderr=tuple(report.cause.stderr[-_SHOWN_LINES:]),
                    next_step=report.cause.next_step[:_LONGEST_MESSAGE],
                )
                self._fail(decision, row, cause)
        return self._view(row)

    # what the supervisor tells

    def observe(self, observed: Observed) -> None:
        """End, put back or ask again for what has no process any more, and start what is due."""
        seen = {(status.id, status.attempt): status for status in observed.jobs}
        for start in seen:
            self._fleet.job_keys.pop(start, None)
        told = observed.desired >= self._fleet.desired
        with self._database.read() as session:
            live = _rows(session, LIVE)
            if not any(self._verdict(row, seen, told) for row in live) and not self._due(session):
                return
        with self._deciding() as decision:
            for row in _rows(decision.session, LIVE):
                self._settle(decision, row, seen, told)

    def _verdict(self, row: JobRow, seen: Mapping[tuple[str, int], JobStatus], told: bool) -> Verdict | None:
        start = start_of(row)
        return verdict(row.state, seen.get(start), has_key=start in self._fleet.job_keys, told=told)

    def _settle(self, decision: _Decision, row: JobRow, seen: Mapping[tuple[str, int], JobStatus], told: bool) -> None:
        match self._verdict(row, seen, told):
            case "cancelled":
                self._end(decision, row, "cancelled")
            case "failed":
                status = seen[start_of(row)]
                cause = status.cause or Cause(code="no_result", message="Its process ended without a result.")
                self._fail(decision, row, cause)
            case "put back":
                self._take_key(decision, row)
                row.state, row.started_at, row.stage, row.done, row.total = "queued", None, "", 0.0, 0.0
                _log.info("put back", job=job_id(row.number), kind=row.kind)
            case "start again":
                self._take_key(decision, row)
                self._start(decision.session, row)

    # transactions and what follows them

    @contextlib.contextmanager
    def _noting(self) -> Iterator[_Decision]:
        """A transaction that nobody need be told of."""
        with self._database.write() as session:
            yield _Decision(session)

    @contextlib.contextmanager
    def _deciding(self) -> Iterator[_Decision]:
        """A transaction that starts what is due by it, and what follows its commit."""
        with self._database.write() as session:
            decision = _Decision(session)
            yield decision
            session.flush()
            for row in self._due(session):
                self._start(session, row)
        for start in decision.gone:
            self._fleet.job_keys.pop(start, None)
        self._keys.refresh()
        self._changed()
        for info in decision.ended:
            self._tell(info)

    def _tell(self, info: JobInfo) -> None:
        _log.info("ended", job=info.id, kind=info.kind, state=info.state, cause=info.cause.message if info.cause else None)
        for callback in self._on_end[info.kind]:
            try:
                callback(info)
            except Exception:  # the job has ended all the same
                _log.exception("a callback failed", job=info.id, kind=info.kind)

    def _due(self, session: Session) -> Sequence[JobRow]:
        return due(_rows(session, ("queued",), self._limit + 1), _rows(session, LIVE), self._limit)

    def _start(self, session: Session, row: JobRow) -> None:
        row.starts += 1
        row.state, row.started_at = "running", self._clock()
        row.stage, row.done, row.total = "", 0.0, 0.0
        self._fleet.job_keys[start_of(row)] = self._keys.make_job_key(session, key_id(row), row.project)
        session.flush()
        _log.info("starts", job=job_id(row.number), kind=row.kind, attempt=row.attempt)

    def _fail(self, decision: _Decision, row: JobRow, cause: Cause) -> None:
        hint = cause.next_step or f"openmaas jobs logs {job_id(row.number)}"
        row.cause = msgspec.json.encode(msgspec.structs.replace(cause, next_step=hint)).decode()
        self._end(decision, row, "failed")

    def _end(self, decision: _Decision, row: JobRow, state: JobState) -> None:
        row.state, row.ended_at = state, self._clock()
        self._take_key(decision, row)
        info = self._view(row)
        if state == "succeeded":
            for callback in self._on_success[row.kind]:
                callback(decision.session, info)
        decision.ended.append(info)

    def _take_key(self, decision: _Decision, row: JobRow) -> None:
        decision.gone.append(start_of(row))
        self._keys.retire(decision.session, key_id(row))

    def _view(self, row: JobRow) -> JobInfo:
        return view_job(row, self._fleet.jobs, row.result)


def _rows(session: Session, states: Sequence[str], limit: int | None = None) -> Sequence[JobRow]:
    """Of all projects, in the order in which they wait."""
    query = select(JobRow).where(JobRow.state.in_(states)).order_by(JobRow.queued_at, JobRow.number)
    return session.scalars(query.limit(limit)).all()


def _pin(session: Session, project: str, asked: Arguments) -> tuple[Arguments, VersionRow | None]:
    """The arguments with the exact versions that they mean now, and the row of the one that the job is about."""

    def exact(reference: str) -> str:
        model, version = find_version(session, project, reference)
        return f"{model.name}:{version.number}"

    def exact_dataset(reference: str) -> str:
        dataset, version = find_dataset(session, project, reference)
        return f"{dataset.name}:{version.number}"

    pinned = asked.pinned(exact, exact_dataset)
    return pinned, find_version(session, project, pinned.version)[1] if pinned.version else None


def _equal(session: Session, project: str, kind: str, arguments: str) -> JobRow | None:
    """A job that does the same and is not over."""
    query = select(JobRow).where(JobRow.state.in_(("queued", "running")), JobRow.project == project, JobRow.kind == kind)
    return session.scalar(query.where(JobRow.arguments == arguments).order_by(JobRow.number).limit(1))


def _refuse_too_many(session: Session, project: str) -> None:
    waiting = select(func.count()).select_from(JobRow).where(JobRow.project == project, JobRow.state == "queued")
    count = session.scalar(waiting) or 0
    if count >= _MOST_WAITING:
        raise LimitReached(
            f"{count} jobs wait already; the limit is {_MOST_WAITING}.",
            code="too_many_jobs",
            next_step="Wait for some to end, or openmaas jobs cancel those that are not needed.",
            retry_after=60,
        )


def _said(state: str) -> str:
    return {
        "queued": "waits", "running": "runs", "cancelling": "is being cancelled", "succeeded": "has succeeded",
        "failed": "has failed", "cancelled": "was cancelled",
    }[state]  # fmt: skip

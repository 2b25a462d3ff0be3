"""The state machine of jobs over both databases, with the supervisor's reports written by hand."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import select

from openmaas.control.jobs import JobService
from openmaas.control.keys import KeyService
from openmaas.control.observed import Fleet
from openmaas.control.snapshots import Hub
from openmaas.core.contracts import SERVER_STOPPED, Cause, Desired, JobSpec, JobStatus, Observed
from openmaas.core.errors import Cancelled, Conflict, Forbidden, InvalidInput, LimitReached, NotFound, Refused, Unauthenticated
from openmaas.core.resources import CauseInfo, JobInfo, JobReport
from openmaas.core.settings import Settings
from openmaas.store.database import Database
from openmaas.store.tables import ApprovalRow, KeyRow
from tests.integration.registry import Registry

DONE = JobReport(result={"answer": 42})
FAILED = JobReport(cause=CauseInfo(code="broken", message="It broke.", stderr=[], next_step=""))


class World:
    """Control's part of jobs. `jobs` of the settings: how many may run at once."""

    def __init__(self, settings: Settings, database: Database, registry: Registry, jobs: int = 2) -> None:
        self.database = database
        self.registry = registry
        self._settings = msgspec.structs.replace(settings, jobs=jobs)
        self.started_again()

    def started_again(self) -> None:
        """As control is after a restart: what was in memory alone is lost."""
        self.fleet = Fleet()
        self.hub = Hub(self.database, self.fleet, asyncio.get_running_loop())
        self.keys = KeyService(self._settings, self.database, self.hub.publish)
        self.jobs = JobService(self._settings, self.database, self.fleet, self.keys, self.hub.publish)
        self.hub.publish()

    def submit(self, note: str = "", kind: str = "dummy", **arguments: Any) -> str:
        return self.jobs.submit(kind, {"note": note, **arguments}, actor="admin").id

    async def specs(self) -> dict[str, JobSpec]:
        """What the supervisor is told, by id."""
        await asyncio.sleep(0)
        desired = msgspec.msgpack.decode(await asyncio.wait_for(anext(self.hub.desired.follow()), 5), type=Desired)
        return {spec.id: spec for spec in desired.jobs}

    def observe(self, *statuses: JobStatus, desired: int | None = None) -> None:
        observed = Observed(desired=self.fleet.desired if desired is None else desired, jobs=statuses)
        self.fleet.take(observed)
        self.jobs.observe(observed)

    def state(self, job: str) -> str:
        return self.jobs.get(job).state

    def report(self, spec: JobSpec, report: JobReport) -> JobInfo:
        """As its process does, through the key."""
        principal = self.keys.authenticate(spec.key)
        assert (principal.role, principal.project) == ("job", "default")
        return self.jobs.report(spec.id, report, key=principal.id)


def running(spec: JobSpec, pid: int = 7) -> JobStatus:
    return JobStatus(id=spec.id, attempt=spec.attempt, state="running", pid=pid)


def ended(spec: JobSpec, code: str = "job_ended", message: str = "It ended.") -> JobStatus:
    return JobStatus(id=spec.id, attempt=spec.attempt, state="ended", cause=Cause(code=code, message=message))


async def _spec(world: World, job: str) -> JobSpec:
    return (await world.specs())[job]


@pytest.fixture
async def world(settings: Settings, database: Database, registry: Registry) -> World:
    return World(settings, database, registry)


# ── the life of one job ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_from_submission_to_result(world: World) -> None:
    job = world.submit(seconds=3)
    assert job == "job-000001"
    spec = (await world.specs())[job]
    assert (spec.attempt, spec.kind, spec.arguments["seconds"]) == (1, "dummy", 3.0)
    world.observe(running(spec))
    assert world.jobs.get(job).pid == 7
    told = world.report(spec, JobReport(stage="half\x00 way\n", done=1.0, total=2.0))
    assert (told.state, told.stage, told.done, told.total) == ("running", "half way", 1.0, 2.0)
    done = world.report(spec, DONE)
    assert (done.state, done.result, done.done, done.pid) == ("succeeded", {"answer": 42}, 2.0, None)
    assert done.started_at is not None and done.ended_at is not None and done.ended_at >= done.started_at >= done.created_at
    assert await world.specs() == {}
    world.observe(ended(spec))  # its process ends after it has told
    assert world.state(job) == "succeeded"


async def test_the_key_is_good_while_it_runs_and_only_then(world: World) -> None:
    spec = await _spec(world, world.submit())
    principal = world.keys.authenticate(spec.key)
    assert principal.id == "job-000001-1"
    world.report(spec, DONE)
    with pytest.raises(Unauthenticated):
        world.keys.authenticate(spec.key)
    with world.database.read() as session:
        rows = session.scalars(select(KeyRow).where(KeyRow.role == "job")).all()
        assert [(row.id, row.revoked_at is not None) for row in rows] == [("job-000001-1", True)]
        assert all(spec.key not in repr(vars(row)) for row in rows)


async def test_a_process_that_was_seen_needs_its_key_no_more(world: World) -> None:
    job = world.submit()
    spec = await _spec(world, job)
    world.observe(running(spec))
    world.hub.publish()
    assert (await _spec(world, job)).key == ""
    assert world.report(spec, DONE).state == "succeeded"


@pytest.mark.parametrize(
    ("status_of", "state", "code"),
    [
        (lambda spec: ended(spec, "job_killed"), "failed", "job_killed"),
        (lambda spec: JobStatus(id=spec.id, attempt=spec.attempt, state="ended"), "failed", "no_result"),
        (lambda spec: ended(spec, SERVER_STOPPED), "running", None),
    ],
)
async def test_a_process_that_ends_by_itself(world: World, status_of: Any, state: str, code: str | None) -> None:
    job = world.submit()
    spec = await _spec(world, job)
    world.observe(running(spec))
    world.observe(status_of(spec))
    info = world.jobs.get(job)
    assert (info.state, info.cause.code if info.cause else None) == (state, code)
    if info.cause is not None:
        assert info.cause.next_step == f"openmaas jobs logs {job}"


async def test_one_that_is_put_back_runs_again_under_another_start_in_the_same_attempt(world: World) -> None:
    job = world.submit()
    first = await _spec(world, job)
    world.observe(running(first))
    world.observe(ended(first, SERVER_STOPPED))
    second = await _spec(world, job)
    assert (second.attempt, world.jobs.get(job).attempt) == (2, 1)
    assert second.key and second.key != first.key
    with pytest.raises(Unauthenticated):
        world.keys.authenticate(first.key)
    world.observe(ended(first, SERVER_STOPPED))  # told once more, before the supervisor has heard
    assert await _spec(world, job) == second
    world.observe(running(second))
    assert world.report(second, DONE).state == "succeeded"


async def test_a_reported_cause_is_a_failure_and_a_retry_is_another_attempt(world: World) -> None:
    job = world.submit()
    spec = await _spec(world, job)
    world.observe(running(spec))
    failed = world.report(spec, FAILED)
    assert (failed.state, failed.cause.message if failed.cause else "") == ("failed", "It broke.")
    world.observe(ended(spec, "job_killed"))
    assert world.jobs.get(job).cause == failed.cause, "the first end stays"
    again = world.jobs.retry(job)
    assert (again.attempt, again.cause, again.stage, again.ended_at) == (2, None, "", None)
    second = await _spec(world, job)
    assert second.attempt == 2
    world.observe(ended(spec, "job_killed"))  # of the attempt before
    assert world.state(job) == "running"
    assert world.report(second, DONE).state == "succeeded"
    with pytest.raises(Conflict):
        world.jobs.retry(job)


# ── cancelling ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_waiting_job_is_cancelled_at_once(world: World) -> None:
    one, two, three = (world.submit(str(number)) for number in range(3))
    assert world.jobs.cancel(three).state == "cancelled"
    assert set(await world.specs()) == {one, two}
    with pytest.raises(Conflict):
        world.jobs.cancel(three)
    assert world.jobs.retry(three).state == "queued"


async def test_a_running_job_is_cancelled_when_its_process_is_gone(world: World) -> None:
    job = world.submit()
    spec = await _spec(world, job)
    world.observe(running(spec))
    assert world.jobs.cancel(job).state == world.jobs.cancel(job).state == "cancelling"
    assert await world.specs() == {}
    with pytest.raises(Cancelled):
        world.report(spec, JobReport(stage="on"))
    with pytest.raises(Cancelled):
        world.report(spec, DONE)
    world.observe(running(spec))
    assert world.state(job) == "cancelling"
    world.observe(desired=world.fleet.desired - 1)
    assert world.state(job) == "cancelling", "the supervisor has not heard of it yet"
    world.observe()
    assert world.state(job) == "cancelled"
    with pytest.raises(Unauthenticated):
        world.keys.authenticate(spec.key)


# ── control is restarted ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_after_a_restart_of_control_a_running_job_goes_on(world: World) -> None:
    job = world.submit()
    spec = await _spec(world, job)
    world.observe(running(spec))
    world.started_again()
    assert (await _spec(world, job)).key == ""
    world.observe(running(spec))
    assert world.report(spec, DONE).state == "succeeded"


async def test_one_that_was_not_started_yet_gets_another_key(world: World) -> None:
    job = world.submit()
    lost = await _spec(world, job)
    world.started_again()
    world.observe()
    spec = await _spec(world, job)
    assert spec.attempt == 2 and spec.key and world.jobs.get(job).attempt == 1
    with pytest.raises(Unauthenticated):
        world.keys.authenticate(lost.key)
    world.observe()  # it was told, and has not been seen yet
    assert (await _spec(world, job)) == spec
    world.observe(running(spec))
    assert world.report(spec, DONE).state == "succeeded"


# ── the order ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_only_so_many_run_at_once_in_their_order(world: World) -> None:
    jobs = [world.submit(str(number)) for number in range(5)]
    assert sorted(await world.specs()) == jobs[:2]
    world.report(await _spec(world, jobs[1]), DONE)
    assert sorted(await world.specs()) == [jobs[0], jobs[2]]


async def test_one_that_measures_runs_alone_and_is_not_passed_over(world: World) -> None:
    first = world.submit("first")
    measuring = world.submit("measuring", kind="dummy-measure")
    after = world.submit("after")
    assert set(await world.specs()) == {first}
    world.report(await _spec(world, first), DONE)
    assert set(await world.specs()) == {measuring}
    spec = await _spec(world, measuring)
    world.observe(running(spec))
    world.jobs.cancel(measuring)
    assert await world.specs() == {}, "its process is still there"
    world.observe()
    assert set(await world.specs()) == {after}


async def test_an_equal_job_is_not_begun_twice_while_it_is_open(world: World) -> None:
    first = world.submit("same", seconds=1)
    assert world.submit("same", seconds=1.0) == first
    assert world.submit("same", seconds=1, kind="dummy-measure") != first
    world.report(await _spec(world, first), FAILED)
    second = world.submit("same", seconds=1)
    assert second != first
    with pytest.raises(Conflict, match=second):
        world.jobs.retry(first)


async def test_many_submit_at_once_and_every_id_is_given_once(world: World) -> None:
    made: list[str] = []
    threads = [
        threading.Thread(target=lambda n=number: made.append(world.submit(str(n % 10)))) for number in range(20)
    ]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 20 and len(set(made)) == 10
    assert len(await world.specs()) == 2


async def test_the_queue_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openmaas.control.jobs._MOST_WAITING", 2)
    for number in range(4):
        world.submit(str(number))
    with pytest.raises(LimitReached, match="2 jobs wait"):
        world.submit("one more")


# ── what others hang on it ───────────────────────────────────────────────────────────────────────────────────────────


async def test_callbacks_of_success_share_its_transaction_and_those_of_an_end_come_after_it(world: World) -> None:
    ends: list[tuple[str, str]] = []

    def approve(session: Any, info: JobInfo) -> None:
        assert info.state == "succeeded"
        session.add(ApprovalRow(project="default", sha256="a" * 64, reason=str(info.result), actor=info.id, at=1.0))

    def note(info: JobInfo) -> None:
        ends.append((info.id, world.jobs.get(info.id).state))

    world.jobs.on_success("dummy", approve)
    world.jobs.on_end("dummy", lambda info: 1 / 0)  # one that fails harms nobody
    world.jobs.on_end("dummy", note)
    good, bad = world.submit("good"), world.submit("bad")
    world.report(await _spec(world, bad), FAILED)
    world.report(await _spec(world, good), DONE)
    assert ends == [(bad, "failed"), (good, "succeeded")]
    with world.database.read() as session:
        assert [row.actor for row in session.scalars(select(ApprovalRow))] == [good]


async def test_a_success_that_cannot_be_kept_is_none(world: World) -> None:
    def refuse(session: Any, info: JobInfo) -> None:
        session.add(ApprovalRow(project="default", sha256="a" * 64, reason="", actor=info.id, at=1.0))
        session.flush()
        raise Refused("The version is gone.", code="version_gone")

    world.jobs.on_success("dummy", refuse)
    job = world.submit()
    spec = await _spec(world, job)
    with pytest.raises(Refused):
        world.report(spec, DONE)
    assert world.state(job) == "running"
    with world.database.read() as session:
        assert session.scalars(select(ApprovalRow)).all() == []
    world.observe()  # a report from before the supervisor had heard of it
    assert await _spec(world, job) == spec, "its process, which goes on, keeps its key"
    assert world.report(spec, FAILED).state == "failed"


# ── what comes in ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_version_is_pinned_and_kept(world: World) -> None:
    world.registry.push("digits")
    world.registry.aliases.set("digits", "champion", 1, actor="admin")
    job = world.submit(version="digits@champion")
    info = world.jobs.get(job)
    assert (info.subject, info.arguments["version"]) == ("digits:1", "digits:1")
    world.registry.aliases.remove("digits", "champion", actor="admin")
    for delete in (
        lambda: world.registry.versions.delete("digits:1"),
        lambda: world.registry.models.delete("digits", actor="admin"),
    ):
        with pytest.raises(Conflict, match=job):
            delete()
    world.report(await _spec(world, job), FAILED)
    world.registry.versions.delete("digits:1")
    with pytest.raises(NotFound):
        world.jobs.retry(job)


@pytest.mark.parametrize(
    ("kind", "arguments", "error"),
    [
        ("nothing", {}, InvalidInput),
        ("", {}, InvalidInput),
        ("dummy", {"seconds": "soon"}, InvalidInput),
        ("dummy", {"unknown": 1}, InvalidInput),
        ("dummy", {"version": "no/name"}, InvalidInput),
        ("dummy", {"version": "digits"}, NotFound),
        ("convert", {"version": "digits:1", "to": "fortran"}, InvalidInput),
        ("measure", {}, InvalidInput),
        ("parity", {"version": "digits:1", "data": {"x": [10**30]}}, InvalidInput),
        ("dummy", {"lines": 2**70}, InvalidInput),
        ("evaluate", {"version": "digits:1", "data": ""}, InvalidInput),
        ("evaluate", {"version": "digits:1", "data": "d", "rows": -5}, InvalidInput),
        ("evaluate", {"version": "digits:1", "data": "d", "rows": 10**400}, InvalidInput),
        ("evaluate", {"version": "digits:1", "data": "d", "seed": -1}, InvalidInput),
        ("optimize", {"version": "digits:1", "auto": True, "seed": -1}, InvalidInput),
    ],
)
async def test_what_cannot_be_a_job_is_refused(world: World, kind: str, arguments: dict[str, Any], error: Any) -> None:
    with pytest.raises(error):
        world.jobs.submit(kind, arguments, actor="admin")
    assert world.jobs.list().total == 0


@pytest.mark.parametrize(
    "job", ["", "job-1", "job-0000001", "job-000001x", "JOB-000001", "job-" + "9" * 40, "../etc", "job-٠٠٠٠٠١"]
)
async def test_what_is_no_job(world: World, job: str) -> None:
    world.submit()
    for ask in (world.jobs.get, world.jobs.cancel, world.jobs.retry, world.jobs.logs):
        with pytest.raises((InvalidInput, NotFound)):
            ask(job)


async def test_another_project_sees_nothing(world: World) -> None:
    job = world.submit()
    assert world.jobs.list(project="other").items == []
    for ask in (world.jobs.get, world.jobs.cancel, world.jobs.retry, world.jobs.logs):
        with pytest.raises(NotFound):
            ask(job, project="other")
    with pytest.raises(NotFound):
        world.jobs.report(job, DONE, key="job-000001-1", project="other")


async def test_only_its_own_process_reports_for_it(world: World) -> None:
    one, two = world.submit("one"), world.submit("two")
    for key in ("admin", "job-000002-1", "job-000001-2", ""):
        with pytest.raises(Forbidden):
            world.jobs.report(one, DONE, key=key)
    spec = await _spec(world, two)
    with pytest.raises(InvalidInput):
        world.report(spec, JobReport(result={}, cause=FAILED.cause))
    assert world.report(spec, JobReport(result={})).state == "succeeded"
    with pytest.raises(Conflict):
        world.jobs.report(two, DONE, key="job-000002-1")


async def test_listings_are_paged_newest_first_and_by_state(world: World) -> None:
    jobs = [world.submit(str(number)) for number in range(5)]
    first = world.jobs.list(limit=2)
    assert ([job.id for job in first.items], first.total) == ([jobs[4], jobs[3]], 5)
    rest = world.jobs.list(limit=3, after=first.next)
    assert ([job.id for job in rest.items], rest.next) == ([jobs[2], jobs[1], jobs[0]], None)
    assert [job.id for job in world.jobs.list(state="running").items] == [jobs[1], jobs[0]]
    assert world.jobs.list(kind="convert").total == 0
    assert world.jobs.counts() == {"queued": 3, "running": 2}


async def test_a_list_leaves_long_results_out(world: World) -> None:
    """Hundreds of comparisons would be hundreds of mebibytes."""
    for length in (10, 20_000):
        job = world.submit(note=str(length))
        world.jobs.report(job, JobReport(result={"text": "a" * length}), key=f"{job}-1")
        assert len((world.jobs.get(job).result or {})["text"]) == length
    assert [job.result for job in world.jobs.list().items] == [None, {"text": "a" * 10}]


async def test_the_log_is_read_from_its_end_or_from_where_one_was(world: World, settings: Settings) -> None:
    job = world.submit()
    assert world.jobs.logs(job).lines == []
    path = Path(settings.home) / "logs" / "jobs" / f"{job}.log"
    path.parent.mkdir(parents=True)
    path.write_text("one\ntwo\nthr")
    seen = world.jobs.logs(job, lines=1)
    assert seen.lines == ["two"]
    path.write_text("one\ntwo\nthree\n")
    assert world.jobs.logs(job, offset=seen.offset).lines == ["three"]
    for bad in ({"lines": 0}, {"lines": 10**6}, {"offset": -1}):
        with pytest.raises(InvalidInput):
            world.jobs.logs(job, **bad)

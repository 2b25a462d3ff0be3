"""What becomes of jobs that ended long ago."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select

from openmaas.store.tables import EvaluationRow, JobRow, KeyRow, VersionRow
from tests.integration.conftest import Clock
from tests.integration.registry import Registry

DAY = 24 * 3600.0


def add(registry: Registry, clock: Clock, state: str = "succeeded", **more: Any) -> int:
    """A job that ended now, with its log and the key that its process had."""
    with registry.database.write() as session:
        row = JobRow(
            project="default", kind="dummy", subject="", arguments="{}", state=state, starts=1, measures=False, actor="admin",
            created_at=clock(), queued_at=clock(), ended_at=None if state in ("queued", "running") else clock(), **more,
        )  # fmt: skip
        session.add(row)
        session.flush()
        session.add(
            KeyRow(
                id=f"job-{row.number:06d}-1", digest=f"{row.number:064x}", role="job", project="default",
                created_at=clock(), revoked_at=clock(),
            )
        )  # fmt: skip
    logs = registry.settings.home_path / "logs" / "jobs"
    logs.mkdir(parents=True, exist_ok=True)
    (logs / f"job-{row.number:06d}.log").write_bytes(b"12345")
    (logs / f"job-{row.number:06d}.log.1").write_bytes(b"1234567")
    return row.number


def evaluation(job: int) -> EvaluationRow:
    return EvaluationRow(
        project="default", version="digits:1", digest="d", dataset="t:1", dataset_digest="e", metric="accuracy", value=0.9,
        result="{}", job=f"job-{job:06d}", actor="admin", at=0.0,
    )  # fmt: skip


def left(registry: Registry) -> tuple[list[int], list[str], list[str]]:
    with registry.database.read() as session:
        rows = session.scalars(select(JobRow.number).order_by(JobRow.number)).all()
        keys = session.scalars(select(KeyRow.id).where(KeyRow.role == "job").order_by(KeyRow.id)).all()
    return list(rows), list(keys), sorted(path.name for path in (registry.settings.home_path / "logs" / "jobs").iterdir())


def test_a_job_that_ended_long_ago_goes_with_its_log_and_the_key_of_its_process(registry: Registry, clock: Clock) -> None:
    old = [add(registry, clock), add(registry, clock, "failed"), add(registry, clock, "cancelled")]
    clock.ahead += 89 * DAY
    young = add(registry, clock)
    assert registry.garbage.report().jobs == registry.garbage.apply().jobs == 0
    clock.ahead += 2 * DAY
    report = registry.garbage.report()
    assert (report.jobs, report.bytes, report.done) == (len(old), 12 * len(old), False)
    freed = registry.garbage.apply()
    assert (freed.jobs, freed.bytes, freed.done) == (len(old), 12 * len(old), True)
    assert left(registry) == (
        [young], [f"job-{young:06d}-1"], [f"job-{young:06d}.log", f"job-{young:06d}.log.1"]
    )  # fmt: skip
    assert add(registry, clock) > young  # numbers are never given again


@pytest.mark.parametrize("state", ["queued", "running", "cancelling"])
def test_a_job_that_has_not_ended_stays_however_old(registry: Registry, clock: Clock, state: str) -> None:
    job = add(registry, clock, state)
    clock.ahead += 1000 * DAY
    assert registry.garbage.apply().jobs == 0
    assert left(registry)[0] == [job]


def test_a_result_keeps_the_row_of_its_job_and_not_its_log(registry: Registry, clock: Clock) -> None:
    evaluated, pushed = add(registry, clock), add(registry, clock)
    with registry.database.write() as session:
        session.add(evaluation(evaluated))
    registry.push("digits")
    with registry.database.write() as session:
        session.scalars(select(VersionRow)).one().created_by = f"job-{pushed:06d}-1"
    clock.ahead += 1000 * DAY
    report, freed = registry.garbage.report(), registry.garbage.apply()
    assert (report.jobs, freed.jobs) == (0, 0)
    assert report.bytes == freed.bytes == 24
    assert left(registry) == ([evaluated, pushed], [f"job-{evaluated:06d}-1", f"job-{pushed:06d}-1"], [])
    with registry.database.read() as session:
        assert session.scalars(select(EvaluationRow.value)).all() == [0.9]

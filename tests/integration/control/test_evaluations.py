"""Evaluations on both databases: kept when their job succeeds, never when they are of something else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import select

from openmaas.control.evaluations import EvaluationService, newest
from openmaas.control.jobs import JobService
from openmaas.control.keys import KeyService
from openmaas.control.observed import Fleet
from openmaas.control.references import find_dataset, find_version
from openmaas.core.errors import InvalidInput, NotFound, OpenMaaSError
from openmaas.core.evaluations import Estimate, Evaluation
from openmaas.core.resources import JobInfo, JobReport
from openmaas.core.settings import Settings
from openmaas.store.database import Database
from openmaas.store.tables import EvaluationRow
from tests.integration.control.gated import HERE, add_dataset, answers
from tests.integration.control.test_deployments import add_versions


class World:
    def __init__(self, database: Database, home: Path) -> None:
        self.database = database
        settings, self.fleet = Settings(home=str(home), jobs=2), Fleet()
        self.keys = KeyService(settings, database, lambda: None)
        self.jobs = JobService(settings, database, self.fleet, self.keys, lambda: None)
        self.evaluations = EvaluationService(database, self.jobs)

    def made(
        self, version: str = "digits:1", dataset: str = "digits-test:1", wrong: int = 30, **changes: Any
    ) -> dict[str, Any]:
        """An evaluation as a job tells it."""
        with self.database.read() as session:
            digests = find_version(session, "default", version)[1].digest, find_dataset(session, "default", dataset)[1].digest
        evaluation = Evaluation(
            version=version, digest=digests[0], dataset=dataset, dataset_digest=digests[1], task="classification",
            metric="accuracy", rows=1000, metrics={"accuracy": Estimate(value=1 - wrong / 1000, low=0.9, high=0.99)},
            outcomes=answers(wrong), processor=HERE,
        )  # fmt: skip
        plain: dict[str, Any] = msgspec.to_builtins(evaluation)
        return plain

    def end(self, kind: str, result: dict[str, Any], **arguments: Any) -> JobInfo:
        """A job of that kind runs, and tells this result."""
        given = {"version": "digits:1", "data": "digits-test", **arguments}
        job = self.jobs.submit(kind, given, actor="anna")
        return self.jobs.report(job.id, JobReport(result=result), key=f"{job.id}-1")

    def rows(self) -> list[EvaluationRow]:
        with self.database.read() as session:
            return list(session.scalars(select(EvaluationRow).order_by(EvaluationRow.id)))


@pytest.fixture
def world(database: Database, tmp_path: Path) -> World:
    add_versions(database, "digits", 2)
    add_dataset(database)
    return World(database, tmp_path)


def test_a_success_leaves_a_row_with_the_exact_version_and_dataset(world: World) -> None:
    job = world.end("evaluate", {"evaluation": world.made()})
    (row,) = world.rows()
    assert job.state == "succeeded"
    assert (row.version, row.dataset, row.metric, row.value) == ("digits:1", "digits-test:1", "accuracy", 0.97)
    assert (row.job, row.actor) == (job.id, "anna")
    assert msgspec.json.decode(row.result, type=Evaluation).outcomes == answers(30)


def test_a_comparison_may_bring_several(world: World) -> None:
    several = [world.made(), world.made("digits:2", wrong=40)]
    world.end("compare", {"comparison": {}, "evaluations": several}, others=["digits:2"])
    assert [(row.version, row.value) for row in world.rows()] == [("digits:1", 0.97), ("digits:2", 0.96)]
    world.end("compare", {"comparison": {}}, others=["digits:2"])
    assert len(world.rows()) == 2


def test_the_newest_counts_and_the_others_stay(world: World) -> None:
    for wrong in (30, 20):
        world.end("evaluate", {"evaluation": world.made(wrong=wrong)})
    digests = world.made()["digest"], world.made()["dataset_digest"]
    with world.database.read() as session:
        found = newest(session, *digests, "default")
        assert found is not None
        assert found.value == 0.98
        assert newest(session, *digests, "other") is None
        assert newest(session, "0" * 64, digests[1], "default") is None
    page = world.evaluations.list("digits:1", limit=1)
    assert (page.total, page.items[0].value, page.items[0].evaluation["outcomes"]) == (2, 0.98, None)
    (older,) = world.evaluations.list("digits:1", after=page.next, limit=1, dataset="digits-test").items
    assert older.value == 0.97
    assert world.evaluations.list("digits:2").items == []
    with pytest.raises(NotFound):
        world.evaluations.list("digits:1", dataset="nothing")


@pytest.mark.parametrize(
    "changes",
    [
        {"digest": "0" * 64},
        {"dataset_digest": "0" * 64},
        {"version": "digits@champion"},
        {"version": "digits"},
        {"dataset": "digits-test"},
        {"version": "digits:9"},
        {"metrics": {}},
        {"metrics": {"accuracy": {"value": None}}},
        {"task": "guessing"},
        {"rows": "many"},
    ],
)
def test_what_is_no_evaluation_of_it_makes_no_success(world: World, changes: dict[str, Any]) -> None:
    with pytest.raises(OpenMaaSError):
        world.end("evaluate", {"evaluation": {**world.made(), **changes}})
    assert world.rows() == []
    assert [job.state for job in world.jobs.list().items] == ["running"]


def test_an_evaluation_without_a_result_is_refused(world: World) -> None:
    with pytest.raises(InvalidInput, match="holds none"):
        world.end("evaluate", {})


def test_a_job_may_not_tell_of_a_version_that_it_is_not_about(world: World) -> None:
    """Gates would let that one pass."""
    with pytest.raises(InvalidInput, match="it is of digits:2 on digits-test:1, and the job is about digits:1"):
        world.end("evaluate", {"evaluation": world.made("digits:2", wrong=0)})
    assert world.rows() == []

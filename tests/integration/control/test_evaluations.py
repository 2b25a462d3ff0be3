"""Evaluations on both databases: kept when their job succeeds, never when they are of something else."""

from __future__ import annotations

import base64
import zlib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import select, update

from openmaas.control.evaluations import EvaluationService
from openmaas.control.jobs import JobService
from openmaas.control.keys import KeyService
from openmaas.control.observed import Fleet
from openmaas.control.references import find_dataset, find_version
from openmaas.core.errors import InvalidInput, NotFound, OpenMaaSError
from openmaas.core.evaluations import Estimate, Evaluation
from openmaas.core.resources import CauseInfo, JobInfo, JobReport
from openmaas.core.settings import Settings
from openmaas.store.database import Database
from openmaas.store.tables import EvaluationRow, VersionRow
from tests.integration.control.gated import HERE, add_dataset, answers, figures
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
    add_versions(database, "digits", 3)
    add_dataset(database)
    add_dataset(database, "other-test")
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


def test_the_newest_comes_first_and_the_others_stay(world: World) -> None:
    for wrong in (30, 20):
        world.end("evaluate", {"evaluation": world.made(wrong=wrong)})
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


def refused(world: World, kind: str, results: list[dict[str, Any]], match: str | None = None, **arguments: Any) -> None:
    """A job tells each of these in turn."""
    job = world.jobs.submit(kind, {"version": "digits:1", "data": "digits-test", **arguments}, actor="anna")
    for result in results:
        with pytest.raises(InvalidInput, match=match):
            world.jobs.report(job.id, JobReport(result=result), key=f"{job.id}-1")
    world.jobs.report(job.id, JobReport(cause=CauseInfo(code="bad", message="bad", stderr=[], next_step="")), key=f"{job.id}-1")
    assert world.rows() == []


def test_nor_may_one_that_tells_of_several(world: World) -> None:
    def told(*of: str) -> list[dict[str, Any]]:
        return [
            {"evaluations": [world.made(version, dataset, wrong=0)]} for version, dataset in zip(of[::2], of[1::2], strict=True)
        ]

    match, compared = "and the job is about digits:1", {"others": ["digits:2"]}
    refused(world, "compare", told("digits:3", "digits-test:1", "digits:2", "other-test:1"), match, **compared)
    refused(world, "compare", told("digits:2", "digits-test:1"), match, **compared, engines=["", "onnxruntime"])
    refused(world, "compare", told("digits:2", "digits-test:1"), match, **compared, data="")
    others = told("digits:2", "digits-test:1", "digits:1", "other-test:1")
    refused(world, "optimize", others, match, auto=True, evaluation="digits-test")


def test_a_job_tells_of_the_rows_the_seed_and_the_engine_that_it_was_asked_for(world: World) -> None:
    """Which of them count for a gate depends on these."""
    refused(world, "evaluate", [{"evaluation": {**world.made(), "seed": 3}}], "its seed is 3, and the job's 0")
    refused(world, "evaluate", [{"evaluation": world.made()}], "its seed is 0, and the job's 3", seed=3)
    refused(world, "evaluate", [{"evaluation": world.made()}], "asked for 10", rows=10)
    by = {"figures": msgspec.to_builtins(figures(engine="dummy"))}
    told = [{"evaluation": world.made()}, {"evaluation": {**world.made(), **by}}]
    refused(world, "evaluate", told, "the engine openvino answered", engine="openvino")
    optimized = [{"evaluations": [{**world.made(), "seed": 5}]}]
    refused(world, "optimize", optimized, "its seed is 5", auto=True, evaluation="digits-test", seed=5)


def test_an_optimisation_tells_of_what_it_made(world: World) -> None:
    several = [world.made(), world.made("digits:2", wrong=40), world.made("digits:3", wrong=50)]
    with world.database.write() as session:
        session.execute(update(VersionRow).where(VersionRow.number == 2).values(created_by="job-000001-1"))
        session.execute(update(VersionRow).where(VersionRow.number == 3).values(parent="digits:1"))
    world.end("optimize", {"evaluations": several}, auto=True, evaluation="digits-test")
    assert [row.version for row in world.rows()] == ["digits:1", "digits:2", "digits:3"]


def test_several_that_are_no_list_of_them_are_refused(world: World) -> None:
    several: list[Any] = [5, {"a": 1}, "text", [None], [[]], [{}] * 65]
    refused(world, "evaluate", [{"evaluations": told} for told in several])


def test_figures_that_nothing_measures_are_refused(world: World) -> None:
    bomb = base64.b64encode(zlib.compress(bytes(50_000_000), 9)).decode()
    speed = msgspec.to_builtins(figures())
    changes: list[dict[str, Any]] = [
        {"rows": 999},
        {"outcomes": {"kind": "classes", "truth": bomb, "answers": bomb, "rows": "all"}},
        {"outcomes": {"kind": "classes", "truth": "!", "answers": "!", "rows": "all"}},
        {"metrics": {"accuracy": {"value": 1.5}}},
        {"metrics": {"accuracy": {"value": -0.5}}},
        {"metrics": {"accuracy": {"value": 0.9, "low": 0.95, "high": 0.8}}},
        {"metrics": {"accuracy": {"value": 0.9}, "beauty": {"value": 1}}},
        {"metrics": {"accuracy": {"value": 0.9}, "rmse": {"value": -1}}},
        {"figures": {**speed, "size": -5}},
        {"figures": {**speed, "size": 0}},
        {"figures": {**speed, "cost": -1.0}},
        {"figures": {**speed, "speeds": []}},
        {"figures": {**speed, "speeds": [{**speed["speeds"][0], "p99": -1.0}]}},
    ]
    refused(world, "evaluate", [{"evaluation": {**world.made(), **change}} for change in changes])

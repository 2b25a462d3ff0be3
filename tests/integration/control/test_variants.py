"""What comparisons said of versions beside those that they were made of, on both databases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import select, update

from openmaas.control.jobs import JobService
from openmaas.control.keys import KeyService
from openmaas.control.observed import Fleet
from openmaas.control.references import find_version
from openmaas.control.variants import VariantService, newest_variant
from openmaas.core.errors import InvalidInput, NotFound, OpenMaaSError
from openmaas.core.evaluations import Entrant
from openmaas.core.resources import JobInfo, JobReport
from openmaas.core.settings import Settings
from openmaas.store.database import Database
from openmaas.store.tables import VariantRow, VersionRow
from tests.integration.control.test_deployments import add_versions
from tests.unit.reports.made_up import comparison


class World:
    def __init__(self, database: Database, home: Path) -> None:
        self.database = database
        settings, fleet = Settings(home=str(home), jobs=2), Fleet()
        self.jobs = JobService(settings, database, fleet, KeyService(settings, database, lambda: None), lambda: None)
        self.variants = VariantService(self.jobs)

    def end(self, told: Any, **arguments: Any) -> JobInfo:
        """A comparison runs, and tells this."""
        given = {"version": "digits:1", "others": ["digits:2"], **arguments}
        job = self.jobs.submit("compare", given, actor="anna")
        return self.jobs.report(job.id, JobReport(result={"comparison": told}), key=f"{job.id}-1")

    def rows(self) -> list[VariantRow]:
        with self.database.read() as session:
            return list(session.scalars(select(VariantRow).order_by(VariantRow.id)))

    def told(self, reference: str) -> dict[str, Any] | None:
        with self.database.read() as session:
            return newest_variant(session, find_version(session, "default", reference)[1])


@pytest.fixture
def world(database: Database, tmp_path: Path) -> World:
    """digits:2 was made of digits:1, digits:3 of digits:2, and digits:4 of nothing."""
    add_versions(database, "digits", 4)
    with database.write() as session:
        for number in (2, 3):
            session.execute(update(VersionRow).where(VersionRow.number == number).values(parent=f"digits:{number - 1}"))
    return World(database, tmp_path)


def plain(name: str = "digits:3") -> Any:
    return msgspec.to_builtins(comparison(name), str_keys=True)


def test_each_entrant_is_kept_beside_what_it_was_made_of(world: World) -> None:
    job = world.end(plain())
    dominated, good = world.rows()
    assert (dominated.version, dominated.baseline, dominated.dominated) == ("digits:2", "digits:1", True)
    assert (good.version, good.baseline, good.dominated, good.job) == ("digits:3", "digits:1", False, job.id)
    told = world.told("digits:3")
    assert told is not None
    assert (told["baseline"], told["metric"], told["dataset"], told["recommended"]) == (
        "digits:1", "accuracy", "digits-test:1", True
    )  # fmt: skip
    assert told["baseline_figures"]["size"] == 1_000_000
    assert msgspec.convert(told, Entrant, strict=False).changed == ()
    assert world.told("digits:1") is None


def test_only_what_was_made_of_the_baseline_counts_and_the_newest(world: World) -> None:
    world.end(plain("digits:4"))
    assert [row.version for row in world.rows()] == ["digits:2"]
    entrants = plain()["entrants"]
    world.end({**plain(), "entrants": [entrants[0], {**entrants[1], "registered": False}, {**entrants[2], "dominated": True}]})
    assert [row.version for row in world.rows()] == ["digits:2", "digits:3"]
    world.end(plain())
    told = world.told("digits:3")
    assert told is not None
    assert told["dominated"] is False


def test_with_an_engine_given_nothing_is_kept(world: World) -> None:
    world.end(plain(), engines=["onnxruntime", ""])
    assert world.rows() == []


@pytest.mark.parametrize(
    ("told", "error"),
    [
        ({"entrants": []}, InvalidInput),
        ({**plain(), "entrants": plain()["entrants"][:1]}, InvalidInput),
        (plain("digits"), InvalidInput),
        (plain("digits:9"), NotFound),
    ],
)
def test_what_is_no_comparison_makes_a_failure_of_the_job(world: World, told: Any, error: type[OpenMaaSError]) -> None:
    with pytest.raises(error):
        world.end(told)
    assert world.rows() == []

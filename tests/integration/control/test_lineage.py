"""What versions were made of, on both databases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import select

from openmaas.control.datasets import DatasetService
from openmaas.control.lineage import LineageService
from openmaas.core.errors import NotFound
from openmaas.core.jobs import recipe_of
from openmaas.core.resources import Lineage
from openmaas.core.settings import Settings
from openmaas.store.blobs import open_blobs
from openmaas.store.database import Database
from openmaas.store.tables import AliasMoveRow, AliasRow, ModelRow, VariantRow, VersionRow
from tests.integration.control.gated import add_dataset, evaluate
from tests.integration.control.test_deployments import add_versions

OPTIMIZED = msgspec.json.encode(
    {
        "optimize": {"seed": 7, "steps": [{"prune": {"method": "channels"}}, {"distil": {"teacher": "teacher:1"}}]},
        "data": "digits-train:1",
        "libraries": {"torch": "2.13"},
    }
).decode()


class World:
    """digits:1 ← 2 ← (3, 4), 3 ← 5, and 6 by itself."""

    def __init__(self, database: Database) -> None:
        add_versions(database, "digits", 6)
        add_versions(database, "teacher", 1)
        self.database = database
        self.lineage = LineageService(database)
        for number, parent in ((2, 1), (3, 2), (4, 2), (5, 3)):
            self.change(number, parent=f"digits:{parent}")

    def change(self, number: int, model: str = "digits", **values: Any) -> None:
        with self.database.write() as session:
            query = select(VersionRow).join(ModelRow, ModelRow.id == VersionRow.model_id)
            row = session.scalars(query.where(ModelRow.name == model, VersionRow.number == number)).one()
            for name, value in values.items():
                setattr(row, name, value)

    def names(self, reference: str, **more: Any) -> list[str]:
        return [node.version for node in self.get(reference, **more).nodes]

    def get(self, reference: str, **more: Any) -> Lineage:
        return self.lineage.get(reference, **more)


@pytest.fixture
def world(database: Database) -> World:
    return World(database)


def test_ancestors_come_first_and_then_all_descendants(world: World) -> None:
    assert world.names("digits:2") == ["digits:1", "digits:2", "digits:3", "digits:4", "digits:5"]
    assert world.names("digits:4") == ["digits:1", "digits:2", "digits:4"], "and no siblings"
    assert world.names("digits") == ["digits:6"]
    assert world.get("digits:2").complete
    with pytest.raises(NotFound):
        world.get("digits:7")


def test_what_is_deleted_stays_in_the_tree(world: World) -> None:
    world.change(2, deleted_at=5.0)
    assert [(node.number, node.deleted) for node in world.get("digits:3").nodes] == [
        (1, False),
        (2, True),
        (3, False),
        (5, False),
    ]


def test_versions_of_other_models_are_followed(world: World) -> None:
    world.change(1, parent="teacher:1")
    assert world.names("digits:1")[:2] == ["teacher:1", "digits:1"]
    assert "digits:5" in world.names("teacher:1")


def test_a_circle_ends(world: World) -> None:
    world.change(1, parent="digits:5")
    assert sorted(world.names("digits:2")) == [f"digits:{number}" for number in range(1, 6)]


def test_it_is_bounded_and_says_so(world: World) -> None:
    assert world.names("digits:1", most=3) == ["digits:1", "digits:2", "digits:3"]
    assert not world.get("digits:1", most=3).complete
    assert not world.get("digits:1", most=4).complete
    assert not world.get("digits:5", most=2).complete
    assert world.get("digits:1", most=6).complete


def test_recipes_are_told_in_short_and_link_to_their_teachers(world: World) -> None:
    world.change(2, recipe=OPTIMIZED)
    world.change(3, recipe=recipe_of("openvino-genai", "int8"))
    world.change(4, recipe="by hand,\nin a notebook")
    world.change(5, recipe='{"optimize": {"steps": [{"magic": {}}]}}')
    world.change(1, model="teacher", deleted_at=5.0)
    nodes = {node.number: node for node in world.get("digits:1").nodes}
    assert nodes[2].recipe.startswith("prune channels")
    assert "distil" in nodes[2].recipe
    links = [(link.role, link.version, link.deleted) for link in nodes[2].links]
    assert links == [("teacher", "teacher:1", True), ("data", "digits-train:1", True)]
    assert nodes[2].details["libraries"] == {"torch": "2.13"}
    assert nodes[3].recipe == "convert openvino-genai int8"
    assert nodes[4].recipe == "by hand, in a notebook"
    assert (nodes[5].recipe, nodes[5].links) == ("optimize", [])


def test_a_dataset_that_is_gone_is_told_with_who_deleted_it(world: World, tmp_path: Path) -> None:
    world.change(2, recipe=OPTIMIZED)
    add_dataset(world.database, "digits-train")
    assert [link.role for link in world.get("digits:2").nodes[1].links] == ["teacher"]
    datasets = DatasetService(world.database, open_blobs(Settings(home=str(tmp_path))))
    datasets.delete_version("digits-train:1", actor="ada", force=True, reason="The law asks for it.")
    lost = world.get("digits:2").nodes[1].links[1]
    assert (lost.role, lost.version, lost.note) == ("data", "digits-train:1", "by ada: The law asks for it.")


def test_quality_loss_and_aliases_are_the_newest(world: World) -> None:
    add_dataset(world.database)
    evaluate(world.database, "digits:2", 100)
    evaluate(world.database, "digits:2", 50, job="job-000009")
    with world.database.write() as session:
        version = session.scalars(select(VersionRow).where(VersionRow.parent == "digits:1")).one()
        move = AliasMoveRow(
            project="default", model_id=version.model_id, alias="champion", number=2, action="set", actor="ada", at=1
        )
        session.add(move)
        session.flush()
        session.add(
            AliasRow(
                model_id=version.model_id, alias="champion", project="default", number=2, version_id=version.id, move_id=move.id
            )
        )
        for dominated in (False, True):
            session.add(
                VariantRow(
                    project="default", version="digits:2", digest=version.digest, baseline="digits:1", dominated=dominated,
                    result='{"loss": {"value": 0.01, "low": 0.0, "high": 0.02}}', job="job-000009", at=1,
                )
            )  # fmt: skip
    node = world.get("digits:2").nodes[1]
    assert node.quality is not None
    assert (node.quality["value"], node.quality["job"], node.quality["dataset"]) == (0.95, "job-000009", "digits-test:1")
    assert node.quality["low"] < 0.95 < node.quality["high"]
    assert (node.aliases, node.dominated, node.baseline) == (["champion"], True, "digits:1")
    assert node.loss == {"value": 0.01, "low": 0.0, "high": 0.02}

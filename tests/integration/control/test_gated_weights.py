"""A deployment whose weights are made first: its gate is asked about the variant that will serve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from sqlalchemy import select

from openmaas.control.jobs import JobService
from openmaas.control.measurements import MeasurementService
from openmaas.core.errors import Refused
from openmaas.core.evaluations import Evaluation
from openmaas.core.manifest import Manifest
from openmaas.core.metrics import encode_outcomes, estimate
from openmaas.core.resources import GateDecision, GateRequest
from openmaas.store.database import Database
from openmaas.store.tables import DatasetVersionRow, EvaluationRow, VersionRow
from tests.integration.control.gated import add_dataset, figures
from tests.integration.control.test_weights import HERE, World


class Gated(World):
    """writer:1 was evaluated, and what serves it may not be any more perplexed."""

    def __init__(self, database: Database, home: Path) -> None:
        super().__init__(database, home)
        add_dataset(database, "prose")
        self.gates = self.deployments._gates
        self.evaluate(1, 2.0)
        rules = GateRequest(max_loss=0.05, data="prose", baseline="writer:1")
        self.gates.set("writer", "deployment", "writer", rules, actor="ada")

    def evaluate(self, number: int, loss: float) -> None:
        """So many nats for each token of a hundred passages, more or less."""
        losses = loss + np.linspace(-0.1, 0.1, 100)
        outcomes = encode_outcomes("losses", np.full(100, 50.0), losses, "all")
        with self.database.write() as session:
            version = session.scalars(select(VersionRow).where(VersionRow.number == number)).one()
            dataset = session.scalars(select(DatasetVersionRow)).one()
            metrics = {"perplexity": estimate("perplexity", outcomes, 0, 100)}
            evaluation = Evaluation(
                version=f"writer:{number}", digest=version.digest, dataset="prose:1", dataset_digest=dataset.digest,
                task="generation", metric="perplexity", rows=100, metrics=metrics, outcomes=outcomes, processor=HERE, total=100,
                figures=figures(engine=msgspec.json.decode(version.manifest, type=Manifest).choice),
            )  # fmt: skip
            session.add(
                EvaluationRow(
                    project="default", version=evaluation.version, digest=evaluation.digest, dataset="prose:1",
                    dataset_digest=dataset.digest, metric="perplexity", value=metrics["perplexity"].value,
                    result=msgspec.json.encode(evaluation).decode(), job="job-000001", actor="admin", at=1.0,
                )
            )  # fmt: skip

    def decisions(self) -> list[GateDecision]:
        return self.gates.decisions("writer").items

    async def convert_to(self, weights: str) -> None:
        version = self.convert(weights)
        await self.end({"version": version, "created": True, "parity": []})


@pytest.fixture
async def world(database: Database, tmp_path: Path) -> Gated:
    return Gated(database, tmp_path)


async def test_a_variant_that_nobody_evaluated_fails_the_revision_with_the_evidence(world: Gated) -> None:
    assert world.deploy(weights="int8").measuring is not None
    assert world.decisions() == [], "what will serve is not known yet"
    await world.convert_to("int8")
    now = world.now()
    assert now.cause is not None
    assert (now.state, now.cause.code) == ("failed", "gate_refused")
    assert "writer:2 was never evaluated on prose:1" in now.cause.message
    assert now.cause.next_step == "openmaas evaluate writer:2 --data prose:1"
    assert [(one.outcome, one.number, one.actor) for one in world.decisions()] == [("refused", 2, "admin")]
    assert await world.replicas() == []
    world.evaluate(2, 2.001)
    assert world.deploy(weights="int8").version == 2
    assert [one.outcome for one in world.decisions()] == ["passed", "refused"]


async def test_a_gate_that_was_set_meanwhile_is_asked_after_a_restart(world: Gated, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control is killed between the end of the job and what follows."""
    world.gates.remove("writer", "deployment", "writer", actor="ada")
    world.deploy(weights="int8")
    world.gates.set("writer", "deployment", "writer", GateRequest(max_loss=0.05), actor="ada")
    monkeypatch.setattr(world.engines, "settle", lambda: None)
    await world.convert_to("int8")
    assert world.now().measuring is not None
    assert world.decisions() == []
    jobs = JobService(world._settings, world.database, world.fleet, world.keys, world.hub.publish)
    again = MeasurementService(world._settings, world.database, jobs, world.hub.publish, lambda: HERE, world._ways)
    again.settle()
    now = world.now()
    assert now.cause is not None
    assert (now.state, now.cause.code) == ("failed", "gate_refused")
    assert [(one.outcome, one.number) for one in world.decisions()] == [("refused", 2)]


async def test_a_variant_that_lost_too_much_does_not_serve(world: Gated) -> None:
    world.convert("int8")
    world.evaluate(2, 2.2)
    with pytest.raises(Refused, match=r"perplexity may lose 5\.00%: perplexity lost 22"):
        world.deploy(weights="int8")


async def test_force_goes_with_the_wish_to_the_variant(world: Gated) -> None:
    options: dict[str, Any] = {"force": True, "reason": "A demonstration."}
    world.deploy(weights="int8", **options)
    await world.convert_to("int8")
    assert world.now().version == 2
    assert world.now().state == "starting"
    (decision,) = world.decisions()
    assert (decision.outcome, decision.number, decision.reason) == ("forced", 2, "A demonstration.")

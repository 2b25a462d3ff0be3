"""Gates on both databases: what they let pass, what they refuse, and what stays of it."""

from __future__ import annotations

import math
import threading
from typing import Any

import pytest
from sqlalchemy import select, update

from openmaas.control.aliases import AliasService
from openmaas.control.decisions import Decision
from openmaas.control.deployments import DeploymentService
from openmaas.control.gates import GateService
from openmaas.control.models import ModelService
from openmaas.control.observed import Fleet
from openmaas.control.resolution import Resolution
from openmaas.control.versions import VersionService
from openmaas.core.errors import Conflict, InvalidInput, NotFound, Refused
from openmaas.core.manifest import Artifact, EngineChoice
from openmaas.core.resources import DeployRequest, GateInfo, GateRequest, GateTrial
from openmaas.core.settings import Settings
from openmaas.store.blobs import open_blobs
from openmaas.store.database import Database
from openmaas.store.tables import DatasetVersionRow, DeploymentRow, GateDecisionRow, GateRow, VersionRow
from tests.integration.control.gated import ELSEWHERE, HERE, add_dataset, evaluate
from tests.integration.control.test_deployments import add_versions


class FakeEngines:
    """The engine that a deployment is given; none while it is being measured."""

    def __init__(self) -> None:
        self.engine = "dummy"

    def prepare(self, *_: Any, **__: Any) -> None: ...

    def choose(self, session: Any, version: Any, options: Any) -> Decision:
        if not self.engine:
            return Decision(version, job="job-000009")
        choice = EngineChoice(engine=self.engine, artifact=Artifact(kind="dummy", entry="1"))
        return Decision(version, Resolution(choice=choice, why="it is the only one"))


class World:
    """A model with four versions, a dataset, and the services that move names."""

    def __init__(self, settings: Settings, database: Database) -> None:
        add_versions(database, "digits", 4)
        add_dataset(database)
        self.database = database
        self.changes = 0
        self.engines = FakeEngines()
        self.gates = self.gate_service()
        self.aliases = AliasService(database, self._changed, gates=self.gates)
        self.versions = VersionService(database, open_blobs(settings))
        self.models = ModelService(database, self._changed)
        logs = settings.home_path / "logs"
        self.deployments = DeploymentService(database, Fleet(), self._changed, logs, self.engines, gates=self.gates)

    def gate_service(self) -> GateService:
        """As a server that starts makes it."""
        return GateService(self.database, lambda: HERE, ways=lambda manifest: [manifest.choice])

    def _changed(self) -> None:
        self.changes += 1

    def evaluate(self, version: str, wrong: int = 0, **more: Any) -> None:
        evaluate(self.database, version, wrong, **more)

    def set(self, **rules: Any) -> GateInfo:
        return self.gates.set("digits", "alias", "champion", GateRequest(**rules), actor="ada")

    def move(self, number: int, **more: Any) -> int | None:
        return self.aliases.set("digits", "champion", number, actor="bob", **more).number

    def refused(self, number: int, **more: Any) -> Refused:
        with pytest.raises(Refused) as refusal:
            self.move(number, **more)
        assert refusal.value.code == "gate_refused"
        return refusal.value

    def deploy(self, version: str, **more: Any) -> int:
        return self.deployments.deploy(DeployRequest(version=version, **more), actor="bob").version

    def stands(self) -> int:
        return self.versions.get("digits@champion").number

    def outcomes(self) -> list[tuple[str, int, int | None]]:
        """Of all decisions, the oldest first."""
        return [(one.outcome, one.number, one.previous) for one in reversed(self.gates.decisions("digits").items)]


@pytest.fixture
def world(settings: Settings, database: Database) -> World:
    return World(settings, database)


@pytest.fixture
def gated(world: World) -> World:
    """champion stands at 1, all of whose answers but 50 in 1000 are right, and may lose two points."""
    world.evaluate("digits:1", 50)
    world.move(1)
    world.set(max_loss=0.02)
    world.changes = 0
    return world


# ── setting ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_left_open_is_chosen_and_said(gated: World) -> None:
    info = gated.gates.get("digits", "alias", "champion")
    assert (info.rules["dataset"], info.rules["baseline"], info.rules["metric"]) == ("digits-test:1", "digits:1", "accuracy")
    add_dataset(gated.database, "other")
    notes = gated.gates.set("digits", "alias", "candidate", GateRequest(max_loss=0.01), actor="ada").notes
    assert "digits-test:1" in notes[0]
    assert "digits:4, the newest version" in notes[1]
    assert "openmaas evaluate digits:4 --data digits-test:1" in notes[-1]


def test_what_a_job_made_is_not_chosen_as_the_baseline(gated: World) -> None:
    """It would lose nothing against itself."""
    made = update(VersionRow).where(VersionRow.number.in_([3, 4])).values(created_by="job-000007-1", parent="digits:2")
    with gated.database.write() as session:
        session.execute(made)
    info = gated.gates.set("digits", "alias", "candidate", GateRequest(max_loss=0.01), actor="ada")
    assert info.rules["baseline"] == "digits:2"
    assert "digits:2, the newest version that somebody pushed (digits:4 was made by a job)" in info.notes[1]
    with gated.database.write() as session:
        session.execute(update(VersionRow).values(created_by="job-000007-1"))
    info = gated.gates.set("digits", "alias", "other", GateRequest(max_loss=0.01), actor="ada")
    assert info.rules["baseline"] == "digits:4", "none that somebody pushed is there"


def test_the_baseline_stays_when_a_gate_is_set_again(gated: World) -> None:
    """Else many small losses would add up."""
    gated.evaluate("digits:2", 52)
    assert gated.move(2) == 2
    assert gated.set(max_loss=0.02, max_size=10**6).rules["baseline"] == "digits:1"
    assert gated.set(max_loss=0.02, baseline="digits:2").rules["baseline"] == "digits:2"


def test_small_losses_do_not_add_up(gated: World) -> None:
    for number, wrong in ((2, 55), (3, 60)):
        gated.evaluate(f"digits:{number}", wrong)
        assert gated.move(number) == number
    gated.evaluate("digits:4", 70)
    gated.refused(4)
    assert gated.stands() == 3


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({}, "needs a rule"),
        ({"max_loss": math.nan}, "max_loss is nan"),
        ({"max_loss": -0.1}, "max_loss is -0.1"),
        ({"max_p99": 0.0}, "max_p99"),
        ({"max_cost": math.inf}, "max_cost is inf"),
        ({"max_size": 10**5000}, "max_size is far beyond"),
        ({"max_size": 10, "metric": "accuracy"}, "without a limit"),
        ({"max_size": 10, "baseline": "digits:1"}, "without a loss"),
        ({"max_loss": 0.1, "metric": "beauty"}, "'beauty' is not a metric"),
        ({"max_loss": 0.1, "metric": "rmse"}, "has no rmse; it has accuracy, f1"),
    ],
)
def test_rules_that_are_none_are_refused_and_nothing_is_kept(gated: World, rules: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        gated.set(**rules)
    with gated.database.read() as session:
        assert len(session.scalars(select(GateRow)).all()) == 1


def test_without_any_evaluation_there_is_no_dataset_to_choose(world: World) -> None:
    with pytest.raises(InvalidInput) as none:
        world.set(max_p99=0.1)
    assert "openmaas evaluate digits:4 --data DATASET" in (none.value.next_step or "")
    with pytest.raises(InvalidInput, match="no metric to choose"):
        world.set(max_loss=0.1, data="digits-test")
    with pytest.raises(NotFound):
        world.set(max_loss=0.1, data="nothing")
    assert world.set(max_p99=0.1, data="digits-test").rules["metric"] == ""


def test_gates_are_listed_and_taken_away_and_their_history_stays(gated: World) -> None:
    gated.gates.set("digits", "deployment", "shop", GateRequest(minimum=0.9), actor="ada")
    assert [(one.target, one.name) for one in gated.gates.list()] == [("alias", "champion"), ("deployment", "shop")]
    gated.refused(3)
    gated.gates.remove("digits", "alias", "champion", actor="ada")
    assert [one.name for one in gated.gates.list("digits")] == ["shop"]
    with pytest.raises(NotFound):
        gated.gates.get("digits", "alias", "champion")
    with pytest.raises(NotFound):
        gated.gates.remove("digits", "alias", "champion", actor="ada")
    assert gated.move(3) == 3
    assert gated.outcomes() == [("refused", 3, 1)]


# ── deciding ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_version_that_holds_every_rule_moves_with_its_evidence(gated: World) -> None:
    gated.set(max_loss=0.02, minimum=0.9, max_p99=0.02, max_size=1000, max_cost=1.0)
    gated.evaluate("digits:2", 50, job="job-000007")
    assert gated.move(2) == 2
    (decision,) = gated.gates.decisions("digits").items
    assert (decision.outcome, decision.number, decision.previous, decision.actor) == ("passed", 2, 1, "bob")
    assert [one["rule"] for one in decision.checks] == ["max_loss", "minimum", "max_p99", "max_size", "max_cost"]
    assert {one["job"] for one in decision.checks} == {"job-000007"}
    assert all(one["passed"] and one["at"] == 1.0 for one in decision.checks)
    assert decision.rules["max_cost"] == 1.0


def test_the_upper_bound_of_the_loss_counts_and_not_its_value(gated: World) -> None:
    gated.evaluate("digits:2", 65)  # a loss of 1.5 points, whose bound is above 2
    said = gated.refused(2).message
    assert "accuracy may lose 2.00%" in said
    assert "lost 1.50% against digits:1" in said
    assert (gated.stands(), gated.changes) == (1, 0)
    (check,) = gated.gates.check("digits", "alias", "champion", GateTrial(number=2)).checks
    assert check["value"] == check["estimate"]["high"] > 0.02 > check["estimate"]["value"]
    assert gated.outcomes() == [("refused", 2, 1)], "a check is no decision, and a refusal stays although nothing moved"


def test_each_rule_that_fails_is_told_with_value_and_limit(gated: World) -> None:
    gated.set(max_loss=0.02, minimum=0.99, max_p99=0.005, max_size=999, max_cost=0.5)
    gated.evaluate("digits:2", 300)
    said = gated.refused(2).message
    for part in (
        "may lose 2.00%",
        "at least 99.00%",
        "p99 may be 5 ms: 10 ms",
        "999 bytes: 1,000 bytes",
        "0.5 processor seconds",
    ):
        assert part in said


def test_a_version_that_was_never_evaluated_is_refused_with_the_command(gated: World) -> None:
    refusal = gated.refused(3)
    assert "digits:3 was never evaluated on digits-test:1" in refusal.message
    assert refusal.next_step == "openmaas evaluate digits:3 --data digits-test:1"


def test_the_newest_evaluation_counts(gated: World) -> None:
    gated.evaluate("digits:2", 300)
    gated.refused(2)
    gated.evaluate("digits:2", 50)
    assert gated.gates.check("digits", "alias", "champion", GateTrial(number=2)).passed
    gated.evaluate("digits:2", 300)
    gated.refused(2)


def test_evaluations_of_another_dataset_do_not_count(gated: World) -> None:
    add_dataset(gated.database, number=2)
    gated.evaluate("digits:2", 0, data="digits-test:2")
    assert "never evaluated on digits-test:1" in gated.refused(2).message


def test_other_rows_are_not_compared(gated: World) -> None:
    gated.evaluate("digits:2", 0, rows="a sample")
    refusal = gated.refused(2)
    assert "evaluated on other rows" in refusal.message
    assert refusal.next_step == "openmaas evaluate digits:2 --data digits-test:1"


def test_figures_of_another_processor_do_not_count_but_its_answers_do(gated: World) -> None:
    gated.evaluate("digits:2", 50, processor=ELSEWHERE)
    gated.set(max_loss=0.02, max_size=1000)
    assert gated.gates.check("digits", "alias", "champion", GateTrial(number=2)).passed
    for rule in ({"max_p99": 1.0}, {"max_cost": 10.0}):
        gated.set(**rule)
        assert "measured on Another × 4, and this server runs on This one × 4" in gated.refused(2).message


def _no_speed(result: dict[str, Any]) -> None:
    result["figures"] = None


def _null(result: dict[str, Any]) -> None:
    """As JSON carries NaN."""
    result["figures"]["speeds"][0]["p99"] = None


def _no_bound(result: dict[str, Any]) -> None:
    result["metrics"]["accuracy"] = {"value": 1.0, "low": None, "high": None}


def _batch(result: dict[str, Any]) -> None:
    result["figures"]["speeds"][0]["batch"] = 8


def _no_answers(result: dict[str, Any]) -> None:
    result["outcomes"] = None


def _damaged(result: dict[str, Any]) -> None:
    result["outcomes"]["answers"] = "AAAA"


def _forged(result: dict[str, Any]) -> None:
    """A result that tells of another version than the one that it is kept for."""
    result["digest"] = "0" * 64


@pytest.mark.parametrize(
    ("rules", "change", "said"),
    [
        ({"max_p99": 1.0}, _no_speed, "does not tell which engine answered, and dummy would serve it"),
        ({"max_size": 10**6}, _no_speed, "does not tell which engine answered"),
        ({"max_p99": 1.0}, _null, "cannot be read"),
        ({"minimum": 0.1}, _no_bound, "no number for it"),
        ({"max_p99": 1.0}, _batch, "batch 1 was not measured"),
        ({"max_loss": 1.0}, _no_answers, "kept no answers"),
        ({"max_loss": 1.0}, _damaged, "damaged"),
        ({"minimum": 0.1}, _forged, "is of something else"),
    ],
)
def test_what_is_not_measured_has_not_passed(gated: World, rules: dict[str, Any], change: Any, said: str) -> None:
    gated.set(**rules)
    gated.evaluate("digits:2", 0, change=change)
    assert said in gated.refused(2).message


def test_a_number_that_is_none_has_not_passed(gated: World) -> None:
    def infinite(result: dict[str, Any]) -> None:
        result["figures"]["cost"] = 1e999

    gated.set(max_cost=1e9)
    gated.evaluate("digits:2", 0, change=infinite)
    gated.refused(2)


def test_the_baseline_itself_loses_nothing(gated: World) -> None:
    gated.set(max_loss=0.0)
    gated.evaluate("digits:2", 50)
    gated.refused(2)  # equal answers on 1000 rows do not prove a loss of zero
    gated.aliases.remove("digits", "champion", actor="bob")
    assert gated.move(1) == 1


def test_a_dataset_that_is_gone_lets_nothing_pass(gated: World) -> None:
    gated.evaluate("digits:2", 0)
    with gated.database.write() as session:
        session.scalars(select(DatasetVersionRow)).one().deleted_at = 5.0
    assert "the gate's dataset digits-test:1 is gone" in gated.refused(2).message


def test_forced_moves_name_who_did_it_and_why(gated: World) -> None:
    with pytest.raises(InvalidInput) as without:
        gated.move(3, force=True, reason="  ")
    assert without.value.code == "reason_required"
    with pytest.raises(InvalidInput):
        gated.move(3, reason="because")
    assert gated.outcomes() == []
    assert gated.move(3, force=True, reason="The incident of Monday.") == 3
    (decision,) = gated.gates.decisions("digits").items
    assert (decision.outcome, decision.actor, decision.reason) == ("forced", "bob", "The incident of Monday.")
    assert not decision.checks[0]["passed"]


def test_force_where_nothing_refuses_is_a_move_like_any_other(gated: World) -> None:
    gated.evaluate("digits:2", 50)
    gated.move(2, force=True, reason="In a hurry.")
    assert gated.outcomes() == [("passed", 2, 1)]
    gated.aliases.set("digits", "candidate", 3, actor="bob", force=True, reason="No gate.")
    assert len(gated.outcomes()) == 1


def test_rollbacks_and_removals_are_not_stopped_by_a_gate_and_rollbacks_are_kept(gated: World) -> None:
    gated.move(3, force=True, reason="Try it.")
    gated.move(2, force=True, reason="Try this.")
    assert gated.aliases.rollback("digits", "champion", actor="bob").number == 3
    gated.aliases.remove("digits", "champion", actor="bob")
    assert gated.aliases.rollback("digits", "champion", actor="bob").number == 3
    assert gated.outcomes() == [("forced", 3, 1), ("forced", 2, 3), ("forced", 3, 2), ("forced", 3, None)]
    assert gated.gates.decisions("digits").items[0].reason == "Back to where it stood before."


def test_other_aliases_are_free(gated: World) -> None:
    assert gated.aliases.set("digits", "candidate", 3, actor="bob").number == 3


def test_decisions_come_in_pages(gated: World) -> None:
    for number in (2, 3, 4):
        gated.refused(number)
    first = gated.gates.decisions("digits", limit=2)
    rest = gated.gates.decisions("digits", limit=2, after=first.next)
    assert ([one.number for one in first.items], first.total) == ([4, 3], 3)
    assert ([one.number for one in rest.items], rest.next) == ([2], None)


def test_a_version_or_model_in_a_gate_is_not_deleted(gated: World) -> None:
    gated.aliases.remove("digits", "champion", actor="bob")
    with pytest.raises(Conflict) as used:
        gated.versions.delete("digits:1")
    assert (used.value.code, "digits@champion" in used.value.message) == ("version_in_gate", True)
    with pytest.raises(Conflict) as gates:
        gated.models.delete("digits", actor="bob")
    assert gates.value.code == "model_gated"
    add_versions(gated.database, "teacher", 1)
    gated.set(max_loss=0.1, baseline="teacher:1")
    with pytest.raises(Conflict, match="teacher:1"):
        gated.models.delete("teacher", actor="bob")
    gated.gates.remove("digits", "alias", "champion", actor="ada")
    gated.models.delete("teacher", actor="bob")
    gated.versions.delete("digits:1")


# ── together ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_moves_at_once_are_decided_one_after_another(gated: World) -> None:
    gated.evaluate("digits:2", 50)
    errors: list[BaseException] = []

    def move(number: int) -> None:
        try:
            gated.move(number)
        except Refused:
            pass
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=move, args=(number,)) for number in (2, 3, 2, 4, 3, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert gated.stands() == 2
    decided = [outcome for outcome, *_ in gated.outcomes()]
    assert (decided.count("passed"), decided.count("refused")) == (1, 3)


def test_a_gate_that_is_set_while_the_alias_moves_is_before_or_after(world: World) -> None:
    """Whichever comes first: a version that the gate refuses never stands there after both, but where it moved before."""
    world.evaluate("digits:1", 0)
    world.move(1)
    start = threading.Barrier(2)
    moved: list[bool] = []

    def move() -> None:
        start.wait()
        try:
            world.move(2)
            moved.append(True)
        except Refused:
            moved.append(False)

    thread = threading.Thread(target=move)
    thread.start()
    start.wait()
    baseline = world.set(max_loss=0.01).rules["baseline"]
    thread.join()
    assert (world.stands(), baseline) == ((2, "digits:2") if moved == [True] and baseline == "digits:2" else (1, "digits:1"))


# ── deployments ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def served(world: World) -> World:
    world.evaluate("digits:1", 50)
    world.deploy("digits:1")
    world.gates.set("digits", "deployment", "digits", GateRequest(max_loss=0.02, baseline="digits:1"), actor="ada")
    return world


def test_a_deployment_takes_over_only_where_its_gate_holds(served: World) -> None:
    with pytest.raises(Refused) as refusal:
        served.deploy("digits:2")
    assert refusal.value.next_step == "openmaas evaluate digits:2 --data digits-test:1"
    assert served.deployments.get("digits").revision == 1, "nothing was begun"
    served.evaluate("digits:2", 50)
    assert served.deploy("digits:2") == 2
    assert [one[:2] for one in served.outcomes()] == [("refused", 2), ("passed", 2)]
    assert served.deploy("digits:3", name="other") == 3, "another name is not bound"


def test_a_name_that_was_never_deployed_is_bound_too(world: World) -> None:
    world.evaluate("digits:4", 0)
    world.gates.set("digits", "deployment", "shop", GateRequest(minimum=0.9), actor="ada")
    with pytest.raises(Refused):
        world.deploy("digits:3", name="shop")
    with pytest.raises(NotFound):
        world.deployments.get("shop")
    assert world.deploy("digits:4", name="shop") == 4


def test_an_alias_is_checked_as_the_version_that_it_means(served: World) -> None:
    served.aliases.set("digits", "champion", 3, actor="bob")
    with pytest.raises(Refused, match="digits:3"):
        served.deploy("digits@champion")


def test_what_was_evaluated_is_the_engine_that_serves(served: World) -> None:
    served.evaluate("digits:2", 50, engine="dummy")
    served.engines.engine = "openvino"
    with pytest.raises(Refused) as refusal:
        served.deploy("digits:2")
    assert "evaluated by the engine dummy, and openvino would serve it" in refusal.value.message
    assert refusal.value.next_step == "openmaas evaluate digits:2 --data digits-test:1 --engine openvino"


def test_a_forced_deployment_is_kept_as_such(served: World) -> None:
    with pytest.raises(InvalidInput):
        served.deploy("digits:2", force=True)
    assert served.deploy("digits:2", force=True, reason="Asked for by Ada.") == 2
    with served.database.read() as session:
        row = session.scalars(select(GateDecisionRow)).one()
    assert (row.outcome, row.reason, row.actor) == ("forced", "Asked for by Ada.", "bob")


def test_while_its_engine_is_being_measured_only_a_refusal_is_final(served: World) -> None:
    served.engines.engine = ""
    with pytest.raises(Refused):
        served.deploy("digits:2")
    served.evaluate("digits:2", 50)
    assert served.deploy("digits:2") == 2
    assert [outcome for outcome, *_ in served.outcomes()] == ["refused"], "it is decided when the engine is known"


def test_stopping_a_deployment_asks_no_gate(served: World) -> None:
    served.deploy("digits:2", force=True, reason="Try it.")
    served.deployments.undeploy("digits", actor="bob")
    assert len(served.outcomes()) == 1


def test_a_rollback_goes_back_to_what_served_and_its_gate_keeps_what_it_holds_of_that(served: World) -> None:
    with served.database.write() as session:
        session.scalars(select(DeploymentRow)).one().serving = 1
    served.deploy("digits:2", force=True, reason="Try it.")
    assert served.deployments.rollback("digits", actor="bob").version == 1
    assert served.outcomes() == [("forced", 2, 1), ("passed", 1, 1)], "the baseline itself loses nothing"

"""Ways around a gate, on both databases: by luck, by other engines, by names that come and go, and by being first."""

from __future__ import annotations

import threading
from typing import Any

import msgspec
import pytest
from sqlalchemy import select, update

from openmaas.control.aliases import AliasService
from openmaas.control.deployments import DeploymentService
from openmaas.control.gate_rules import LEAST_CALLS
from openmaas.control.gates import GateService
from openmaas.control.observed import Fleet
from openmaas.core.errors import Conflict, Refused
from openmaas.core.manifest import Artifact, EngineChoice
from openmaas.core.measurement import Measurement, Tried
from openmaas.core.resources import GateRequest, GateTrial, GateVerdict
from openmaas.core.settings import Settings
from openmaas.store.database import Database, open_database
from openmaas.store.tables import (
    AliasMoveRow,
    DeploymentRevisionRow,
    DeploymentRow,
    EvaluationRow,
    GateDecisionRow,
    JobRow,
    MeasurementRow,
    VersionRow,
)
from tests.integration.control.gated import ELSEWHERE, HERE, add_dataset
from tests.integration.control.test_deployments import add_versions
from tests.integration.control.test_gates import World


@pytest.fixture
def world(settings: Settings, database: Database) -> World:
    """champion stands at 1, all of whose answers but 50 in 1000 are right, and may lose two points."""
    world = World(settings, database)
    world.evaluate("digits:1", 50)
    world.move(1)
    world.set(max_loss=0.02)
    return world


def check(world: World, number: int = 2, engine: str = "") -> GateVerdict:
    return world.gates.check("digits", "alias", "champion", GateTrial(number=number, engine=engine))


def choice(label: str) -> EngineChoice:
    engine, _, precision = label.partition(":")
    return EngineChoice(engine=engine, artifact=Artifact(kind="dummy", entry="1"), precision=precision)


def changed(**values: Any) -> Any:
    return lambda result: result.update(values)


# ── by luck ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 7}, "has the seed 7, and only those of the standard one (0) count"),
        ({"rows": 999}, "is of 999 rows of 1,000, and all must be answered"),
        ({"rows": 999, "total": 999}, "is of 999 rows of 1,000"),
        ({"task": "generation", "total": 0}, "is of 1,000 rows, and does not tell of how many"),
        ({"task": "generation", "total": 5000}, "is of 1,000 rows of 5,000"),
    ],
)
def test_nobody_draws_rows_and_seeds_until_some_pass(world: World, change: dict[str, Any], said: str) -> None:
    world.evaluate("digits:2", 0, change=changed(**change))
    refusal = world.refused(2)
    assert said in refusal.message
    assert refusal.next_step == "openmaas evaluate digits:2 --data digits-test:1"
    world.evaluate("digits:2", 300)
    world.evaluate("digits:2", 0, change=changed(**change))
    assert "lost 25.00%" in world.refused(2).message, "the newest that counts, not the newest"


def test_all_passages_are_all(world: World) -> None:
    world.evaluate("digits:2", 50, change=changed(task="generation", total=1000))
    assert check(world).passed


def test_the_evidence_tells_how_many_there_are_and_the_worst(world: World) -> None:
    world.set(max_loss=0.02, minimum=0.9, max_size=1000)
    world.evaluate("digits:2", 60)
    world.evaluate("digits:2", 0, change=changed(seed=3))
    world.evaluate("digits:2", 50)
    assert world.move(2) == 2
    (decision,) = world.gates.decisions("digits").items
    for one in decision.checks:
        assert (one["evaluations"], one["counted"], one["engine"]) == (3, 2, "dummy")
        assert "2 of 3 evaluations count, the worst with" in one["evidence"]
    assert [one["worst"] for one in decision.checks] == [0.94, 0.94, 1000]
    assert "the worst with accuracy 94.00%" in decision.checks[0]["evidence"]


def test_times_count_by_the_median_where_the_newest_is_luckier(world: World) -> None:
    world.set(max_p99=0.02)
    for p99 in (0.03, 0.031):
        world.evaluate("digits:2", p99=p99)
        world.refused(2)
    for _ in range(2):
        world.evaluate("digits:2", p99=0.01)
        refusal = world.refused(2)
    assert "10 ms at batch 1" in refusal.message
    assert "median of 4 evaluations 30 ms, the worst 31 ms; the median of these counts" in refusal.message
    world.evaluate("digits:2", p99=0.011)
    assert check(world).passed, "three of five are quick: it was the others that were disturbed"
    world.evaluate("digits:2", p99=0.05)
    assert "the newest counts" in world.refused(2).message


def test_costs_count_so_too_and_other_processors_and_releases_are_not_mixed_in(world: World) -> None:
    world.set(max_cost=2.0)
    for _ in range(3):
        world.evaluate("digits:2", cost=5.0, processor=ELSEWHERE)
        world.evaluate("digits:2", cost=5.0, library="dummy 1.0")
    world.evaluate("digits:2", cost=1.0, library="dummy 2.0")
    assert check(world).passed
    world.evaluate("digits:2", cost=5.0, library="dummy 2.0")
    world.evaluate("digits:2", cost=1.0, library="dummy 2.0")
    world.evaluate("digits:2", cost=1.0, library="dummy 2.0")
    assert check(world).passed
    for _ in range(3):
        world.evaluate("digits:2", cost=4.0, library="dummy 2.0")
    world.evaluate("digits:2", cost=1.0, library="dummy 2.0")
    assert "median of 8 evaluations 4 s, the worst 5 s" in world.refused(2).message


def test_a_percentile_of_few_calls_is_none(world: World) -> None:
    world.set(max_p99=1.0)
    world.evaluate("digits:2", calls=LEAST_CALLS - 1)
    refusal = world.refused(2)
    assert "its p99 is of 99 calls, and at least 100 are needed" in refusal.message
    assert refusal.next_step == "openmaas evaluate digits:2 --data digits-test:1 --seconds 10"


# ── by another engine ────────────────────────────────────────────────────────────────────────────────────────────────


def deploy_by(world: World, label: str, version: str = "digits:2", name: str = "shop") -> None:
    world.engines.engine = label
    world.deploy(version, name=name)
    world.engines.engine = "dummy"


def test_an_alias_counts_the_engine_that_would_serve_unasked(world: World) -> None:
    world.evaluate("digits:2", 0, engine="openvino")
    refusal = world.refused(2)
    assert "digits:2 was evaluated by the engine openvino, and dummy would serve it" in refusal.message
    assert refusal.next_step == "openmaas evaluate digits:2 --data digits-test:1 --engine dummy"
    assert check(world, engine="openvino").passed, "as a question it may be asked"
    world.evaluate("digits:2", 50)
    world.evaluate("digits:2", 300, engine="openvino")
    assert world.move(2) == 2, "the newest by that engine counts"


def test_what_was_measured_says_which_engine_that_is(world: World) -> None:
    fast = msgspec.structs.replace(choice("openvino:bf16"), threads=1)
    gates = GateService(world.database, lambda: HERE, ways=lambda manifest: [manifest.choice, choice("openvino:bf16")])
    tried = (
        Tried(choice=msgspec.structs.replace(choice("dummy"), threads=1), state="fit", rates={1: 10.0}),
        Tried(choice=fast, state="fit", rates={1: 20.0}),
    )
    told = Measurement(processor=HERE, sample="given", reference="dummy", tried=tried)
    with world.database.write() as session:
        row = session.scalars(select(VersionRow).where(VersionRow.number == 2)).one()
        result = msgspec.json.encode(told).decode()
        session.add(
            MeasurementRow(project="default", digest=row.digest, processor=HERE.label, result=result, job="job-000001", at=1)
        )
    world.evaluate("digits:2", 0)
    (found,) = gates.check("digits", "alias", "champion", GateTrial(number=2)).checks
    assert "evaluated by the engine dummy, and openvino:bf16 would serve it" in found["evidence"]
    world.evaluate("digits:2", 50, change=lambda result: result["figures"].update(choice=msgspec.to_builtins(fast)))
    assert gates.check("digits", "alias", "champion", GateTrial(number=2)).passed


def test_while_that_is_being_found_out_nothing_passes(world: World) -> None:
    world.evaluate("digits:2", 50)
    with world.database.write() as session:
        row = session.scalars(select(VersionRow).where(VersionRow.number == 2)).one()
        job = JobRow(
            number=7, project="default", kind="measure", subject="digits:2", version_id=row.id, arguments="{}", state="queued",
            measures=True, actor="ada", created_at=1, queued_at=1,
        )  # fmt: skip
        session.add(job)
    refusal = world.refused(2)
    assert "job-000007 is still finding out which engine would serve digits:2" in refusal.message
    assert refusal.next_step == "openmaas jobs show job-000007 --wait"


def test_every_engine_that_serves_must_hold(world: World) -> None:
    deploy_by(world, "openvino")
    world.evaluate("digits:2", 50)
    refusal = world.refused(2)
    assert "evaluated by the engine dummy, and openvino would serve it" in refusal.message
    world.evaluate("digits:2", 50, engine="openvino")
    assert check(world).passed
    deploy_by(world, "onnxruntime", name="other")
    refusal = world.refused(2)
    assert refusal.next_step == "openmaas evaluate digits:2 --data digits-test:1 --engine onnxruntime"
    world.evaluate("digits:2", 50, engine="onnxruntime")
    assert world.move(2) == 2


def test_the_baseline_is_not_made_worse_by_another_engine(world: World) -> None:
    """Its loss would allow that of the version."""
    world.evaluate("digits:2", 300)
    world.evaluate("digits:1", 300, engine="openvino")
    world.evaluate("digits:1", 300, change=changed(seed=4))
    assert "lost 25.00% against digits:1" in world.refused(2).message


def test_deploying_what_an_alias_stands_at_by_another_engine_asks_its_gate(world: World) -> None:
    world.evaluate("digits:2", 50)
    world.move(2)
    world.deploy("digits@champion")
    world.engines.engine = "openvino"
    for version in ("digits@champion", "digits:2"):
        with pytest.raises(Refused, match="gate of digits@champion refuses digits:2") as refusal:
            world.deploy(version, name="shop")
        assert refusal.value.next_step == "openmaas evaluate digits:2 --data digits-test:1 --engine openvino"
    assert world.outcomes()[-1] == ("refused", 2, 2)
    world.evaluate("digits:2", 50, engine="openvino")
    assert world.deploy("digits:2", name="shop") == 2
    world.engines.engine = "onnxruntime"
    assert world.deploy("digits:2", name="third", force=True, reason="To see how fast it is.") == 2
    assert [outcome for outcome, *_ in world.outcomes()] == ["passed", "refused", "refused", "passed", "forced"]


def test_alias_and_deployment_that_move_at_once_are_not_both_let_through(world: World) -> None:
    """Whichever is first, the other is asked about the engine that nobody evaluated."""
    world.evaluate("digits:2", 50)
    world.engines.engine = "openvino"
    start, through = threading.Barrier(2), []

    def work(action: Any) -> None:
        start.wait()
        try:
            action()
            through.append(True)
        except Refused:
            pass

    actions = (lambda: world.move(2), lambda: world.deploy("digits:2", name="shop"))
    threads = [threading.Thread(target=work, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert through == [True]


def test_what_several_rules_lack_is_said_once(world: World) -> None:
    world.set(max_loss=0.02, max_size=1000)
    limits = "accuracy may lose 2.00%, the size may be 1,000 bytes"
    assert world.refused(3).message.endswith(f"{limits}: not measured: digits:3 was never evaluated on digits-test:1.")


# ── by names that come and go ────────────────────────────────────────────────────────────────────────────────────────


def test_an_alias_that_is_removed_and_made_again_has_its_gate(world: World) -> None:
    world.aliases.remove("digits", "champion", actor="bob")
    world.refused(3)
    assert world.outcomes() == [("refused", 3, None)]


def test_taking_a_gate_away_does_not_lower_its_baseline(world: World) -> None:
    world.gates.remove("digits", "alias", "champion", actor="ada")
    world.move(4)
    info = world.set(max_loss=0.02)
    assert (info.rules["baseline"], info.rules["dataset"], info.rules["metric"]) == ("digits:1", "digits-test:1", "accuracy")
    assert "baseline digits:1, as before" in info.notes
    world.gates.remove("digits", "alias", "champion", actor="ada")
    world.versions.delete("digits:1")
    info = world.set(max_loss=0.02)
    assert info.rules["baseline"] == "digits:4"
    assert "the baseline was digits:1, which is deleted" in info.notes


def test_a_baseline_that_nothing_counts_of_is_told_when_it_is_set(world: World) -> None:
    world.evaluate("digits:2", 0, change=changed(seed=5))
    notes = world.set(max_loss=0.02, baseline="digits:2").notes
    assert "has the seed 5" in notes[-1]
    assert "openmaas evaluate digits:2 --data digits-test:1" in notes[-1]


def test_a_rollback_behind_the_gate_is_kept_as_forced_by_whoever_did_it(world: World) -> None:
    """3 stood there before there was a gate, and was never held against it."""
    world.gates.remove("digits", "alias", "champion", actor="ada")
    world.move(3)
    world.move(1)
    world.set(max_loss=0.02)
    assert world.aliases.rollback("digits", "champion", actor="eve").number == 3
    (decision,) = world.gates.decisions("digits").items
    assert (decision.outcome, decision.number, decision.previous, decision.actor) == ("forced", 3, 1, "eve")
    assert "never evaluated" in decision.checks[0]["evidence"]


def test_a_name_is_not_taken_over_by_the_same_files_as_another_model(world: World) -> None:
    world.gates.set("digits", "deployment", "shop", GateRequest(max_loss=0.02, baseline="digits:1"), actor="ada")
    add_versions(world.database, "copy", 1)
    with pytest.raises(Conflict) as taken:
        world.deploy("copy:1", name="shop")
    assert taken.value.code == "name_gated"
    assert "openmaas gate rm digits --deployment shop" in (taken.value.next_step or "")
    assert world.deploy("copy:1", name="copy") == 1
    assert world.deploy("digits:1", name="shop") == 1


def test_nor_by_a_rollback_to_what_served_there_before(world: World) -> None:
    add_versions(world.database, "copy", 1)
    world.deploy("copy:1", name="shop")
    with world.database.write() as session:
        session.scalars(select(DeploymentRow)).one().serving = 1
    world.deployments.undeploy("shop", actor="bob")
    world.gates.set("digits", "deployment", "shop", GateRequest(max_loss=0.02, baseline="digits:1"), actor="ada")
    with pytest.raises(Conflict, match="there is a gate of the deployment 'shop' of digits"):
        world.deployments.rollback("shop", actor="bob")


def test_evaluations_of_another_project_count_for_nothing(world: World) -> None:
    world.evaluate("digits:2", 50)
    with world.database.write() as session:
        session.execute(update(EvaluationRow).where(EvaluationRow.version == "digits:2").values(project="other"))
    assert "never evaluated" in world.refused(2).message


def test_a_dataset_pushed_again_is_another_version(world: World) -> None:
    add_dataset(world.database, number=2)
    world.evaluate("digits:2", 0, data="digits-test:2")
    world.evaluate("digits:1", 0, data="digits-test:2")
    assert "never evaluated on digits-test:1" in world.refused(2).message


# ── by being first, and after a restart ──────────────────────────────────────────────────────────────────────────────


def test_evaluations_that_come_while_aliases_move_are_before_or_after(world: World) -> None:
    """Whatever was decided is what the rows of its moment say, and no alias stands where its last decision forbade it."""
    world.evaluate("digits:2", 50)
    errors: list[BaseException] = []
    start = threading.Barrier(4)

    def work(action: Any) -> None:
        start.wait()
        for _ in range(5):
            try:
                action()
            except Refused:
                pass
            except BaseException as error:
                errors.append(error)
                return

    def judge() -> None:
        world.evaluate("digits:2", 300)
        world.evaluate("digits:2", 50)

    actions = (lambda: world.move(2), lambda: world.move(1), judge, lambda: world.set(max_loss=0.02))
    threads = [threading.Thread(target=work, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    with world.database.read() as session:
        decided = session.scalars(select(GateDecisionRow).order_by(GateDecisionRow.id)).all()
        moves = session.scalars(select(AliasMoveRow).order_by(AliasMoveRow.id)).all()[1:]
    assert decided
    assert [row.number for row in decided if row.outcome == "passed"] == [move.number for move in moves], "a row for each move"
    for row in decided:
        checks = msgspec.json.decode(row.checks)
        assert (row.outcome == "passed") == all(one["passed"] for one in checks)


def test_after_a_restart_the_same_is_decided_and_the_rows_are_there(world: World, settings: Settings) -> None:
    world.evaluate("digits:2", 300)
    world.refused(2)
    before = world.gates.decisions("digits").items
    again = open_database(settings)
    try:
        gates = GateService(again, lambda: HERE, ways=lambda manifest: [manifest.choice])
        aliases = AliasService(again, lambda: None, gates=gates)
        with pytest.raises(Refused) as refusal:
            aliases.set("digits", "champion", 2, actor="bob")
        assert "lost 25.00%" in refusal.value.message
        now = gates.decisions("digits").items
        assert now[1:] == before
        assert [(one.number, one.checks) for one in now] == [(2, before[0].checks)] * 2, "the same evidence"
        logs = settings.home_path / "logs"
        deployments = DeploymentService(again, Fleet(), lambda: None, logs, world.engines, gates=gates)
        assert deployments.list().total == 0
    finally:
        again.close()


def test_a_failed_deployment_serves_nothing_and_asks_for_no_evaluation(world: World) -> None:
    deploy_by(world, "openvino")
    with world.database.write() as session:
        row = session.scalars(select(DeploymentRow)).one()
        revision = session.scalars(select(DeploymentRevisionRow)).one()
        row.state = revision.state = "failed"
    world.evaluate("digits:2", 50)
    assert check(world).passed


def test_what_serves_is_told_of_a_version(world: World) -> None:
    deploy_by(world, "openvino")
    deploy_by(world, "onnxruntime", name="other")
    serving = world.versions.get("digits:2").serving
    assert [(one["engine"], one["deployment"]) for one in serving] == [("onnxruntime", "other"), ("openvino", "shop")]
    assert msgspec.convert(serving[1]["choice"], EngineChoice).label == "openvino"
    assert world.versions.get("digits:1").serving == []

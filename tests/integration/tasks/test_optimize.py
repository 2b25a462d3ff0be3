"""Optimisation on a real model: a small network trained on scikit-learn's digits, by recipes and by a search."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from openmaas.core.errors import InvalidInput, OpenMaaSError, Refused
from openmaas.core.evaluations import Evaluation, VersionComparison
from openmaas.core.recipes import read_recipe
from openmaas.formats.sample import read_sample, split_expected
from openmaas.tasks import optimize
from openmaas.tasks.base import Job
from openmaas.tasks.comparing import opened
from openmaas.tasks.optimization import automatic, portfolio
from tests.integration.tasks.conftest import FakeJob, Registry
from tests.unit.tasks.datasets import npz

Optimize = Callable[..., dict[str, Any]]
Digits = tuple[NDArray[Any], NDArray[Any]]
STATIC = {"seed": 5, "steps": [{"quantize": {"method": "static", "samples": 64}}, "compress"]}


@pytest.fixture(scope="module")
def digits() -> Digits:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return (images / 16).astype(np.float32), labels.astype(np.int64)


@pytest.fixture(scope="module")
def weights(digits: Digits) -> list[NDArray[np.float32]]:
    """Of two layers, trained until they find 95% of the digits."""
    from sklearn.neural_network import MLPClassifier

    rows, labels = digits
    model = MLPClassifier((128,), random_state=0, learning_rate_init=0.01)
    for _ in range(10):
        model.partial_fit(rows[:1200], labels[:1200], classes=np.arange(10))
    return [np.asarray(one, np.float32) for pair in zip(model.coefs_, model.intercepts_, strict=True) for one in pair]


def save(folder: Path, weights: list[NDArray[np.float32]]) -> Path:
    names = ["w1", "b1", "w2", "b2"]
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["pixels", "w1", "b1"], ["h"], name="first"),
            helper.make_node("Relu", ["h"], ["r"], name="relu"),
            helper.make_node("Gemm", ["r", "w2", "b2"], ["scores"], name="second"),
        ],
        "digits",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", 64])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(array, name) for name, array in zip(names, weights, strict=True)],
    )
    folder.mkdir(exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), folder / "model.onnx")
    return folder


@pytest.fixture
def parent(registry: Registry, digits: Digits, weights: list[NDArray[np.float32]], tmp_path: Path) -> str:
    """digits:1, and the datasets train:1, test:1 and bare:1 (no labels)."""
    rows, labels = digits
    for name, part in (("train", slice(0, 1200)), ("test", slice(1200, None))):
        folder = tmp_path / name
        registry.datasets[f"{name}:1"] = (npz(folder, "digit", pixels=rows[part], digit=labels[part]), folder)
    registry.datasets["bare:1"] = (npz(tmp_path / "bare", pixels=rows[:200]), tmp_path / "bare")
    return registry.add("digits", save(tmp_path / "source", weights))


@pytest.fixture
def optimized(job: Callable[..., FakeJob], monkeypatch: pytest.MonkeyPatch) -> Optimize:
    """The job's result, as control gets it."""
    monkeypatch.setattr(optimize, "_TIMING", 0.5)
    monkeypatch.setattr(optimize, "_CHOOSING", 6.0)

    def run(reference: str, **arguments: Any) -> dict[str, Any]:
        work = job("optimize", version=reference, **arguments)
        return dict(msgspec.json.decode(msgspec.json.encode(optimize.run(cast(Job, work)))))

    return run


def test_a_recipe_makes_a_version_with_proof_and_lineage(parent: str, registry: Registry, optimized: Optimize) -> None:
    result = optimized(parent, recipe=STATIC, data="train:1", evaluation="test:1")
    assert (result["version"], result["created"], result["versions"]) == ("digits:2", True, ["digits:2"])
    manifest, folder = registry.versions["digits:2"]
    assert (manifest.format, manifest.engine, manifest.entry) == ("onnx", "onnxruntime", "model.onnx.xz")
    assert manifest.signature == registry.versions[parent][0].signature
    assert manifest.batchable

    inputs, expected = split_expected(read_sample(folder / str(manifest.sample)))
    run = opened(manifest, folder, manifest.choice, threads=1)
    np.testing.assert_allclose(run(inputs)["scores"], expected["scores"], atol=1e-5)
    theirs = split_expected(read_sample(registry.versions[parent][1] / str(registry.versions[parent][0].sample)))[1]
    assert not np.array_equal(theirs["scores"], expected["scores"]), "its own answers, not its parent's"

    recipe = json.loads(registry.recipes["digits:2"])
    asked = {"seed": 5, "steps": [{"quantize": {"method": "static", "samples": 64}}, {"compress": {}}]}
    assert read_recipe(recipe["optimize"]) == read_recipe(asked)
    assert recipe["optimize"]["steps"][0]["quantize"]["calibration"] == "min-max", "also what was left to its default"
    assert recipe["data"] == {"version": "train:1", "digest": registry.datasets["train:1"][0].digest}
    assert recipe["evaluation"]["version"] == "test:1"
    assert "onnxruntime" in recipe["libraries"]
    assert registry.parents["digits:2"] == parent

    comparison = msgspec.convert(result["comparison"], VersionComparison, strict=False)
    before, after = comparison.entrants
    assert (before.version, after.version, after.registered) == (parent, "digits:2", True)
    assert after.figures.size < before.figures.size / 2
    assert after.loss is not None and abs(after.loss.value) < 0.03
    assert recipe["loss"]["value"] == after.loss.value
    card = registry.cards["digits:2"]
    assert f"Made of {parent} by `quantize static samples=64 → compress`" in card
    assert f"| size | {before.figures.size:,} bytes | {after.figures.size:,} bytes |" in card

    first, second = (msgspec.convert(one, Evaluation) for one in result["evaluations"])
    assert (first.version, second.version) == (parent, "digits:2")
    assert (first.digest, second.digest) == (registry.versions[parent][0].digest, manifest.digest)
    assert first.metrics["accuracy"].value > 0.85
    assert len(msgspec.json.encode(result)) < 1 << 20


def test_int8_scaled_at_each_call_is_a_version_whose_rows_share_no_batch(
    parent: str, registry: Registry, optimized: Optimize
) -> None:
    result = optimized(parent, recipe={"steps": [{"quantize": {"method": "dynamic"}}]}, evaluation="test:1")
    assert not registry.versions[result["version"]][0].batchable
    assert any(note.startswith("Requests do not share a batch any more.") for note in result["notes"])
    assert abs(result["comparison"]["entrants"][1]["loss"]["value"]) < 0.03


def test_without_an_evaluation_set_answers_are_compared(parent: str, optimized: Optimize) -> None:
    result = optimized(parent, recipe={"steps": [{"quantize": {"method": "affine", "bits": 6}}]}, data="bare:1")
    comparison = result["comparison"]
    assert (comparison["task"], comparison["metric"], comparison["dataset"]) == ("agreement", "agreement", "bare:1")
    assert result["evaluations"] == []
    assert comparison["entrants"][1]["agreement"]["top1"] > 0.9


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"recipe": {"steps": ["fuse", {"quantize": {"method": "weights", "tool": "openvino"}}, "compress"]}}, "Step 3 of 3"),
        ({"recipe": {"steps": [{"distil": {"epochs": 1}}]}, "data": "bare:1"}, "learns from labels"),
        ({"recipe": STATIC, "data": "wide:1"}, "pixels"),
        ({"recipe": STATIC, "data": "train:1", "evaluation": "train:1"}, "is the training set and the evaluation set"),
        ({"recipe": STATIC, "data": "train:1", "evaluation": "test:1", "metric": "rmse"}, "no metric of classification"),
        ({"recipe": {"steps": [{"merge": {"versions": ["digits:9"]}}]}}, "digits:9"),
        ({"recipe": STATIC, "data": "holes:1"}, "1 of 30 rows of holes:1 have NaN or Infinity in 'pixels'; the first is row 4"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(
    parent: str, registry: Registry, optimized: Optimize, tmp_path: Path, arguments: dict[str, Any], told: str
) -> None:
    registry.datasets["wide:1"] = (npz(tmp_path / "wide", pixels=np.zeros((30, 65), np.float32)), tmp_path / "wide")
    holes = np.zeros((30, 64), np.float32)
    holes[4, 5] = np.nan
    registry.datasets["holes:1"] = (npz(tmp_path / "holes", pixels=holes), tmp_path / "holes")
    with pytest.raises(OpenMaaSError, match=told):
        optimized(parent, **arguments)
    assert list(registry.versions) == [parent]


def test_weights_that_are_no_numbers_are_refused(
    registry: Registry, optimized: Optimize, weights: list[NDArray[np.float32]], tmp_path: Path
) -> None:
    broken = [weights[0].copy(), *weights[1:]]
    broken[0][3, 5] = np.nan
    reference = registry.add("digits", save(tmp_path / "broken", broken))
    with pytest.raises(Refused, match="digits:1: The weights 'w1' hold 1 of"):
        optimized(reference, recipe={"steps": ["fuse"]})
    assert list(registry.versions) == [reference]


def test_a_recipe_that_changes_nothing_registers_nothing(parent: str, registry: Registry, optimized: Optimize) -> None:
    made = optimized(parent, recipe={"steps": ["fuse"]})["version"]
    with pytest.raises(Refused, match="digits:2 itself, to the byte") as refused:
        optimized(made, recipe={"steps": ["fuse"]})
    assert refused.value.code == "nothing_changed"
    assert list(registry.versions) == [parent, made]


def test_a_text_generator_is_told_what_is_made_for_it(parent: str, registry: Registry, optimized: Optimize) -> None:
    from openmaas.core.generation import Generator

    manifest, folder = registry.versions[parent]
    writer = msgspec.structs.replace(
        manifest, generator=Generator(context=128, vocabulary=64, end=(2,), tokenizer="tokenizer.json")
    )
    registry.versions[parent] = (writer, folder)
    with pytest.raises(InvalidInput, match="generates text") as caught:
        optimized(parent, recipe={"steps": ["fuse"]})
    assert "openvino-genai" in str(caught.value.next_step)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_search_registers_what_it_recommends_and_tells_all_that_it_tried(
    parent: str, registry: Registry, optimized: Optimize, monkeypatch: pytest.MonkeyPatch
) -> None:
    from openmaas.core.recipes import Prune, Quantize
    from openmaas.tasks.optimization.portfolio import Candidate

    def few(*arguments: Any) -> list[Candidate]:
        kept = [one for one in portfolio.portfolio(*arguments) if _wanted(one.recipe.steps[0])]
        impossible = Candidate(recipe=msgspec.structs.replace(kept[0].recipe, steps=(Prune(method="trees"),)), family="trees")
        return [impossible, *kept]

    def _wanted(step: Any) -> bool:
        return isinstance(step, Quantize) and step.method == "affine" and step.bits in (3, 8)

    monkeypatch.setattr(automatic, "portfolio", few)
    monkeypatch.setattr(automatic, "_CHOOSING", 1000.0)
    monkeypatch.setattr(automatic, "_TIMING", (1.0, 2.0))
    result = optimized(
        parent, auto=True, data="train:1", evaluation="test:1", target="size", max_loss=0.05, seconds=120.0, seed=1
    )
    tried = {one["label"]: one for one in result["tried"]}
    assert "trees" in tried["prune trees amount=0.5"]["reason"]
    assert tried["prune trees amount=0.5"]["version"] == ""
    assert result["version"] in result["versions"]
    assert set(result["versions"]) == set(registry.versions) - {parent}
    comparison = result["comparison"]
    registered = {one["version"]: one for one in comparison["entrants"] if one["registered"]}
    assert set(registered) == {parent, *result["versions"]}
    best = registered[result["version"]]
    assert best["figures"]["size"] < registered[parent]["figures"]["size"] / 3
    assert best["loss"]["value"] <= 0.05
    recipe = json.loads(registry.recipes[result["version"]])
    assert recipe["held_out"] == pytest.approx(0.2)
    assert not any(note.startswith("Variants were chosen by") for note in comparison["notes"])
    assert {one["version"] for one in result["evaluations"]} == {parent, *result["versions"]}
    assert result["seconds"] < 120
    assert "Finalists were put in order by rows of the training set" in comparison["why"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_a_search_has_trained_is_trained_again_with_all_rows(
    parent: str, registry: Registry, optimized: Optimize, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the recipe that is kept makes the version again."""
    whole = automatic.portfolio

    def few(*arguments: Any) -> list[Any]:
        """Without knobs, that would be turned as long as there is time."""
        wanted = ("quantize affine → compress", "distil epochs=10 shrink=0.35 → compress")
        return [replace(one, knob=None) for one in whole(*arguments) if one.label in wanted]

    monkeypatch.setattr(automatic, "portfolio", few)
    monkeypatch.setattr(portfolio, "_ROW_VISITS", 4000)
    monkeypatch.setattr(automatic, "_CHOOSING", 1e9)
    monkeypatch.setattr(automatic, "_TIMING", (1.0, 2.0))
    result = optimized(
        parent, auto=True, data="train:1", evaluation="test:1", target="size", max_loss=0.1, seconds=3600.0, seed=1
    )
    recipes = {name: json.loads(registry.recipes[name]) for name in result["versions"]}
    trained = {name: recipe for name, recipe in recipes.items() if "distil" in recipe["optimize"]["steps"][0]}
    assert trained, "a copy with a third of the neurons is good enough"
    for name, recipe in recipes.items():
        assert ("held_out" in recipe) == (name not in trained)
        facts = recipe["facts"].get("distil")
        assert facts is None or facts["training"]["rows"] > 1000, "960 rows are what is trained on until then"


@pytest.mark.slow
def test_a_search_without_a_training_set_says_that_it_chose_by_the_evaluation_set(
    parent: str, registry: Registry, optimized: Optimize, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = automatic.portfolio

    def few(*arguments: Any) -> list[Any]:
        return [one for one in whole(*arguments) if one.label.startswith("quantize weights") and "openvino" not in one.label]

    monkeypatch.setattr(automatic, "portfolio", few)
    monkeypatch.setattr(automatic, "_CHOOSING", 1000.0)
    monkeypatch.setattr(automatic, "_TIMING", (1.0, 2.0))
    result = optimized(parent, auto=True, evaluation="test:1", target="size", max_loss=0.05, seconds=120.0)
    assert any(note.startswith("Variants were chosen by test:1") for note in result["comparison"]["notes"])
    assert result["versions"]
    assert "held_out" not in json.loads(registry.recipes[result["versions"][0]])


@pytest.mark.parametrize("auto", [True, False])
def test_rows_that_are_trained_on_prove_nothing_whatever_they_are_called(
    parent: str, registry: Registry, optimized: Optimize, auto: bool
) -> None:
    registry.datasets["again:3"] = registry.datasets["train:1"]
    asked = {"auto": True} if auto else {"recipe": STATIC}
    with pytest.raises(InvalidInput, match="train:1, which is again:3 by another name, is the training set and the evaluation"):
        optimized(parent, data="train:1", evaluation="again:3", **asked)
    assert set(registry.versions) == {parent}

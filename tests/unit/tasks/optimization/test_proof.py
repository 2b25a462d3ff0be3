"""What is kept of a variant, and how training sets are split: parts of an optimisation that need no engine."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from openmaas.core.errors import InvalidInput, Refused
from openmaas.core.evaluations import Entrant, Estimate, VersionComparison
from openmaas.core.hardware import Processor
from openmaas.core.manifest import Artifact
from openmaas.core.recipes import Quantize, Recipe
from openmaas.tasks.examples import Examples
from openmaas.tasks.optimization import variants
from openmaas.tasks.optimization.base import Piece
from openmaas.tasks.optimization.quality import Judge, split
from openmaas.tasks.optimization.recommending import recommend_by_value
from openmaas.tasks.optimization.results import bounded
from openmaas.tasks.optimization.variants import bounded_facts, loss_told
from tests.unit.tasks.datasets import spec, version
from tests.unit.tasks.optimization.test_search import figures


def rows(count: int, task: Any = "classification") -> Examples:
    per_truth = 2 if task == "similarity" else 1
    return Examples(
        inputs={"x": np.arange(count * per_truth, dtype=np.float32).reshape(-1, 1)}, truth=np.arange(count) % 3, task=task,
        classes=("a", "b", "c"), index=np.arange(count), digest="d",
    )  # fmt: skip


def test_a_fifth_is_held_out_the_same_for_the_same_seed() -> None:
    fitted, held = split(rows(100), seed=4)
    assert (fitted.rows, held.rows) == (80, 20)
    assert not set(fitted.index) & set(held.index)
    assert held.truth is not None
    assert (held.inputs["x"][:, 0].astype(int) % 3 == held.truth).all()
    assert fitted.digest != held.digest
    assert np.array_equal(split(rows(100), seed=4)[1].index, held.index)
    assert not np.array_equal(split(rows(100), seed=5)[1].index, held.index)


def test_pairs_stay_together_and_few_rows_are_not_split() -> None:
    _, held = split(rows(50, "similarity"), seed=0)
    assert held.truth is not None
    assert (held.rows, len(held.truth), len(held.index)) == (20, 10, 10)
    pairs = held.inputs["x"].reshape(-1, 2)
    assert (pairs[:, 1] - pairs[:, 0] == 1).all()
    assert (pairs[:, 0] == held.index * 2).all()
    few = rows(12)
    assert split(few, seed=0) == (few, few)


def test_a_judge_takes_the_metric_or_agreement() -> None:
    manifest = version(spec("x", "FP32", -1, 1), spec("scores", "FP32", -1, 3))
    right = np.eye(3, dtype=np.float32)[np.arange(30) % 3]
    wrong = right.copy()
    wrong[:3] = right[1:4]
    judge = Judge(manifest, rows(30), {"scores": right}, "", seed=0)
    assert judge.loss({"scores": right}).value == 0
    assert judge.loss({"scores": wrong}).value == pytest.approx(0.1)
    bare = replaced(rows(30), truth=None, task="agreement")
    assert Judge(manifest, bare, {"scores": right}, "", seed=0).loss({"scores": wrong}).value == pytest.approx(0.1)
    with pytest.raises(InvalidInput, match="'rmse' is no metric of classification"):
        Judge(manifest, rows(30), {"scores": right}, "rmse", seed=0)


def replaced(examples: Examples, **changes: Any) -> Examples:
    from dataclasses import replace

    return replace(examples, **changes)


@pytest.mark.parametrize(("kind", "advice"), [("openvino", "another tool"), ("onnx", "Leave the last step out")])
def test_a_refusal_of_answers_that_hang_on_the_batch_names_engine_batch_and_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, advice: str
) -> None:
    def examine(*arguments: Any, **options: Any) -> None:
        told = "at batch 1 output 'y' differs by up to 0.25."
        raise Refused(f"The model does not give the answers that its source gave for the sample: {told}", code="parity_failed")

    def packed(*arguments: Any, **options: Any) -> Path:
        return tmp_path / "sample.npz"

    monkeypatch.setattr(variants, "examine", examine)
    monkeypatch.setattr(variants, "pack_beside", packed)
    monkeypatch.setattr(variants, "loaded_files", lambda *arguments: ["model"])
    manifest = version(spec("x", "FP32", -1, 1), spec("y", "FP32", -1, 1))
    (tmp_path / "model").touch()
    piece = Piece(artifact=Artifact(kind=kind, entry="model"), folder=tmp_path, manifest=manifest)
    recipe = Recipe(steps=(Quantize(method="weights", tool="openvino" if kind == "openvino" else "onnxruntime"),))
    job: Any = SimpleNamespace(settings=SimpleNamespace(examine_timeout=1, examine_memory=1))
    answering: Any = SimpleNamespace(once=lambda *arguments: {})
    with pytest.raises(Refused, match=r"at batch 1 output 'y' differs by up to 0\.25") as caught:
        variants.build(job, "one", recipe, piece, tmp_path, {}, answering, tmp_path / "built")
    assert caught.value.message.startswith(f"{'openvino' if kind == 'openvino' else 'onnxruntime'} answers quantize weights")
    assert advice in caught.value.next_step
    assert caught.value.code == "parity_failed"


def test_facts_are_plain_and_bounded() -> None:
    facts = bounded_facts({"layers": 4, "large": ["x" * 100] * 500, "strange": object()}, most=2000)
    assert facts["layers"] == 4
    assert facts["left_out"] == ["large"]
    assert len(msgspec.json.encode(facts)) < 2100


def test_a_result_loses_previews_before_outcomes() -> None:
    changed = [{"row": 1, "preview": "x" * 300_000}]
    result = {
        "comparison": {"entrants": [{"changed": list(changed)} for _ in range(3)]},
        "evaluations": [{"confusion": [[1]], "outcomes": "y" * 100_000} for _ in range(3)],
    }
    made = bounded(result)
    assert len(msgspec.json.encode(made)) <= 900 * 1024
    assert made["comparison"]["entrants"][0]["changed"] == []
    assert made["evaluations"][0]["outcomes"]
    heavy = bounded({"comparison": None, "evaluations": [{"confusion": None, "outcomes": "y" * 600_000} for _ in range(2)]})
    assert [one["outcomes"] is None for one in heavy["evaluations"]] == [True, False]


def compared(*variants: tuple[float, float, int]) -> VersionComparison:
    """A baseline of 100 kB, and variants of (loss, its upper bound, bytes)."""
    entrants = [Entrant(version="net:1", figures=figures(1e-3, 100_000), loss=Estimate(value=0.0, low=0.0, high=0.0))]
    for number, (value, high, size) in enumerate(variants, 2):
        loss = Estimate(value=value, low=2 * value - high, high=high)
        entrants.append(Entrant(version=f"net:{number}", figures=figures(1e-3, size), loss=loss))
    return VersionComparison(
        entrants=tuple(entrants), task="classification", metric="accuracy", target="size", recommended="net:1", max_loss=0.01,
        processor=Processor(model="p", cores=1), rounds=1,
    )  # fmt: skip


def test_few_rows_that_prove_little_do_not_hide_what_was_found() -> None:
    told = recommend_by_value(compared((0.005, 0.02, 10_000), (0.03, 0.05, 5_000), (0.0, 0.02, 50_000)), 0.01)
    assert told.recommended == "net:2"
    assert "10.00 times as good" in told.why
    assert "do not rule out a loss of 2 points" in told.why
    assert recommend_by_value(compared((0.03, 0.05, 5_000)), 0.01).recommended == "net:1"
    assert recommend_by_value(compared((0.0, 0.02, 200_000)), 0.01).recommended == "net:1"


def test_a_loss_beyond_what_was_allowed_is_said() -> None:
    comparison = compared((0.03, 0.05, 5_000), (0.005, 0.02, 5_000))
    assert "more than the 1.00% that were allowed" in loss_told(comparison.entrants[1], comparison)
    assert "allowed" not in loss_told(comparison.entrants[2], comparison)

"""Versions evaluated by their real engines in processes of their own: classes, numbers, likeness, text; what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from openmaas.core.datasets import DatasetManifest
from openmaas.core.errors import EngineFailed, InvalidInput, Refused
from openmaas.core.evaluations import Evaluation
from openmaas.core.metrics import decode_outcomes
from openmaas.tasks import evaluate
from openmaas.tasks.base import Job
from tests.integration.tasks.conftest import FakeJob, Registry
from tests.tiny_writer import make_writer
from tests.unit.formats.encoders import encoder_folder
from tests.unit.tasks.datasets import csv, dataset, npz

Evaluate = Callable[..., Evaluation]


@pytest.fixture
def evaluated(job: Callable[..., FakeJob]) -> Evaluate:
    """`evaluated(reference, dataset, folder, **arguments)`; the result has been JSON, as control gets it."""

    def run(reference: str, manifest: DatasetManifest, folder: Path, **arguments: Any) -> Evaluation:
        running = job("evaluate", version=reference, data="rows:1", **{"seconds": 0.3, **arguments})
        running.dataset = lambda _: (manifest, folder)  # type: ignore[attr-defined]
        found = msgspec.json.decode(msgspec.json.encode(evaluate.run(cast(Job, running))))
        return msgspec.convert(found["evaluation"], Evaluation)

    return run


def linear(folder: Path, weights: Any, name: str = "scores") -> Path:
    """An ONNX file: X [N, F] · weights [F, K]."""
    weights = np.asarray(weights, np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["X", "W"], [name])],
        "linear",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["N", weights.shape[0]])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", weights.shape[1]])],
        [numpy_helper.from_array(weights, "W")],
    )
    folder.mkdir()
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / "model.onnx")
    return folder


def test_a_classifier_with_labels_of_its_own_is_evaluated(registry: Registry, evaluated: Evaluate, tmp_path: Path) -> None:
    """scikit-learn's digits, as `label` and `probabilities`."""
    import skops.io
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression

    x, y = load_digits(return_X_y=True)
    model = LogisticRegression(max_iter=60, tol=0.1).fit(x[:1000], y[:1000])
    files = tmp_path / "digits"
    files.mkdir()
    skops.io.dump(model, files / "model.skops")
    reference = registry.add("digits", files)
    made = evaluated(reference, npz(tmp_path / "rows", x=x[1000:], y=y[1000:]), tmp_path / "rows")
    assert (made.task, made.metric, made.rows, made.version) == ("classification", "accuracy", 797, "digits:1")
    accuracy = made.metrics["accuracy"]
    assert accuracy.value == pytest.approx(model.score(x[1000:], y[1000:]), abs=0.002)
    assert accuracy.low is not None
    assert accuracy.high is not None
    assert accuracy.low < accuracy.value < accuracy.high
    assert {"f1", "precision", "recall", "balanced_accuracy", "log_loss"} < set(made.metrics)
    assert made.confusion is not None
    assert sum(map(sum, made.confusion)) == 797
    assert sum(made.confusion[place][place] for place in range(10)) == round(accuracy.value * 797)
    assert [one.name for one in made.classes] == [str(digit) for digit in range(10)]
    assert made.figures is not None
    assert made.figures.size > 1000
    assert made.figures.speeds[0].batch == 1
    assert made.libraries


def test_a_regression_draws_its_rows_by_the_seed(registry: Registry, evaluated: Evaluate, tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    x = random.normal(size=(200, 3))
    y = x @ [1.0, 2.0, 3.0] + 0.1 * random.normal(size=200)
    reference = registry.add("line", linear(tmp_path / "line", [[1], [2], [3]], "prediction"))
    made = evaluated(reference, npz(tmp_path / "rows", x=x, y=y), tmp_path / "rows", rows=50, seed=4)
    assert (made.task, made.metric, made.rows, made.confusion) == ("regression", "rmse", 50, None)
    assert made.metrics["rmse"].value == pytest.approx(0.1, rel=0.4)
    assert made.metrics["r2"].value > 0.99


def test_raw_scores_and_the_engine_that_is_asked_for(registry: Registry, evaluated: Evaluate, tmp_path: Path) -> None:
    reference = registry.add("raw", linear(tmp_path / "raw", np.eye(3)))
    x = np.eye(3)[[0, 1, 2, 2]]
    made = evaluated(reference, npz(tmp_path / "rows", x=x, y=[0, 1, 2, 1]), tmp_path / "rows", engine="openvino")
    assert made.metrics["accuracy"].value == 0.75
    assert made.confusion == ((1, 0, 0), (0, 1, 1), (0, 0, 1))
    assert made.figures is not None
    assert made.figures.choice.engine == "openvino"
    with pytest.raises(InvalidInput, match="'tensorrt' does not run raw:1") as refused:
        evaluated(reference, npz(tmp_path / "more", x=x, y=[0, 1, 2, 1]), tmp_path / "more", engine="tensorrt")
    assert "onnxruntime" in (refused.value.next_step or "")


def test_answers_that_are_no_numbers_are_counted_and_refused(registry: Registry, evaluated: Evaluate, tmp_path: Path) -> None:
    reference = registry.add("large", linear(tmp_path / "large", [[3e38, 1], [3e38, 1]]))
    x = np.array([[0.1, 0.1], [1, 1], [0.2, 0.1], [1, 2]])
    with pytest.raises(Refused, match="2 of 4 rows are answered with NaN or Infinity in the output 'scores'"):
        evaluated(reference, npz(tmp_path / "rows", x=x, y=[0, 1, 1, 0]), tmp_path / "rows")


def test_a_dataset_without_truth_is_refused_before_anything_runs(
    registry: Registry, evaluated: Evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = registry.add("raw", linear(tmp_path / "raw", np.eye(3)))
    monkeypatch.setattr(evaluate, "answers_of", None)
    with pytest.raises(InvalidInput, match="has no truth") as refused:
        evaluated(reference, npz(tmp_path / "rows", x=np.eye(3)), tmp_path / "rows")
    assert "openmaas compare raw:1" in (refused.value.next_step or "")


def test_an_engine_that_dies_is_a_failure_with_a_name(
    registry: Registry, evaluated: Evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from openmaas.tasks.candidate import Candidate

    reference = registry.add("raw", linear(tmp_path / "raw", np.eye(3)))
    before = Candidate.answer

    def dying(self: Candidate, inputs: Any, step: int) -> Any:
        before(self, inputs, step)
        assert self._child is not None
        self._child.kill()
        self._child.wait()
        return before(self, inputs, step)

    monkeypatch.setattr(Candidate, "answer", dying)
    with pytest.raises(EngineFailed, match="SIGKILL") as failed:
        evaluated(reference, npz(tmp_path / "rows", x=np.eye(3), y=[0, 1, 2]), tmp_path / "rows")
    assert failed.value.code == "crashed"


@pytest.mark.slow
def test_sentence_pairs_are_held_against_their_similarity(registry: Registry, evaluated: Evaluate, tmp_path: Path) -> None:
    source = encoder_folder(tmp_path / "encoder")
    modules = [("Transformer", ""), ("Pooling", "1_Pooling")]
    kinds = "sentence_transformers.models."
    (source / "modules.json").write_text(
        json.dumps([{"idx": i, "name": str(i), "path": path, "type": kinds + kind} for i, (kind, path) in enumerate(modules)])
    )
    (source / "1_Pooling").mkdir()
    (source / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    reference = registry.add("encoder", source)
    pairs = [
        "A cat sits.,A cat sits.,1.0",
        "A cat sits.,Water boils.,0.1",
        "A cat sits.,A kitten is sitting.,0.8",
        "A cat sits.,A dog runs.,0.4",
    ]
    data = csv(tmp_path / "rows", "sentence1,sentence2,score\n" + "\n".join(pairs) + "\n")
    made = evaluated(reference, data, tmp_path / "rows")
    assert (made.task, made.metric, made.rows) == ("similarity", "spearman", 4)
    assert -1 <= made.metrics["spearman"].value <= 1
    assert made.outcomes is not None
    assert decode_outcomes(made.outcomes).answers[0] == pytest.approx(1, abs=1e-3), "of a sentence with itself"


@pytest.mark.slow
def test_a_generator_is_held_against_text(registry: Registry, evaluated: Evaluate, tmp_path: Path) -> None:
    folder = make_writer(tmp_path / "writer")
    reference = registry.add("writer", folder)
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "rows.txt").write_text("the cat sat on the mat and looked at the moon. " * 60)
    made = evaluated(reference, dataset(tmp_path / "text"), tmp_path / "text")
    assert (made.task, made.metric) == ("generation", "perplexity")
    assert made.metrics["perplexity"].value > 1
    assert made.outcomes is not None
    assert made.outcomes.kind == "losses"

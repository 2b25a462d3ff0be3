from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from openmaas.core.errors import Cancelled, Refused
from openmaas.tasks.examples import Examples
from openmaas.tasks.optimization.trainable import lift
from openmaas.tasks.optimization.training import History, Proximal, default_loss, split, train

from .graph_models import graph, perceptron, run


def _examples(rows: int = 480, truth: bool = True, task: Any = "classification") -> Examples:
    """Three classes of points, told apart by which of the first three columns is the largest."""
    x = np.random.default_rng(5).standard_normal((rows, 8)).astype(np.float32)
    labels = x[:, :3].argmax(1).astype(np.int64) if task == "classification" else x[:, :3].astype(np.float64)
    return Examples(
        inputs={"x": x}, truth=labels if truth else None, task=task if truth else "agreement", classes=("a", "b", "c"),
        index=np.arange(rows), digest="",
    )  # fmt: skip


def _train(model: onnx.ModelProto, examples: Examples, **options: Any) -> tuple[Any, History]:
    lifted = lift(model)
    loss, _ = default_loss(lifted, examples, None)
    settings: dict[str, Any] = {"epochs": 15, "learning_rate": 3e-2, "batch": 32, "seed": 1, "progress": lambda *told: None}
    return lifted, train(lifted, examples, loss=loss, **(settings | options))


def _accuracy(model: onnx.ModelProto, examples: Examples) -> float:
    assert examples.truth is not None
    return float(np.mean(run(model, examples.inputs)["scores"].argmax(1) == examples.truth))


def test_a_model_learns_labels_and_the_same_seed_gives_the_same_weights() -> None:
    model, examples = perceptron(1), _examples()
    lifted, history = _train(model, examples)
    made = lifted.to_onnx()
    assert _accuracy(model, examples) < 0.6 and _accuracy(made, examples) > 0.9
    assert history.held_out[history.best] == min(history.held_out)
    assert (history.rows, len(history.training), len(history.held_out)) == (432, 15, 16)
    assert _train(model, examples)[0].to_onnx() == made
    assert _train(model, examples, seed=2)[0].to_onnx() != made


def test_numbers_are_learnt_by_their_squared_error() -> None:
    _, history = _train(perceptron(1), _examples(task="regression"), epochs=25)
    assert history.held_out[history.best] < 0.3 < history.held_out[0]


def test_without_labels_a_model_goes_back_to_its_own_answers() -> None:
    model, examples = perceptron(1), _examples(truth=False)
    lifted = lift(model)
    loss, kind = default_loss(lifted, examples, None)
    with torch.no_grad():
        lifted.nodes["first"].weight.mul_(0.5)  # type: ignore[operator, union-attr]
    history = train(lifted, examples, loss=loss, epochs=10, learning_rate=1e-2, batch=16, seed=1, progress=lambda *told: None)
    assert kind == "its own earlier answers"
    assert history.held_out[history.best] < history.held_out[0] / 5


def test_training_that_only_does_harm_leaves_the_weights_as_they_were() -> None:
    model, examples = perceptron(1), _examples(truth=False)
    lifted, history = _train(model, examples, learning_rate=5.0, epochs=2)
    assert history.best == 0
    assert lifted.to_onnx().graph.initializer == model.graph.initializer


def test_masked_weights_stay_zero() -> None:
    mask = torch.rand(16, 8, generator=torch.Generator().manual_seed(1)) > 0.5
    lifted, _ = _train(perceptron(1), _examples(), masks={"layers.first.weight": mask}, epochs=3)
    weight = lifted.nodes["first"].weight
    assert bool((weight[~mask] == 0).all()) and bool((weight[mask] != 0).all())


def test_the_proximal_step_makes_exact_zeros_and_a_stronger_one_more_of_them() -> None:
    def zeros(strength: float) -> float:
        proximal = Proximal(strength=strength, parameters=frozenset({"layers.first.weight"}))
        lifted, _ = _train(perceptron(1), _examples(), proximal=proximal, keep_best=False)
        assert bool((lifted.nodes["second"].weight != 0).all())
        return float((lifted.nodes["first"].weight == 0).float().mean())

    assert zeros(0.0) == 0.0 < zeros(0.003) < zeros(0.1)


def test_where_there_is_no_gradient_the_proximal_step_is_no_larger_than_the_optimisers() -> None:
    model, examples = perceptron(1), _examples(truth=False)
    proximal = Proximal(strength=1e-4, parameters=frozenset({"layers.first.weight"}))
    lifted, _ = _train(model, examples, proximal=proximal, keep_best=False, learning_rate=1e-3, epochs=1)
    before = onnx.numpy_helper.to_array(model.graph.initializer[0])
    assert np.abs(lifted.nodes["first"].weight.detach().numpy() - before).max() < 0.05


def test_a_loss_that_is_no_number_ends_the_training_with_what_to_change() -> None:
    nodes = [helper.make_node("Gemm", ["x", "w"], ["h"], transB=1), helper.make_node("Exp", ["h"], ["scores"])]
    model = graph(nodes, {"w": np.ones((3, 8), np.float32)}, {"x": ["n", 8]}, {"scores": ["n", 3]})
    with pytest.raises(Refused, match=r"loss became (nan|inf).*epoch \d.*learning_rate 10") as caught:
        _train(model, _examples(), learning_rate=10.0)
    assert "learning_rate, as 1," in str(caught.value.next_step)


def test_a_cancelled_job_ends_the_training_at_once() -> None:
    calls = itertools.count()

    def progress(stage: str, done: float, total: float) -> None:
        assert total == 15 * 14
        if next(calls) == 3:
            raise Cancelled("The job was cancelled.")

    with pytest.raises(Cancelled):
        _train(perceptron(1), _examples(), progress=progress)
    assert next(calls) == 4


def test_rows_are_held_out_of_each_class_alike() -> None:
    examples = _examples(300)
    training, held_out = split(examples, 1)
    assert sorted((*training, *held_out)) == list(range(300)) and len(held_out) == 30
    assert examples.truth is not None
    shares = np.bincount(examples.truth[held_out]) / np.bincount(examples.truth)
    assert shares.min() > 0.08 and shares.max() < 0.12
    assert len(split(_examples(19), 1)[1]) == 0


def test_a_truth_of_another_width_is_refused() -> None:
    examples = _examples(task="regression")
    assert examples.truth is not None
    wide = Examples(inputs=examples.inputs, truth=examples.truth[:, :2], task="regression", index=examples.index, digest="")
    with pytest.raises(Refused, match="3 numbers for each row and the truth 2"):
        _train(perceptron(1), wide)

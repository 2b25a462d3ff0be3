from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from openmaas.core.errors import Refused
from openmaas.core.recipes import LowRank
from openmaas.tasks.optimization.passes import low_rank

from .graph_models import bench, graph, perceptron, piece_of, rows, run


def _thin(rows_: int, columns: int, rank: int, seed: int = 1) -> Any:
    random = np.random.default_rng(seed)
    return (random.standard_normal((rows_, rank)) @ random.standard_normal((rank, columns)) / rank).astype(np.float32)


@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("trans_a", [0, 1])
def test_a_layer_of_low_rank_answers_as_before_with_fewer_weights(tmp_path: Path, trans_a: int, trans_b: int) -> None:
    weight, bias = _thin(12, 10, 2), np.ones(10, np.float32)
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], name="fc", alpha=0.5, beta=2.0, transA=trans_a, transB=trans_b)
    shape = [12, "n"] if trans_a else ["n", 12]
    model = graph([node], {"w": weight.T.copy() if trans_b else weight, "b": bias}, {"x": shape}, {"y": ["n", 10]})
    made = low_rank.run(piece_of(model, tmp_path / "a"), LowRank(energy=0.9999), bench(tmp_path))
    x = rows(12, 5) if trans_a else rows(5, 12)
    np.testing.assert_allclose(run(made.path, {"x": x})["y"], run(model, {"x": x})["y"], rtol=1e-4, atol=1e-5)
    (layer,) = made.facts["low_rank"]["layers"]
    assert (layer["node"], layer["rank"], layer["of"], layer["before"], layer["after"]) == ("fc", 2, 10, 120, 44)
    assert made.facts["low_rank"]["parameters"] == {"before": 130, "after": 54}


def test_a_weight_on_the_left_of_a_product(tmp_path: Path) -> None:
    node = helper.make_node("MatMul", ["w", "x"], ["y"], name="left")
    model = graph([node], {"w": _thin(9, 8, 1)}, {"x": [8, "n"]}, {"y": [9, "n"]})
    made = low_rank.run(piece_of(model, tmp_path / "a"), LowRank(rank=1), bench(tmp_path))
    x = rows(8, 4)
    np.testing.assert_allclose(run(made.path, {"x": x})["y"], run(model, {"x": x})["y"], rtol=1e-4, atol=1e-5)


def test_convolutions_of_one_by_one_are_linear_and_others_are_told(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    weights = {
        "big": random.standard_normal((16, 3, 3, 3)).astype(np.float32),
        "small": _thin(12, 16, 3)[:, :, None, None],
        "bias": random.standard_normal(12).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "big"], ["h"], name="three", kernel_shape=[3, 3]),
        helper.make_node("Conv", ["h", "small", "bias"], ["y"], name="one", strides=[2, 2], pads=[1, 1, 1, 1]),
    ]
    model = graph(nodes, weights, {"x": ["n", 3, 9, 9]}, {"y": ["n", 12, 5, 5]})
    made = low_rank.run(piece_of(model, tmp_path / "a"), LowRank(energy=0.9999), bench(tmp_path))
    x = random.standard_normal((2, 3, 9, 9)).astype(np.float32)
    np.testing.assert_allclose(run(made.path, {"x": x})["y"], run(model, {"x": x})["y"], rtol=1e-3, atol=1e-4)
    assert [layer["node"] for layer in made.facts["low_rank"]["layers"]] == ["one"]
    assert "3 × 3" in made.facts["low_rank"]["skipped"]["three"]


def test_the_energy_that_is_kept_is_what_was_asked_for(tmp_path: Path) -> None:
    model = perceptron(3, hidden=64, features=64)
    made = low_rank.run(piece_of(model, tmp_path / "a"), LowRank(energy=0.5, exclude=("sec*",)), bench(tmp_path))
    (layer,) = made.facts["low_rank"]["layers"]
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "w1")
    values = np.linalg.svd(np.frombuffer(weight.raw_data, np.float32).reshape(64, 64), compute_uv=False) ** 2
    rank = layer["rank"]
    assert values[:rank].sum() / values.sum() >= 0.5 > values[: rank - 1].sum() / values.sum()
    assert made.facts["low_rank"]["skipped"] == {"second": "excluded"}


def test_where_nothing_would_become_smaller_the_nearest_layer_is_named(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"first.*\[8, 16\].*only up to 5 is smaller"):
        low_rank.run(piece_of(perceptron(3), tmp_path / "a"), LowRank(energy=1.0, exclude=("sec*",)), bench(tmp_path))


def test_weights_that_two_nodes_read_stay_as_they_are(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="one"),
        helper.make_node("MatMul", ["h", "w"], ["y"], name="two"),
    ]
    model = graph(nodes, {"w": _thin(10, 10, 1)}, {"x": ["n", 10]}, {"y": ["n", 10]})
    with pytest.raises(Refused, match="another node"):
        low_rank.run(piece_of(model, tmp_path / "a"), LowRank(), bench(tmp_path))


def test_weights_that_are_not_finite_are_named(tmp_path: Path) -> None:
    weight = _thin(10, 10, 1)
    weight[3, 3] = np.nan
    model = graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="bad")], {"w": weight}, {"x": ["n", 10]}, {"y": ["n", 10]}
    )
    with pytest.raises(Refused, match="bad hold NaN"):
        low_rank.run(piece_of(model, tmp_path / "a"), LowRank(), bench(tmp_path))

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from openmaas.core.errors import Refused
from openmaas.core.recipes import Prune
from openmaas.tasks.examples import Examples
from openmaas.tasks.optimization.base import Piece
from openmaas.tasks.optimization.passes import prune
from openmaas.tasks.optimization.passes.prune.masks import lamp, n_of_m, share_of_round, smallest_of_all, smallest_of_each

from .graph_models import bench, graph, perceptron, piece_of, rows, run

_node = helper.make_node


def _normal(*shape: int, seed: int = 3) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _weights(model: onnx.ModelProto | Path) -> dict[str, Any]:
    model = onnx.load(model) if isinstance(model, Path) else model
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def _pruned(tmp_path: Path, model: onnx.ModelProto, training: Examples | None = None, **parameters: Any) -> Piece:
    return prune.run(piece_of(model, tmp_path / "a"), Prune(**parameters), bench(tmp_path, training=training))


def _labelled() -> Examples:
    x = _normal(480, 8)
    labels = x[:, :3].argmax(1).astype(np.int64)
    return Examples(
        inputs={"x": x}, truth=labels, task="classification", classes=("a", "b", "c"), index=np.arange(480), digest=""
    )


def test_a_graph_of_an_older_operator_set_is_trained(tmp_path: Path) -> None:
    model = graph(
        [_node("Gemm", ["x", "w", "b"], ["h"]), _node("Relu", ["h"], ["r"]), _node("Gemm", ["r", "v"], ["scores"])],
        {"w": _normal(8, 16), "b": _normal(16), "v": _normal(16, 3)},
        {"x": ["n", 8]},
        {"scores": ["n", 3]},
        opset=11,
    )
    made = _pruned(tmp_path, model, training=_labelled(), method="channels", amount=0.5, epochs=1)
    assert run(onnx.load(made.path), {"x": _normal(4, 8)})["scores"].shape == (4, 3)
    assert _weights(made.path)["b"].shape == (8,)


def test_a_layer_that_l1_leaves_nothing_of_is_refused(tmp_path: Path) -> None:
    same = replace(_labelled(), truth=np.zeros(480, np.int64))
    with pytest.raises(Refused, match=r"L1 of strength 1 left none of the \d+ weights of 'first'") as caught:
        _pruned(tmp_path, perceptron(1), training=same, method="l1", strength=1.0, epochs=20, learning_rate=0.1)
    assert "strength, as 0.1" in str(caught.value.next_step)


# ── single weights ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_smallest_of_all_layers_go(tmp_path: Path) -> None:
    model = perceptron(1)
    made = _pruned(tmp_path, model, amount=0.75, ranking="magnitude")
    before, after = _weights(model), _weights(made.path)
    kept = np.concatenate([np.abs(after[name][after[name] != 0]) for name in ("w1", "w2")])
    gone = np.concatenate([np.abs(before[name][after[name] == 0]) for name in ("w1", "w2")])
    assert (len(kept), len(gone)) == (44, 132) and gone.max() <= kept.min()
    np.testing.assert_array_equal(after["b1"], before["b1"])
    assert made.facts["prune"]["sparsity"] == 0.75
    assert [layer["node"] for layer in made.facts["prune"]["layers"]] == ["first", "second"]
    assert "compress" in made.notes[0]


def test_each_layer_loses_the_same_share_and_excluded_ones_none(tmp_path: Path) -> None:
    model = perceptron(1, hidden=32)
    made = _pruned(tmp_path, model, method="layer", amount=0.5)
    assert [layer["sparsity"] for layer in made.facts["prune"]["layers"]] == [0.5, 0.5]
    (tmp_path / "b").mkdir()
    made = _pruned(tmp_path / "b", model, method="layer", amount=0.5, exclude=("sec*",))
    np.testing.assert_array_equal(_weights(made.path)["w2"], _weights(model)["w2"])


@pytest.mark.parametrize(("trans_b", "axis"), [(0, 0), (1, 1)])
def test_n_of_m_is_counted_along_the_inputs(tmp_path: Path, trans_b: int, axis: int) -> None:
    weight = _normal(10, 6).T if trans_b else _normal(10, 6)
    node = _node("Gemm", ["x", "w"], ["y"], name="fc", transB=trans_b)
    made = _pruned(tmp_path, graph([node], {"w": weight}, {"x": ["n", 10]}, {"y": ["n", 6]}), method="n:m", n=1, m=4)
    after = np.moveaxis(_weights(made.path)["w"], axis, 0)
    whole = np.moveaxis(weight, axis, 0)
    for start in (0, 4):
        chosen = np.abs(whole[start : start + 4]).argmax(0)
        assert ((after[start : start + 4] != 0).sum(0) == 1).all()
        np.testing.assert_array_equal((after[start : start + 4] != 0).argmax(0), chosen)
    np.testing.assert_array_equal(after[8:], whole[8:])


def test_masks() -> None:
    equal = {"a": np.ones((4, 5), np.float32), "b": np.ones(20, np.float32)}
    assert sum(int((~mask).sum()) for mask in smallest_of_all(equal, 0.3).values()) == 12
    assert [int((~mask).sum()) for mask in smallest_of_each(equal, 0.3).values()] == [6, 6]
    np.testing.assert_array_equal(n_of_m(np.array([1.0, -3.0, 2.0, 0.0, 9.0]), 0, 2, 4), [False, True, True, False, True])
    shares = [share_of_round(0.8, number, 4) for number in range(1, 5)]
    assert shares[-1] == pytest.approx(0.8) and np.all(np.diff(shares, 2) < 0)


def test_a_layer_of_small_weights_keeps_its_own_when_layers_are_compared_by_what_is_left_of_them(tmp_path: Path) -> None:
    np.testing.assert_allclose(lamp(np.array([[1.0, -2.0], [0.0, 3.0]])), [[1 / 14, 4 / 13], [0, 1]])
    model = perceptron(1)
    even = _pruned(tmp_path, model, amount=0.5)
    model.graph.initializer[2].CopyFrom(numpy_helper.from_array(_weights(model)["w2"] * 1e-6, "w2"))
    (tmp_path / "b").mkdir()
    scaled = _pruned(tmp_path / "b", model, amount=0.5)
    assert scaled.facts["prune"]["layers"] == even.facts["prune"]["layers"] and len(scaled.notes) == 1


@pytest.mark.parametrize("method", ["global", "layer", "n:m", "l1"])
def test_zeros_stay_zero_while_the_rest_is_trained(tmp_path: Path, method: Any) -> None:
    examples, model = _labelled(), perceptron(1, hidden=32)
    options: dict[str, Any] = {"method": method, "amount": 0.75, "n": 1, "learning_rate": 3e-2, "batch": 32, "schedule": 2}
    made = _pruned(tmp_path, model, examples, epochs=4, **options)
    assert made.facts["prune"]["sparsity"] >= (0.73 if method == "n:m" else 0.75)
    assert made.facts["prune"]["trained_on"] == "labels"
    assert len(made.facts["prune"]["training"]) == (3 if method == "l1" else 2)
    answers = run(made.path, examples.inputs)["scores"]
    before = run(model, examples.inputs)["scores"]
    assert examples.truth is not None
    assert np.mean(answers.argmax(1) == examples.truth) > np.mean(before.argmax(1) == examples.truth) + 0.2
    zeros = sum(int((array == 0).sum()) for name, array in _weights(made.path).items() if name.startswith("w"))
    assert zeros == round(made.facts["prune"]["sparsity"] * 352)


def test_a_layer_that_would_vanish_is_named(tmp_path: Path) -> None:
    model = perceptron(1)
    model.graph.initializer[2].CopyFrom(numpy_helper.from_array(_weights(model)["w2"] * 1e-6, "w2"))
    with pytest.raises(Refused, match="all 48 weights of 'second' would go") as caught:
        _pruned(tmp_path, model, amount=0.5, ranking="magnitude")
    assert "ranking layer-adaptive" in str(caught.value.next_step)


def test_a_layer_that_is_nearly_gone_is_told(tmp_path: Path) -> None:
    model = perceptron(1, hidden=64)
    small = _weights(model)["w2"] * 1e-6
    small[0, 0] = 100
    model.graph.initializer[2].CopyFrom(numpy_helper.from_array(small, "w2"))
    assert "'second' (99.48%)" in _pruned(tmp_path, model, amount=0.5, ranking="magnitude").notes[1]


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"exclude": ("frist",)}, r"exclude 'frist' is no layer.*'first'"),
        ({"exclude": ("*",)}, "all of its 2 layers are excluded"),
        ({"amount": 0.001}, r"0\.001 of 176 weights is none"),
        ({"method": "n:m", "m": 64}, "no layer has 64 inputs; the most are 16"),
        ({"method": "channels", "exclude": ("frist",)}, r"exclude 'frist' is no layer.*'first'"),
        ({"method": "channels", "exclude": ("first",)}, r"'first': it is excluded; 'second': .*output 'scores'"),
        ({"method": "channels", "amount": 0.01}, r"0\.01 of 16 channels is none"),
    ],
)
def test_why_not(tmp_path: Path, parameters: dict[str, Any], told: str) -> None:
    with pytest.raises(Refused) as caught:
        _pruned(tmp_path, perceptron(1), **parameters)
    assert re.search(told, str(caught.value))
    assert not list((tmp_path / "made").iterdir())


def test_quantised_weights_are_told_to_be_pruned_before(tmp_path: Path) -> None:
    codes, scale = np.ones((4, 4), np.int8), np.array(0.1, np.float32)
    nodes = [_node("DequantizeLinear", ["w", "s"], ["d"], name="dq"), _node("MatMul", ["x", "d"], ["y"])]
    model = graph(nodes, {"w": codes, "s": scale}, {"x": ["n", 4]}, {"y": ["n", 4]})
    with pytest.raises(Refused, match=r"quantised \(node 'dq'") as caught:
        _pruned(tmp_path, model)
    assert "before quantize" in str(caught.value.next_step)


# ── channels ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _network(dead: int, flatten: str = "Reshape") -> onnx.ModelProto:
    """A residual sum, a depthwise convolution, a concatenation and a flatten. The first `dead` of eight channels of each
    layer are always 0, so that nothing is lost without them."""

    def alive(*shape: int, seed: int) -> Any:
        weight = _normal(*shape, seed=seed)
        weight[:dead] = 0
        return weight

    weights = {
        "a": alive(8, 2, 3, 3, seed=1), "b": alive(8, 8, 3, 3, seed=2), "d": alive(8, 1, 3, 3, seed=3),
        "e": alive(8, 8, 1, 1, seed=4), "f": alive(8, 2 * 8 * 9, seed=5), "g": _normal(3, 8, seed=6),
        "ab": alive(8, seed=7), "fb": alive(8, seed=8), "gb": _normal(3, seed=9), "shape": np.array([-1, 144]),
    }  # fmt: skip
    for name in ("b", "e", "g"):
        weights[name][:, :dead] *= 0.01
    weights["f"].reshape(8, 2, 8, 9)[:, :, :dead] *= 0.01
    pads = {"pads": [1, 1, 1, 1]}
    nodes = [
        _node("Conv", ["x", "a", "ab"], ["ha"], name="a", **pads),
        _node("Relu", ["ha"], ["ra"]),
        _node("Conv", ["ra", "b"], ["hb"], name="b", **pads),
        _node("Add", ["hb", "ra"], ["sum"]),
        _node("Conv", ["sum", "d"], ["hd"], name="depthwise", group=8, **pads),
        _node("Conv", ["sum", "e"], ["he"], name="e"),
        _node("Concat", ["hd", "he"], ["both"], axis=1),
        _node("MaxPool", ["both"], ["pool"], kernel_shape=[2, 2], strides=[2, 2]),
        _node("Reshape", ["pool", "shape"], ["flat"], name="flat")
        if flatten == "Reshape"
        else _node("Flatten", ["pool"], ["flat"]),
        _node("Gemm", ["flat", "f", "fb"], ["hf"], name="f", transB=1),
        _node("Relu", ["hf"], ["rf"]),
        _node("Gemm", ["rf", "g", "gb"], ["y"], name="g", transB=1),
    ]
    return graph(nodes, weights, {"x": ["n", 2, 6, 6]}, {"y": ["n", 3]})


@pytest.mark.parametrize("flatten", ["Reshape", "Flatten"])
def test_channels_that_are_always_zero_go_without_a_change(tmp_path: Path, flatten: str) -> None:
    model = _network(4, flatten)
    made = _pruned(tmp_path, model, method="channels", amount=0.5)
    x = _normal(5, 2, 6, 6)
    np.testing.assert_allclose(run(made.path, {"x": x})["y"], run(model, {"x": x})["y"], rtol=1e-4, atol=1e-4)
    shapes = {name: array.shape for name, array in _weights(made.path).items()}
    assert shapes["a"] == (4, 2, 3, 3) and shapes["b"] == (4, 4, 3, 3) and shapes["d"] == (4, 1, 3, 3)
    assert shapes["e"] == (4, 4, 1, 1) and shapes["f"] == (4, 72) and shapes["g"] == (3, 4)
    facts = made.facts["prune"]
    assert facts["kept_whole"] == {"g": "its channels are those of the output 'y'"}
    assert facts["layers"][0] == {"node": "a", "channels": [8, 4]}
    assert made.path.stat().st_size < model.ByteSize() / 2
    (tmp_path / "b").mkdir()
    again = prune.run(made, Prune(method="channels", amount=0.5), bench(tmp_path / "b"))
    assert _weights(again.path)["b"].shape == (2, 2, 3, 3)


def test_one_channel_of_each_layer_always_stays(tmp_path: Path) -> None:
    made = _pruned(tmp_path, perceptron(1), method="channels", amount=0.999)
    assert _weights(made.path)["w1"].shape == (1, 8)
    assert run(made.path, {"x": rows(4, 8)})["scores"].shape == (4, 3)


def test_channels_go_in_rounds_with_training_between(tmp_path: Path) -> None:
    examples = _labelled()
    made = _pruned(
        tmp_path, perceptron(1, hidden=32), examples, method="channels", amount=0.75, schedule=2, epochs=6,
        learning_rate=3e-2, batch=32,
    )  # fmt: skip
    assert made.facts["prune"]["layers"] == [{"node": "first", "channels": [32, 8]}, {"node": "second", "channels": [3, 3]}]
    assert len(made.facts["prune"]["training"]) == 2
    assert np.mean(run(made.path, examples.inputs)["scores"].argmax(1) == examples.truth) > 0.85


@pytest.mark.parametrize(
    ("nodes", "told"),
    [
        ([_node("Reshape", ["h", "halves"], ["r"], name="cut"), _node("ReduceSum", ["r", "two"], ["m"])], r"'cut' \(Reshape\)"),
        ([_node("Add", ["h", "x"], ["m"], name="sum")], "'x', which is no layer's"),
        ([_node("ReduceMean", ["h", "two"], ["m"], name="mean", keepdims=1)], r"'mean' \(ReduceMean\) joins its channels"),
        ([_node("Greater", ["h", "fixed"], ["q"], name="mask"), _node("Where", ["q", "h", "fixed"], ["m"])], "'mask'"),
        ([_node("MatMul", ["h", "h"], ["m"], name="square")], r"'square' \(MatMul\)"),
    ],
)
def test_what_channels_cannot_be_followed_through_is_named(tmp_path: Path, nodes: list[Any], told: str) -> None:
    weights = {
        "w": _normal(4, 4), "halves": np.array([-1, 2, 2]), "two": np.array([1]), "fixed": np.ones(4, np.float32),
        "v": _normal(2 if "cut" in told else 1 if "mean" in told else 4, 3),
    }  # fmt: skip
    nodes = [_node("Gemm", ["x", "w"], ["h"], name="fc"), *nodes]
    if "cut" in told:
        nodes[-1].attribute.append(helper.make_attribute("keepdims", 0))
    last = _node("MatMul", ["m", "v"], ["y"], name="last")
    used = {name for node in (*nodes, last) for name in node.input}
    model = graph(
        [*nodes, last], {name: array for name, array in weights.items() if name in used}, {"x": [4, 4]}, {"y": [None, 3]}, 18
    )
    with pytest.raises(Refused) as caught:
        _pruned(tmp_path, model, method="channels")
    assert re.search(told, caught.value.message), caught.value.message
    assert "global or n:m" in str(caught.value.next_step)


def test_a_set_of_layers_of_different_widths_loses_of_each_its_share_at_most(tmp_path: Path) -> None:
    """A depthwise convolution over two concatenated layers, of which one must keep its channels."""
    weights = {
        "a": _normal(8, 2, 1, 1), "b": _normal(8, 2, 1, 1), "d": _normal(16, 1, 3, 3), "o": _normal(3, 16, 1, 1),
        "p": _normal(3, 8),
    }  # fmt: skip
    nodes = [
        _node("Conv", ["x", "a"], ["ha"], name="a"),
        _node("Conv", ["x", "b"], ["hb"], name="b"),
        _node("Concat", ["ha", "hb"], ["both"], axis=1),
        _node("Conv", ["both", "d"], ["hd"], name="depthwise", group=16),
        _node("Conv", ["hd", "o"], ["y"], name="o"),
        _node("GlobalAveragePool", ["ha"], ["free"]),
    ]
    outputs: dict[str, list[Any]] = {"y": ["n", 3, 4, 4], "free": ["n", 8, 1, 1]}
    model = graph(nodes, {name: weights[name] for name in "abdo"}, {"x": ["n", 2, 6, 6]}, outputs)
    made = _pruned(tmp_path, model, method="channels", amount=0.5)
    channels = {layer["node"]: layer["channels"] for layer in made.facts["prune"]["layers"]}
    assert channels == {"a": [8, 8], "b": [8, 4], "depthwise": [16, 12], "o": [3, 3]}
    node = next(node for node in onnx.load(made.path).graph.node if node.name == "depthwise")
    assert next(attribute.i for attribute in node.attribute if attribute.name == "group") == 12
    x = _normal(2, 2, 6, 6)
    np.testing.assert_allclose(run(made.path, {"x": x})["free"], run(model, {"x": x})["free"], rtol=1e-5, atol=1e-5)


def test_channels_behind_other_axes_are_followed_through_a_flatten(tmp_path: Path) -> None:
    """As keras writes it: convolutions with the channels first, everything else with the channels last."""
    conv, dense = _normal(8, 2, 3, 3), _normal(16 * 8, 3)
    conv[:4] = 0
    dense.reshape(16, 8, 3)[:, :4] *= 0.01
    nodes = [
        _node("Conv", ["x", "w"], ["h"], name="conv"),
        _node("Transpose", ["h"], ["t"], perm=[0, 2, 3, 1]),
        _node("Add", ["t", "b"], ["s"], name="bias"),
        _node("Reshape", ["s", "shape"], ["f"], name="flat"),
        _node("MatMul", ["f", "v"], ["y"], name="dense"),
    ]
    bias = np.concatenate([np.zeros(4), np.ones(4)]).astype(np.float32).reshape(1, 1, 1, 8)
    weights = {"w": conv, "b": bias, "v": dense, "shape": np.array([-1, 128])}
    model = graph(nodes, weights, {"x": ["n", 2, 6, 6]}, {"y": ["n", 3]})
    made = _pruned(tmp_path, model, method="channels", amount=0.5)
    x = _normal(3, 2, 6, 6)
    np.testing.assert_allclose(run(made.path, {"x": x})["y"], run(model, {"x": x})["y"], rtol=1e-4, atol=1e-4)
    assert _weights(made.path)["b"].shape == (1, 1, 1, 4) and _weights(made.path)["v"].shape == (64, 3)

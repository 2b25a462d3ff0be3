from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from openmaas.core.errors import Refused
from openmaas.core.processing import Labels, Processing
from openmaas.tasks.optimization.trainable import lift
from openmaas.tasks.optimization.trainable.scores import find_scores

from .graph_models import graph, perceptron, run

Floats = NDArray[Any]
_node = helper.make_node


def _ints(*values: int) -> NDArray[np.int64]:
    return np.array(values, np.int64)


def _normal(*shape: int, seed: int = 3) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _lifts(operator: str, extra: list[Any], shape: tuple[int, ...], opset: int = 20, **attributes: Any) -> None:
    """x → the node → Cast to float → y, lifted, which holds it against onnxruntime."""
    names = [f"c{number}" if value is not None else "" for number, value in enumerate(extra)]
    weights = {name: np.asarray(value) for name, value in zip(names, extra, strict=True) if name}
    nodes = [_node(operator, ["x", *names], ["h"], name="it", **attributes), _node("Cast", ["h"], ["y"], to=TensorProto.FLOAT)]
    rank = len(shape)
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *shape[1:]] if rank else [])],
            [onnx.ValueInfoProto(name="y")],
            [numpy_helper.from_array(array, name) for name, array in weights.items()],
        ),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=10,
    )
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    sample = {"x": _normal(3, *shape[1:])}
    lift(model, sample)


@pytest.mark.parametrize(
    "operator",
    ["Abs", "Ceil", "Cos", "Erf", "Exp", "Floor", "HardSwish", "HardSigmoid", "Identity", "IsNaN", "Mish", "Neg", "Reciprocal",
     "Relu", "Round", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Tanh", "LeakyRelu", "Elu", "Softmax", "LogSoftmax",
     "Gelu", "Shape", "Size", "Flatten", "Transpose", "GlobalAveragePool", "GlobalMaxPool", "ArgMax", "ArgMin",
     "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp"],
)  # fmt: skip
def test_operators_of_one_input_compute_as_onnxruntime_does(operator: str) -> None:
    _lifts(operator, [], (3, 4, 5, 6))


@pytest.mark.parametrize(
    ("operator", "extra", "attributes"),
    [
        ("Add", [_normal(4, 1, 1)], {}),
        ("Sub", [_normal(1)], {}),
        ("Mul", [_normal(6)], {}),
        ("Div", [_normal(5, 6)], {}),
        ("Pow", [np.float32(2.0)], {}),
        ("Mod", [np.float32(0.7)], {"fmod": 1}),
        ("Max", [_normal(6), _normal(5, 1)], {}),
        ("Min", [_normal(6)], {}),
        ("Sum", [_normal(6), _normal(6)], {}),
        ("Mean", [_normal(6), _normal(5, 1)], {}),
        ("Clip", [np.float32(-0.5), None], {}),
        ("Equal", [_normal(6)], {}),
        ("Greater", [_normal(6)], {}),
        ("LessOrEqual", [_normal(6)], {}),
        ("PRelu", [_normal(4, 1, 1)], {}),
        ("MatMul", [_normal(6, 7)], {}),
        ("MatMul", [_normal(4, 6, 7)], {}),
        ("Reshape", [_ints(0, -1, 10)], {}),
        ("Reshape", [_ints(-1, 120)], {"allowzero": 1}),
        ("Squeeze", [], {}),
        ("Unsqueeze", [_ints(1, -1)], {}),
        ("Slice", [_ints(1, -1), _ints(9, -9), _ints(1, 3), _ints(2, -2)], {}),
        ("Slice", [_ints(1), _ints(2**62), _ints(2)], {}),
        ("Expand", [_ints(2, 1, 1, 1, 1)], {}),
        ("Tile", [_ints(1, 2, 1, 3)], {}),
        ("Pad", [_ints(0, 0, 1, 2, 0, 0, 3, 0), np.float32(0.5)], {}),
        ("Pad", [_ints(1, 2, 2, 1), None, _ints(2, 3)], {"mode": "reflect"}),
        ("Gather", [_ints(0, -1, 2)], {"axis": 2}),
        ("Gather", [_ints(1).reshape(())], {"axis": -1}),
        ("CumSum", [_ints(2).reshape(())], {}),
        ("Trilu", [_ints(1).reshape(())], {"upper": 0}),
        ("Transpose", [], {"perm": [0, 3, 1, 2]}),
        ("Softmax", [], {"axis": 1}),
        ("Flatten", [], {"axis": -1}),
        ("Gelu", [], {"approximate": "tanh"}),
        ("ReduceMean", [_ints(-1, 1)], {"keepdims": 0}),
        ("ReduceSum", [], {"noop_with_empty_axes": 1}),
        ("ReduceProd", [_ints(2)], {}),
        ("LayerNormalization", [_normal(6), _normal(6)], {}),
        ("LayerNormalization", [_normal(5, 6)], {"axis": 2}),
        ("InstanceNormalization", [_normal(4), _normal(4)], {}),
        ("BatchNormalization", [_normal(4), _normal(4), _normal(4), np.abs(_normal(4)) + 0.5], {}),
        ("MaxPool", [], {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 0, 1]}),
        ("MaxPool", [], {"kernel_shape": [2, 2], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
        ("MaxPool", [], {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
        ("AveragePool", [], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
        ("AveragePool", [], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
        ("AveragePool", [], {"kernel_shape": [2, 2], "pads": [0, 0, 1, 1]}),
        ("Conv", [_normal(8, 4, 3, 3), _normal(8)], {"strides": [2, 1], "dilations": [1, 2], "pads": [1, 2, 1, 2]}),
        ("Conv", [_normal(8, 2, 3, 3)], {"group": 2, "pads": [1, 0, 0, 1]}),
        ("Conv", [_normal(8, 4, 3, 3)], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
        ("ConvTranspose", [_normal(4, 3, 3, 3), _normal(3)], {"strides": [2, 2], "output_padding": [1, 1]}),
        ("Resize", [None, np.array([1, 1, 2, 2], np.float32)],
         {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}),
        ("Resize", [None, np.array([1, 1, 2, 1.5], np.float32)], {"mode": "linear"}),
    ],
)  # fmt: skip
def test_operators_with_constants_compute_as_onnxruntime_does(
    operator: str, extra: list[Any], attributes: dict[str, Any]
) -> None:
    _lifts(operator, extra, (3, 4, 5, 6), **attributes)


def test_a_model_comes_back_as_it_was_and_with_the_weights_that_it_has_now() -> None:
    model = perceptron(1)
    lifted = lift(model)
    assert list(lifted.nodes) == ["first", "second"]
    assert lifted.initializers == {
        "layers.first.weight": "w1", "layers.first.bias": "b1", "layers.second.weight": "w2", "layers.second.bias": "b2",
    }  # fmt: skip
    x = _normal(4, 8)
    np.testing.assert_array_equal(run(lifted.to_onnx(), {"x": x})["scores"], run(model, {"x": x})["scores"])
    with torch.no_grad():
        lifted.nodes["second"].weight.mul_(2)  # type: ignore[operator, union-attr]
    made = lifted.to_onnx()
    given = {tensor.name: numpy_helper.to_array(tensor) for tensor in made.graph.initializer}
    before = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    np.testing.assert_array_equal(given["w2"], before["w2"] * 2)
    np.testing.assert_array_equal(given["w1"], before["w1"])
    np.testing.assert_allclose(run(made, {"x": x})["scores"], lifted(x=x)["scores"].detach().numpy(), rtol=1e-5, atol=1e-5)


def test_one_constant_that_two_nodes_share_becomes_two_when_they_are_trained_apart() -> None:
    shared = np.zeros(4, np.float32)
    nodes = [
        _node("Gemm", ["x", "w", "zero"], ["h"], name="one", transB=1),
        _node("Gemm", ["h", "v", "zero"], ["y"], name="two", transB=1),
    ]
    model = graph(nodes, {"w": _normal(4, 4), "v": _normal(4, 4), "zero": shared}, {"x": ["n", 4]}, {"y": ["n", 4]})
    lifted = lift(model)
    with torch.no_grad():
        lifted.nodes["one"].bias.add_(1.0)  # type: ignore[operator, union-attr]
    made = lifted.to_onnx()
    assert [name for node in made.graph.node for name in node.input if "zero" in name] == ["zero/one/2", "zero/two/2"]
    x = _normal(2, 4)
    np.testing.assert_allclose(run(made, {"x": x})["y"], lifted(x=x)["y"].detach().numpy(), rtol=1e-5, atol=1e-5)


def test_a_matrix_in_two_places_stays_one() -> None:
    nodes = [_node("Gemm", ["x", "w"], ["h"], name="one", transB=1), _node("Gemm", ["h", "w"], ["y"], name="two", transB=1)]
    lifted = lift(graph(nodes, {"w": _normal(4, 4)}, {"x": ["n", 4]}, {"y": ["n", 4]}))
    assert len(list(lifted.parameters())) == 1
    with torch.no_grad():
        next(lifted.parameters()).mul_(0.5)
    assert [tensor.name for tensor in lifted.to_onnx().graph.initializer] == ["w"]


def test_what_is_not_finite_is_not_written_back() -> None:
    lifted = lift(perceptron(1))
    with torch.no_grad():
        lifted.nodes["first"].weight[0, 0] = float("nan")  # type: ignore[index, operator, union-attr]
    with pytest.raises(Refused, match=r"layers\.first\.weight.*not finite"):
        lifted.to_onnx()


def test_a_node_without_a_counterpart_is_named() -> None:
    nodes = [_node("Gemm", ["x", "w"], ["h"]), _node("Det", ["h"], ["y"], name="determinant")]
    with pytest.raises(Refused, match=r"'determinant' \(Det\)") as caught:
        lift(graph(nodes, {"w": _normal(4, 4)}, {"x": [4, 4]}, {"y": []}))
    assert "do not train" in str(caught.value.next_step)


def test_quantised_weights_are_told_to_be_trained_before() -> None:
    codes, scale = np.ones((4, 4), np.int8), np.array(0.1, np.float32)
    nodes = [_node("DequantizeLinear", ["w", "s"], ["d"], name="dq"), _node("MatMul", ["x", "d"], ["y"])]
    with pytest.raises(Refused, match="'dq'") as caught:
        lift(graph(nodes, {"w": codes, "s": scale}, {"x": ["n", 4]}, {"y": ["n", 4]}))
    assert "before quantize" in str(caught.value.next_step)


def test_labels_are_left_to_the_graph_and_scores_are_read_before_the_softmax() -> None:
    nodes = [
        _node("Gemm", ["x", "w"], ["logits"], name="fc"),
        _node("Softmax", ["logits"], ["probabilities"], name="softmax"),
        _node("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0),
    ]
    model = graph(nodes, {"w": _normal(4, 3)}, {"x": ["n", 4]}, {"probabilities": ["n", 3]})
    model.graph.output.append(helper.make_tensor_value_info("label", TensorProto.INT64, ["n"]))
    lifted = lift(model)
    assert lifted.outputs == ("probabilities",)
    scores = find_scores(lifted, None, 3)
    assert (scores.value, scores.form) == ("logits", "logits")
    x = _normal(5, 4)
    expected = run(lifted.to_onnx(), {"x": x})
    given = scores.of(lifted, {"x": x})
    np.testing.assert_allclose(torch.softmax(given, 1).detach(), expected["probabilities"], rtol=1e-5)
    np.testing.assert_array_equal(given.argmax(1), expected["label"])


def test_one_probability_stands_for_two_classes() -> None:
    nodes = [_node("Gemm", ["x", "w"], ["z"], name="fc"), _node("Sigmoid", ["z"], ["p"]), _node("Sub", ["one", "p"], ["q"])]
    model = graph(nodes, {"w": _normal(4, 1), "one": np.float32([1.0])}, {"x": ["n", 4]}, {"q": ["n", 1]})
    lifted = lift(model)
    scores = find_scores(lifted, Processing(output=Labels(labels=("no", "yes"), probabilities=True)), 2)
    x = _normal(5, 4)
    given = torch.softmax(scores.of(lifted, {"x": x}), 1).detach().numpy()
    np.testing.assert_allclose(given[:, 1:], run(model, {"x": x})["q"], rtol=1e-4, atol=1e-6)


def test_scores_that_could_be_two_outputs_are_asked_for() -> None:
    nodes = [_node("Gemm", ["x", "w"], ["a"]), _node("Relu", ["a"], ["b"])]
    lifted = lift(graph(nodes, {"w": _normal(4, 3)}, {"x": ["n", 4]}, {"a": ["n", 3], "b": ["n", 3]}))
    with pytest.raises(Refused, match=r"several outputs.*'a'.*'b'"):
        find_scores(lifted, None, 3)
    assert find_scores(lifted, Processing(output=Labels(output="b")), 3).value == "b"

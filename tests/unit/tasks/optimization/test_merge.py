from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from openmaas.core.errors import Refused
from openmaas.core.processing import Labels, Processing
from openmaas.core.recipes import Merge
from openmaas.tasks.optimization.passes import merge
from openmaas.tasks.optimization.weights import ties

from .graph_models import bench, graph, perceptron, piece_of, rows, run, version


def _weights(model: onnx.ModelProto | Path) -> dict[str, Any]:
    model = onnx.load(model) if isinstance(model, Path) else model
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def test_the_mean_of_weights_by_shares(tmp_path: Path) -> None:
    models = [perceptron(1), perceptron(2, prefix="other/"), perceptron(3)]
    sources = {f"net:{number}": version(model, tmp_path / str(number)) for number, model in enumerate(models[1:], 2)}
    parameters = Merge(versions=("net:2", "net:3"), weights=(1, 1, 2))
    made = merge.run(piece_of(models[0], tmp_path / "a"), parameters, bench(tmp_path, sources))
    first, second, third = map(_weights, models)
    merged = _weights(made.path)
    for name in first:
        np.testing.assert_allclose(merged[name], (first[name] + second["other/" + name] + 2 * third[name]) / 4, rtol=1e-5)
    assert list(merged) == list(first)
    assert run(made.path, {"x": rows(4)})["scores"].shape == (4, 3)
    assert made.facts["merge"]["merged"] == ["net:1", "net:2", "net:3"]


def test_a_model_merged_with_itself_answers_as_before(tmp_path: Path) -> None:
    model, x = perceptron(1), {"x": rows(4)}
    made = merge.run(
        piece_of(model, tmp_path / "a"), Merge(versions=("net:2",)), bench(tmp_path, {"net:2": version(model, tmp_path / "b")})
    )
    np.testing.assert_allclose(run(made.path, x)["scores"], run(model, x)["scores"], rtol=1e-6)


def test_one_tensor_that_another_model_keeps_as_two_becomes_two(tmp_path: Path) -> None:
    def two(names: tuple[str, str], weights: dict[str, Any]) -> onnx.ModelProto:
        nodes = [
            helper.make_node("Mul", ["x", names[0]], ["h"], name="a"),
            helper.make_node("Add", ["h", names[1]], ["y"], name="b"),
        ]
        return graph(nodes, weights, {"x": ["n", 2]}, {"y": ["n", 2]})

    shared = two(("w", "w"), {"w": np.float32([1, 1])})
    apart = two(("v", "u"), {"v": np.float32([3, 3]), "u": np.float32([5, 7])})
    for number, (mine, theirs) in enumerate(((shared, apart), (apart, shared))):
        place = tmp_path / str(number)
        place.mkdir()
        made = merge.run(
            piece_of(mine, place / "a"), Merge(versions=("net:2",)), bench(place, {"net:2": version(theirs, place / "b")})
        )
        np.testing.assert_allclose(run(made.path, {"x": np.ones((1, 2), np.float32)})["y"], [[2 + 3, 2 + 4]])


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (perceptron(2, hidden=32), r"'w1' is \[16, 8\] in the version that is optimised and \[32, 8\] in net:2"),
        (
            graph([helper.make_node("Relu", ["x"], ["scores"])], {}, {"x": ["n", 3]}, {"scores": ["n", 3]}),
            "is a Gemm in .* and a Relu",
        ),
    ],
)
def test_what_is_not_alike_is_named(tmp_path: Path, other: onnx.ModelProto, told: str) -> None:
    with pytest.raises(Refused, match=told):
        merge.run(
            piece_of(perceptron(1), tmp_path / "a"),
            Merge(versions=("net:2",)),
            bench(tmp_path, {"net:2": version(other, tmp_path / "b")}),
        )


def test_another_attribute_is_named(tmp_path: Path) -> None:
    def leaky(alpha: float) -> onnx.ModelProto:
        return graph([helper.make_node("LeakyRelu", ["x"], ["y"], name="act", alpha=alpha)], {}, {"x": ["n"]}, {"y": ["n"]})

    with pytest.raises(Refused, match=r"node 0 \(act\) has another alpha in net:2"):
        merge.run(
            piece_of(leaky(0.1), tmp_path / "a"),
            Merge(versions=("net:2",)),
            bench(tmp_path, {"net:2": version(leaky(0.2), tmp_path / "b")}),
        )


def test_whole_numbers_have_no_mean(tmp_path: Path) -> None:
    def quantised(weight: list[int]) -> onnx.ModelProto:
        nodes = [
            helper.make_node("DequantizeLinear", ["w", "s"], ["f"], name="dq"),
            helper.make_node("Add", ["x", "f"], ["y"], name="add"),
        ]
        return graph(nodes, {"w": np.int8(weight), "s": np.float32(0.1)}, {"x": ["n", 2]}, {"y": ["n", 2]})

    with pytest.raises(Refused, match="'w' holds int8"):
        merge.run(
            piece_of(quantised([1, 2]), tmp_path / "a"),
            Merge(versions=("net:2",)),
            bench(tmp_path, {"net:2": version(quantised([1, 3]), tmp_path / "b")}),
        )


def test_weights_that_are_not_finite_are_named(tmp_path: Path) -> None:
    bad = perceptron(2)
    bad.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.full((16, 8), np.inf, np.float32), "w1"))
    with pytest.raises(Refused, match="'w1' of net:2 hold NaN or Infinity"):
        merge.run(
            piece_of(perceptron(1), tmp_path / "a"),
            Merge(versions=("net:2",)),
            bench(tmp_path, {"net:2": version(bad, tmp_path / "b")}),
        )


# ── TIES ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_ties_trims_elects_and_takes_the_mean_of_those_that_agree() -> None:
    base = [np.float32([10, 10, 10]), np.float32([10, 10, 10])]
    first = [np.float32([13, 10.1, 8]), np.float32([10, 14, 10])]  # changes 3, 0.1, -2; 0, 4, 0
    second = [np.float32([15, 10.2, 13]), np.float32([10, 9, 10])]  # changes 5, 0.2, 3; 0, -1, 0
    merged, told = ties(base, list(zip(first, second, strict=True)), np.ones(2), density=0.5)
    np.testing.assert_allclose(merged[0], [14, 10, 13])  # both agree; both trimmed; the larger side's alone
    np.testing.assert_allclose(merged[1], [10, 14, 10])  # of -1 against 4, the sign of the sum
    assert told["conflicts"] == pytest.approx(2 / 6)


def test_ties_of_one_model_and_all_of_its_change_is_that_model(tmp_path: Path) -> None:
    base, model = perceptron(1), perceptron(2)
    sources = {"net:0": version(base, tmp_path / "b"), "net:2": version(model, tmp_path / "c")}
    parameters = Merge(method="ties", versions=("net:2",), base="net:0", density=1.0)
    made = merge.run(piece_of(model, tmp_path / "a"), parameters, bench(tmp_path, sources))
    for name, weight in _weights(made.path).items():
        np.testing.assert_allclose(weight, _weights(model)[name], rtol=1e-5, atol=1e-6)


def test_equal_changes_are_not_kept_beyond_the_density() -> None:
    merged, _ = ties([np.zeros(10, np.float32)], [[np.ones(10, np.float32)]], np.ones(1), density=0.3)
    assert merged[0].sum() == 3


# ── chains ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _normaliser() -> onnx.ModelProto:
    node = helper.make_node("Div", ["x", "w1"], ["h"], name="first")  # names that the next has too
    return graph([node], {"w1": np.full(8, 4.0, np.float32)}, {"x": ["n", 8]}, {"h": ["n", 8]})


def _softmax() -> onnx.ModelProto:
    return graph(
        [helper.make_node("Softmax", ["scores"], ["p"], name="first", axis=1)],
        {},
        {"scores": ["n", 3]},
        {"p": ["n", 3]},
        opset=18,
    )


def test_a_chain_answers_as_the_models_one_after_the_other(tmp_path: Path) -> None:
    net, x = perceptron(1), rows(5)
    second, third = version(net, tmp_path / "b"), version(_softmax(), tmp_path / "c")
    third = (
        msgspec.structs.replace(third[0], processing=Processing(output=Labels(output="p", labels=("a", "b", "c")))),
        third[1],
    )
    made = merge.run(
        piece_of(_normaliser(), tmp_path / "a"),
        Merge(method="chain", versions=("net:2", "soft:1")),
        bench(tmp_path, {"net:2": second, "soft:1": third}),
    )
    scores = run(net, {"x": x / 4})["scores"]
    expected = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    np.testing.assert_allclose(run(made.path, {"x": x})["p"], expected, rtol=1e-4, atol=1e-6)
    assert [spec.name for spec in made.manifest.signature.inputs] == ["x"]
    assert [spec.name for spec in made.manifest.signature.outputs] == ["p"]
    assert made.manifest.processing == third[0].processing
    assert made.facts["merge"]["chain"][0]["tensors"] == {"h": "x"}
    assert made.facts["merge"]["chain"][1]["tensors"] == {"scores": "scores"}


def test_inputs_that_nothing_can_be_given_to_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        Refused, match=r"no output of net:1 is left for the input 'x' FP32 \[-1, 8\] of net:2.*'scores' FP32 \[-1, 3\]"
    ):
        merge.run(
            piece_of(perceptron(1), tmp_path / "a"),
            Merge(method="chain", versions=("net:2",)),
            bench(tmp_path, {"net:2": version(perceptron(2), tmp_path / "b")}),
        )

"""Weights of few bits in a graph, and what stands in the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from openmaas.core.errors import InvalidInput, Refused
from openmaas.core.recipes import Quantize
from openmaas.tasks.examples import Examples
from openmaas.tasks.optimization.base import Piece
from openmaas.tasks.optimization.passes import find_pass, quantize
from openmaas.tasks.optimization.passes.quantize.layers import find_layers
from openmaas.tasks.optimization.rows import row_batches
from tests.unit.tasks.optimization.graphs_for_tests import answers, bench, network, pictures, piece, read, weights


def run(of: Piece, folder: Path, training: Examples | None = None, seed: int = 7, **parameters: Any) -> Piece:
    return quantize.run(of, Quantize(**parameters), bench(folder, training, seed))


def test_it_is_found_by_its_name() -> None:
    assert find_pass(Quantize()) is quantize  # type: ignore[comparison-overlap]


@pytest.mark.parametrize(("bits", "smaller"), [(8, 3), (5, 3), (4, 5), (2, 5)])
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_affine_weights_become_small_and_answers_are_those_of_the_rounded_weights(
    tmp_path: Path, bits: int, smaller: float, rounding: Any
) -> None:
    before = network(tmp_path / "model")
    made = run(before, tmp_path / "bench", method="affine", bits=bits, rounding=rounding)
    facts = made.facts["quantize"]
    assert facts["layers"] == 3 and not facts["in_float"]
    assert facts["bytes"][0] / facts["bytes"][1] > smaller
    rows = pictures().inputs
    wanted = answers(before, rows)
    error = float(np.square(answers(made, rows) - wanted).mean() / np.square(wanted).mean())
    assert 0 < error < {8: 1e-3, 5: 0.02, 4: 0.1, 2: 2.0}[bits]
    assert not find_layers(read(made))


def test_affine_is_exact_about_what_is_computed(tmp_path: Path) -> None:
    """The engine's answers are those of a float model that has the rounded weights, to the last bits."""
    array = weights(64, 48)
    before = piece(tmp_path / "m", [helper.make_node("MatMul", ["x", "w"], ["y"], name="n")], {"w": array}, (64,), width=48)
    made = run(before, tmp_path / "bench", method="affine", bits=4)
    from openmaas.tasks.optimization.passes.quantize.rounding import quantise

    rows = {"x": weights(5, 64, seed=3)}
    assert np.allclose(answers(made, rows), rows["x"] @ quantise(array, 4, (0,), False).restored(), atol=1e-4)


def test_the_same_seed_makes_the_same_file_and_another_does_not(tmp_path: Path) -> None:
    before = network(tmp_path / "model")
    made = [
        run(before, tmp_path / str(n), seed=seed, method="affine", bits=3, rounding="stochastic").path.read_bytes()
        for n, seed in enumerate((1, 1, 2))
    ]
    assert made[0] == made[1] != made[2]


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("opset", [20, 21])
def test_rows_of_a_table_are_looked_up_as_codes(tmp_path: Path, bits: int, opset: int) -> None:
    nodes = [helper.make_node("Gather", ["w", "x"], ["y"], name="table")]
    before = piece(tmp_path / "m", nodes, {"w": weights(500, 64)}, (3,), kind=TensorProto.INT64, opset=opset, rank=3)
    made = run(before, tmp_path / "bench", method="affine", bits=bits)
    rows = {"x": np.array([[0, 7, 499], [3, 3, 3]])}
    assert np.abs(answers(made, rows) - answers(before, rows)).max() < (0.02 if bits == 8 else 0.3)
    assert made.facts["quantize"]["bytes"][0] / made.facts["quantize"]["bytes"][1] > (3 if bits == 8 else 5)


@pytest.mark.parametrize(("bits", "tables"), [(5, 4), (4, 5)])
def test_tables_have_bits_of_their_own_even_where_a_layer_computes_with_one(tmp_path: Path, bits: int, tables: int) -> None:
    nodes = [
        helper.make_node("Gather", ["w", "x"], ["rows"], name="table"),
        helper.make_node("MatMul", ["rows", "w"], ["y"], name="layer"),
    ]
    before = piece(tmp_path / "m", nodes, {"w": weights(64, 64)}, (3,), kind=TensorProto.INT64, opset=21, rank=3)
    made = run(before, tmp_path / "bench", method="affine", bits=bits, tables=tables)
    assert f"{bits} bits ({tables} of tables)" in made.notes[0]
    assert made.facts["quantize"]["layers"] == 2 and made.facts["quantize"]["least_cosine"] > 0.98
    with pytest.raises(ValueError, match="tables belongs to method affine"):
        Quantize(method="weights", tables=4).check()


@pytest.mark.parametrize("group", [0, 16])
@pytest.mark.parametrize("bits", [4, 8])
def test_weights_only_keeps_matmul_for_the_engines_kernels(tmp_path: Path, group: int, bits: int) -> None:
    before = network(tmp_path / "model")
    made = run(before, tmp_path / "bench", method="weights", bits=bits, group=group)
    assert made.facts["quantize"]["layers"] == 3 and made.facts["quantize"]["least_cosine"] > (0.9 if bits == 4 else 0.999)
    (restored,) = [node for node in read(made).graph.node if node.op_type == "DequantizeLinear"]
    assert restored.output[0] in next(node for node in read(made).graph.node if node.name == "head").input


def test_what_is_quantised_already_is_not_quantised_again(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gather", ["table", "x"], ["g"], name="table"),
        helper.make_node("MatMul", ["g", "w"], ["y"], name="head"),
    ]
    tensors = {"table": weights(500, 64), "w": weights(64, 32)}
    before = piece(tmp_path / "m", nodes, tensors, (3,), kind=TensorProto.INT64, rank=3)
    first = run(before, tmp_path / "one", method="affine", exclude=("head",))
    second = run(first, tmp_path / "two", method="weights", bits=4, group=16)
    assert (first.facts["quantize"]["layers"], second.facts["quantize"]["layers"]) == (1, 1)
    with pytest.raises(Refused, match=r"nothing can be quantised"):
        run(second, tmp_path / "three", method="affine")


def test_weights_that_two_nodes_read_are_kept_once(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="one"),
        helper.make_node("MatMul", ["h", "w"], ["y"], name="two"),
    ]
    before = piece(tmp_path / "m", nodes, {"w": weights(32, 32) / 6}, (32,), width=32)
    model = read(run(before, tmp_path / "all", method="affine"))
    assert sum(len(tensor.raw_data) == 32 * 32 for tensor in model.graph.initializer) == 1
    part = read(run(before, tmp_path / "part", method="affine", exclude=("two",)))
    assert "w" in {tensor.name for tensor in part.graph.initializer}  # the excluded node has it as it was


@pytest.mark.parametrize("method", ["affine", "weights", "dynamic"])
def test_weights_that_are_listed_as_inputs_are_weights(tmp_path: Path, method: str) -> None:
    before = network(tmp_path / "model")
    model = onnx.load(before.path)
    model.graph.input.append(helper.make_tensor_value_info("gemm.w", TensorProto.FLOAT, [32, 256]))
    onnx.save(model, before.path)
    made = run(before, tmp_path / "bench", method=method)
    assert [value.name for value in read(made).graph.input] == ["x"]


def test_two_layers_of_the_same_weights_are_computed_in_int8(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["h"], name="first", transB=1),
        helper.make_node("Relu", ["h"], ["r"], name="relu"),
        helper.make_node("Gemm", ["r", "w"], ["y"], name="second", transB=1),
    ]
    before = piece(tmp_path / "model", nodes, {"w": weights(16, 16)}, (16,), width=16)
    rows = {"x": weights(8, 16, seed=3)}
    given, wanted = answers(run(before, tmp_path / "bench"), rows), answers(before, rows)
    assert np.abs(given - wanted).max() < 0.05 * np.abs(wanted).max()


def test_excluded_layers_stay_in_float(tmp_path: Path) -> None:
    made = run(network(tmp_path / "model"), tmp_path / "bench", method="affine", exclude=("ge*", "conv"))
    assert made.facts["quantize"]["in_float"] == ["conv", "gemm"]
    assert {layer.name for layer in find_layers(read(made))} == {"conv", "gemm"}


def test_an_excluded_name_that_is_none_is_told_with_those_that_are_near(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="'gem'") as error:
        run(network(tmp_path / "model"), tmp_path / "bench", method="affine", exclude=("gem",))
    assert "gemm" in str(error.value.next_step)
    assert not any((tmp_path / "bench" / "made").iterdir())


def test_all_layers_excluded_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="all of its 3 layers"):
        run(network(tmp_path / "model"), tmp_path / "bench", method="affine", exclude=("*",))


def test_a_graph_without_layers_says_what_it_has(tmp_path: Path) -> None:
    nodes = [helper.make_node("Softmax", ["x"], ["y"], name="only")]
    with pytest.raises(Refused, match=r"1 Softmax, and no Conv.*MatMul") as error:
        run(piece(tmp_path / "m", nodes, {}, (4,)), tmp_path / "bench", method="affine")
    assert error.value.code == "pass_not_applicable"


def test_a_product_of_two_inputs_is_no_layer(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "t"], ["y"], name="both"),
    ]
    with pytest.raises(Refused, match=r"'both'.*computes with what it is given"):
        run(piece(tmp_path / "m", nodes, {}, (4,)), tmp_path / "bench", method="dynamic")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused_with_their_name(tmp_path: Path, value: float) -> None:
    array = weights(32, 32)
    array[3, 4] = value
    nodes = [helper.make_node("MatMul", ["x", "encoder.w"], ["y"], name="n")]
    with pytest.raises(Refused, match=r"'encoder\.w' hold 1 of 1024"):
        run(piece(tmp_path / "m", nodes, {"encoder.w": array}, (32,)), tmp_path / "bench", method="affine")


def test_openvinos_ir_is_not_for_onnxruntime(tmp_path: Path) -> None:
    before = network(tmp_path / "model")
    other = before.changed(type(before.artifact)(kind="openvino", entry="model.xml"), before.folder)
    with pytest.raises(Refused, match="quantises ONNX, and the model is openvino"):
        run(other, tmp_path / "bench", method="affine")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_openvino_does_not_know_is_told_by_its_operators(tmp_path: Path) -> None:
    nodes = [helper.make_node("Binarizer", ["x"], ["y"], domain="ai.onnx.ml", threshold=0.5)]
    before = piece(tmp_path / "model", nodes, {}, (4,), width=4)
    with pytest.raises(Refused, match=r"OpenVINO does not know ai\.onnx\.ml\.Binarizer") as caught:
        run(before, tmp_path / "bench", tool="openvino", method="weights")
    assert caught.value.next_step == "Use tool: onnxruntime."


def test_the_worst_layers_stay_in_float_and_the_ranking_is_kept(tmp_path: Path) -> None:
    made = run(network(tmp_path / "model"), tmp_path / "bench", pictures(), method="affine", bits=2, keep_worst=0.3)
    facts = made.facts["quantize"]
    errors = [error for _, error in facts["sensitivity"]]
    assert len(errors) == 3 and errors == sorted(errors, reverse=True)
    assert facts["in_float"] == [facts["sensitivity"][0][0]]
    every = run(network(tmp_path / "again"), tmp_path / "all", method="affine", bits=2)
    rows, before = pictures().inputs, network(tmp_path / "third")
    assert (
        np.square(answers(made, rows) - answers(before, rows)).mean()
        < np.square(answers(every, rows) - answers(before, rows)).mean()
    )
    assert {path.name for path in made.folder.iterdir()} == {"model.onnx"}


def test_nodes_without_a_name_can_be_excluded_by_what_they_compute(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "v"], ["h"]), helper.make_node("MatMul", ["h", "w"], ["y"])]
    before = piece(tmp_path / "m", nodes, {"v": weights(32, 32), "w": weights(32, 32)}, (32,), width=32)
    assert run(before, tmp_path / "bench", method="affine", exclude=("MatMul_h",)).facts["quantize"]["layers"] == 1


def test_sequences_are_cut_to_their_own_length(tmp_path: Path) -> None:
    from openmaas.core.processing import Padding

    before = network(tmp_path / "model")
    manifest = type(before.manifest)(
        format="onnx", engine="", entry="", signature=before.manifest.signature, files=(), padding=Padding(pad={"ids": 0})
    )
    ids = np.array([[5, 6, 0, 0], [5, 6, 7, 0], [5, 0, 0, 0]])
    texts = Examples(
        inputs={"ids": ids}, truth=None, task="agreement", lengths=np.array([2, 3, 1]), index=np.arange(3), digest=""
    )
    batches = row_batches(manifest, texts, 10, 0, 16)
    assert [batch["ids"].shape for batch in batches] == [(1, 2), (1, 3), (1, 1)]
    assert len(row_batches(manifest, texts, 2, 0, 16)) == 2


def test_a_packed_file_is_read(tmp_path: Path) -> None:
    from openmaas.core.packed import pack

    before = network(tmp_path / "model")
    before.path.write_bytes(pack(before.path.read_bytes()))
    made = run(before, tmp_path / "bench", method="affine")
    onnx.checker.check_model(str(made.path))

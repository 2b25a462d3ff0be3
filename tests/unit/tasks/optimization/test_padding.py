"""Encoders without their padding, and layers whose large inputs are moved into the weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from openmaas.core.errors import Refused
from openmaas.core.manifest import Artifact, Manifest
from openmaas.core.recipes import Fuse, Quantize
from openmaas.core.types import Signature, TensorSpec
from openmaas.tasks.examples import Examples
from openmaas.tasks.optimization.attention import simpler_attention
from openmaas.tasks.optimization.base import Arrays, Piece
from openmaas.tasks.optimization.checks import least_cosine, run_piece
from openmaas.tasks.optimization.passes import fuse, quantize
from openmaas.tasks.optimization.passes.quantize.smoothing import smoothed
from tests.unit.tasks.optimization.graphs_for_tests import bench, piece, read, weights

WIDTH = 16


def encoder(folder: Path, *, masked: bool = True) -> Piece:
    """One head of attention and a feed-forward layer, and the mean of the positions that hold something (all: not masked)."""
    table = weights(50, WIDTH)
    table[:, 3] *= 30  # a channel far from the others
    tensors = {
        "table": table, "scale": np.ones(WIDTH, np.float32), "shift": weights(WIDTH, seed=1), "up": weights(WIDTH, 32, seed=2),
        "up.bias": weights(32, seed=3), "down": weights(32, WIDTH, seed=4) / 8, "low": np.float32(-1e9), "one": np.float32(1),
        "last": np.array([2]), "middle": np.array([1]),
        **{name: weights(WIDTH, WIDTH, seed=5 + ord(name)) / 8 for name in "qkv"},
    }  # fmt: skip
    nodes = [
        ("Gather", "table input_ids", "embedded"), ("LayerNormalization", "embedded scale shift", "x"),
        ("MatMul", "x q", "queries"), ("MatMul", "x k", "keys"), ("MatMul", "x v", "values"),
        ("Cast", "attention_mask", "mask"), ("Sub", "one mask", "hidden"), ("Mul", "hidden low", "lowered"),
        ("Unsqueeze", "lowered middle", "bias"), ("Transpose", "keys", "turned"), ("MatMul", "queries turned", "scores"),
        ("Add", "scores bias", "seen") if masked else ("Identity", "scores", "seen"),
        ("Softmax", "seen", "shares"), ("MatMul", "shares values", "context"),
        ("Add", "context x", "both"), ("LayerNormalization", "both scale shift", "middle.x"),
        ("MatMul", "middle.x up", "wide"), ("Add", "wide up.bias", "wider"), ("Gelu", "wider", "active"),
        ("MatMul", "active down", "narrow"), ("Add", "narrow middle.x", "end"),
        ("Unsqueeze", "mask last", "mask3"), ("Mul", "end mask3", "kept"), ("ReduceSum", "kept middle", "sum"),
        ("ReduceSum", "mask middle", "count"), ("Div", "sum count", "y"),
    ]  # fmt: skip
    more = {
        "Cast": {"to": TensorProto.FLOAT}, "Transpose": {"perm": [0, 2, 1]}, "LayerNormalization": {"axis": 2},
    }  # fmt: skip
    made = [
        helper.make_node(op, inputs.split(), [output], name=output, **more.get(op, {}), **sums(output))
        for op, inputs, output in nodes
    ]
    ports = [helper.make_tensor_value_info(name, TensorProto.INT64, ["b", "s"]) for name in ("input_ids", "attention_mask")]
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", WIDTH])
    held = [numpy_helper.from_array(np.asarray(array), name) for name, array in tensors.items()]
    model = helper.make_model(
        helper.make_graph(made, "g", ports, [out], held), opset_imports=[helper.make_opsetid("", 20)], ir_version=10
    )
    folder.mkdir()
    onnx.save(model, folder / "model.onnx")
    signature = Signature(
        inputs=tuple(TensorSpec(name=port.name, datatype="INT64", shape=(-1, -1)) for port in ports),
        outputs=(TensorSpec(name="y", datatype="FP32", shape=(-1, WIDTH)),),
    )
    manifest = Manifest(format="onnx", engine="onnxruntime", entry="model.onnx", signature=signature, files=())
    return Piece(artifact=Artifact(kind="onnx", entry="model.onnx"), folder=folder, manifest=manifest)


def sums(output: str) -> dict[str, int]:
    return {"keepdims": 1 if output == "count" else 0} if output in ("sum", "count") else {}


def texts(lengths: tuple[int, ...], seed: int = 0) -> Arrays:
    ids = np.random.default_rng(seed).integers(0, 50, (len(lengths), max(lengths)))
    return {"input_ids": ids, "attention_mask": (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)}


def training() -> Examples:
    return Examples(inputs=texts((6,) * 40, 1), truth=None, task="agreement", index=np.arange(40), digest="")


def agreement(before: Piece, made: Piece, rows: Arrays) -> float:
    return least_cosine(*([run_piece(one.artifact, one.folder, rows, one)] for one in (before, made)))


@pytest.mark.parametrize("lengths", [(4,), (9, 2, 5), (1, 1), (30, 1, 1, 1), (17, 17)])
def test_answers_stay_without_padding(tmp_path: Path, lengths: tuple[int, ...]) -> None:
    before = encoder(tmp_path / "model")
    made = fuse.run(before, Fuse(what="padding"), bench(tmp_path / "bench", training()))
    rows = texts(lengths)
    wanted, got = (run_piece(one.artifact, one.folder, rows, one)["y"] for one in (before, made))
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
    assert made.facts["fuse"]["layers"] == 5


def test_layers_are_given_what_holds_something_alone(tmp_path: Path) -> None:
    made = fuse.run(encoder(tmp_path / "model"), Fuse(what="padding"), bench(tmp_path / "bench", training()))
    model = read(made)
    down = next(node for node in model.graph.node if node.name == "down" or "down" in node.input)
    model.graph.output.append(helper.make_empty_tensor_value_info(down.output[0]))
    onnx.save(model, tmp_path / "asked.onnx")
    from onnxruntime import InferenceSession

    session = InferenceSession(tmp_path / "asked.onnx", providers=["CPUExecutionProvider"])
    assert session.run([down.output[0]], texts((20, 3, 2)))[0].shape == (32, WIDTH)  # 25, up to a multiple of 8; not 60
    assert session.run([down.output[0]], texts((7, 6)))[0].shape == (14, WIDTH)  # never more than there is


def test_a_row_of_padding_alone_harms_no_other(tmp_path: Path) -> None:
    before = encoder(tmp_path / "model")
    made = fuse.run(before, Fuse(what="padding"), bench(tmp_path / "bench", training()))
    rows = texts((5, 9, 3))
    rows["attention_mask"][1] = 0
    wanted, got = (run_piece(one.artifact, one.folder, rows, one)["y"][[0, 2]] for one in (before, made))
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def test_answers_that_depend_on_padding_are_not_changed(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="depend on padding"):
        fuse.run(encoder(tmp_path / "model", masked=False), Fuse(what="padding"), bench(tmp_path / "bench", training()))


def guarded(folder: Path) -> Piece:
    """Attention in two heads as torch exports it: keys turned in three axes, and shares that are no number asked for."""
    before = encoder(folder)
    model = read(before)
    added = {
        "zero": np.float32(0), "none": np.float32(-np.inf), "heads": np.array([0, 0, 2, 8]),
        "axes": np.array([1, 2]), "joined": np.array([0, 0, WIDTH]),
    }  # fmt: skip
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(array), name) for name, array in added.items())
    nodes = [
        ("Cast", "attention_mask", "seen.at", {"to": TensorProto.BOOL}), ("Unsqueeze", "seen.at axes", "seen4", {}),
        ("Where", "seen4 zero none", "lowered4", {}),
        *((op, inputs, output, more) for name in ("queries", "keys", "values") for op, inputs, output, more in (
            ("Reshape", f"{name} heads", f"{name}4", {}), ("Transpose", f"{name}4", f"{name}.h", {"perm": [0, 2, 1, 3]}),
        )),
        ("Shape", "keys.h", "shape", {}), ("Gather", "shape order3", "shape3", {}),
        ("Concat", "all shape3", "shape.flat", {"axis": 0}),
        ("Reshape", "keys.h shape.flat", "keys3", {}), ("Transpose", "keys3", "turned3", {"perm": [0, 2, 1]}),
        ("Gather", "shape order4", "shape4", {}), ("Reshape", "turned3 shape4", "turned4", {}),
        ("MatMul", "queries.h turned4", "scores4", {}), ("Add", "scores4 lowered4", "hidden4", {}),
        ("Softmax", "hidden4", "shares4", {}), ("IsNaN", "shares4", "asked", {}), ("Where", "asked zero shares4", "sure", {}),
        ("MatMul", "sure values.h", "context4", {}), ("Transpose", "context4", "back", {"perm": [0, 2, 1, 3]}),
        ("Reshape", "back joined", "context", {}),
    ]  # fmt: skip
    more = {"order3": np.array([2, 3]), "order4": np.array([0, 1, 3, 2]), "all": np.array([-1])}
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in more.items())
    gone = {"hidden", "lowered", "bias", "turned", "scores", "seen", "shares", "context"}
    kept = [node for node in model.graph.node if node.output[0] not in gone]
    made = [helper.make_node(op, inputs.split(), [output], name=output, **given) for op, inputs, output, given in nodes]
    model.graph.ClearField("node")
    waiting, known = [*kept, *made], {value.name for value in (*model.graph.input, *model.graph.initializer)}
    while waiting:  # in an order in which each is made before it is read
        node = next(one for one in waiting if known.issuperset(one.input))
        waiting.remove(node)
        known.update(node.output)
        model.graph.node.append(node)
    onnx.save(model, before.path)
    return before


def test_attention_has_fewer_nodes_and_the_same_answers(tmp_path: Path) -> None:
    before = guarded(tmp_path / "model")
    made = fuse.run(before, Fuse(what="padding"), bench(tmp_path / "bench", training()))
    kinds = [node.op_type for node in read(made).graph.node]
    assert "IsNaN" not in kinds and made.facts["fuse"]["fewer_nodes_of_attention"] >= 5
    rows = texts((5, 9, 3))
    for empty in (False, True):
        rows["attention_mask"][1] *= not empty
        wanted, got = (run_piece(one.artifact, one.folder, rows, one)["y"] for one in (before, made))
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def test_attention_stays_where_it_is_needed(tmp_path: Path) -> None:
    model = read(guarded(tmp_path / "model"))
    made, fewer = simpler_attention(model)
    assert fewer == 9 and len(model.graph.node) == len(made.graph.node) + fewer
    for node in model.graph.node:
        if node.op_type == "Where" and node.input[0] == "seen4":
            node.input[2] = "zero"  # nothing is hidden by it
    assert any(node.op_type == "IsNaN" for node in simpler_attention(model)[0].graph.node)


def test_attention_stays_where_a_row_of_padding_alone_has_an_answer(tmp_path: Path) -> None:
    before = guarded(tmp_path / "model")
    model = read(before)
    last = model.graph.node[-1]
    assert last.output[0] == "y"
    model.graph.initializer.append(numpy_helper.from_array(np.array(0), "first"))
    last.CopyFrom(helper.make_node("Gather", ["end", "first"], ["y"], name="y", axis=1))
    onnx.save(model, before.path)
    made = fuse.run(before, Fuse(what="padding"), bench(tmp_path / "bench", training()))
    assert made.facts["fuse"]["fewer_nodes_of_attention"] == 0
    assert "IsNaN" in [node.op_type for node in read(made).graph.node]
    rows = texts((5, 9, 3))
    rows["attention_mask"][1] = 0
    wanted, got = (run_piece(one.artifact, one.folder, rows, one)["y"] for one in (before, made))
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def test_without_a_mask_nothing_is_padding(tmp_path: Path) -> None:
    before = piece(tmp_path / "m", [helper.make_node("MatMul", ["x", "w"], ["y"], name="n")], {"w": weights(8, 8)}, (8,))
    with pytest.raises(Refused, match="no input 'attention_mask'"):
        fuse.run(before, Fuse(what="padding"), bench(tmp_path / "bench"))


def test_smoothing_changes_no_answer_and_shares_large_channels_with_the_weights(tmp_path: Path) -> None:
    before = encoder(tmp_path / "model")
    rows = texts((6, 6, 6), 1)
    step = Quantize(method="dynamic", smooth=0.5)
    model = smoothed(read(before), step, [rows])
    (tmp_path / "smooth").mkdir()
    onnx.save(model, tmp_path / "smooth" / "model.onnx")
    assert agreement(before, before.changed(before.artifact, tmp_path / "smooth"), texts((9, 4))) > 0.999999
    assert sum(node.name.endswith("/smooth") for node in model.graph.node) == 3  # one for q, k and v


@pytest.mark.parametrize(
    ("tool", "method"), [("onnxruntime", "dynamic"), pytest.param("openvino", "weights", marks=pytest.mark.slow)]
)
def test_smoothed_layers_are_quantised(tmp_path: Path, tool: str, method: str) -> None:
    before = encoder(tmp_path / "model")
    step = Quantize(method=method, tool=tool, smooth=0.5)  # type: ignore[arg-type]
    made = quantize.run(before, step, bench(tmp_path / "bench", training()))
    assert "smoothed by 0.5" in made.facts["quantize"]["scheme"] and made.facts["quantize"]["layers"] >= 5
    assert agreement(before, made, texts((6, 6))) > 0.99


def test_smoothing_needs_linear_layers_and_inputs_that_are_quantised(tmp_path: Path) -> None:
    assert Quantize(method="dynamic", smooth=0.5).needs_data == "inputs" and not Quantize(method="dynamic").needs_data
    with pytest.raises(ValueError, match="smooth is for"):
        Quantize(method="affine", smooth=0.5).check()
    with pytest.raises(ValueError, match="smooth"):
        Quantize(method="dynamic", smooth=1.5).check()
    before = piece(tmp_path / "m", [helper.make_node("Gather", ["w", "x"], ["y"], name="n")], {"w": weights(8, 8)}, (),
                   kind=TensorProto.INT64)  # fmt: skip
    with pytest.raises(Refused, match="no MatMul with float weights"):
        smoothed(read(before), Quantize(method="dynamic", smooth=0.5), [])

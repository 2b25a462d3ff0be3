"""ONNX of many ages and shapes: old operators, a fixed batch axis, several inputs and outputs, quantised and half precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from openmaas.core.errors import Refused
from openmaas.core.manifest import Manifest
from openmaas.engines import EngineSpec, create_engine
from openmaas.formats import Examined
from openmaas.formats.sample import fit, read_sample, split_expected
from tests.integration.formats.conftest import Examine
from tests.unit.formats import models
from tests.unit.formats.models import model, save, value


def serve(found: Examined, *folders: Path) -> Any:
    folder = next(folder for folder in folders if (folder / found.entry).is_file())
    manifest = Manifest(
        format=found.format, engine=found.engine, entry=found.entry, artifacts=found.artifacts, signature=found.signature,
        files=(),
    )  # fmt: skip
    engine = create_engine(found.engine)
    engine.load(EngineSpec(folder=folder, manifest=manifest))
    return engine


# ── the batch axis ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_batch_axis_fixed_at_one_is_freed_where_the_answers_stay(folder: Path, output: Path, look: Examine) -> None:
    original = save(models.fixed_batch(), folder)
    found = look()
    assert (found.entry, found.added) == ("free-batch.onnx", ("free-batch.onnx", "sample.npz"))
    assert [artifact.entry for artifact in found.artifacts] == ["free-batch.onnx"]  # the other takes another signature
    assert found.batchable
    assert (found.signature.inputs[0].shape, found.signature.outputs[0].shape) == ((-1, 8), (-1, 3))
    assert found.parity is not None
    assert "fixed at 1" in found.parity.source
    assert [comparison.batch for comparison in found.parity.comparisons] == [1, 2, 7]
    rows = np.random.default_rng(1).standard_normal((5, 8)).astype(np.float32)
    together = serve(found, output).run({"x": rows})["y"]
    import onnxruntime

    session = onnxruntime.InferenceSession(original)
    alone = np.concatenate([session.run(None, {"x": rows[index : index + 1]})[0] for index in range(5)])
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-6)


def test_a_given_sample_is_what_the_free_axis_is_proved_on(folder: Path, look: Examine) -> None:
    save(models.fixed_batch(), folder)
    np.save(folder / "rows.npy", np.random.default_rng(0).standard_normal((9, 8)))
    found = look(sample="rows.npy")
    assert found.parity is not None
    assert (found.batchable, found.parity.sample) == (True, "given")


def test_rows_that_would_mix_stay_alone(folder: Path, look: Examine) -> None:
    save(models.fixed_batch(mixing_rows=True), folder)
    found = look()
    assert (found.entry, found.batchable, found.parity) == ("model.onnx", False, None)
    assert found.batching == "Axis 0 of the input 'x' is fixed at 1."
    assert found.sample == "sample.npz"


def test_a_recurrent_state_of_one_row_stays_alone(folder: Path, look: Examine) -> None:
    """The state's length is in a constant that no rewriting finds, so that a batch does not even run."""
    random = np.random.default_rng(0)
    constants = [
        numpy_helper.from_array(random.standard_normal(shape).astype(np.float32), name)
        for name, shape in (("w", (1, 3, 4)), ("r", (1, 3, 3)), ("h", (1, 1, 3)))
    ]
    swap = helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2])
    node = helper.make_node("RNN", ["t", "w", "r", "", "", "h"], ["", "last"], hidden_size=3)
    back = helper.make_node("Transpose", ["last"], ["y"], perm=[1, 0, 2])
    save(model([swap, node, back], [value("x", [1, 5, 4])], [value("y", [1, 1, 3])], constants), folder)
    found = look()
    assert (found.entry, found.batchable) == ("model.onnx", False)


FIXED = """\
signature:
  inputs: [{name: x, datatype: FP32, shape: [1, 8]}]
  outputs: [{name: y, datatype: FP32, shape: [1, 3]}]
"""


@pytest.mark.parametrize("text", ["batchable: false\n", FIXED])
def test_who_wants_the_axis_fixed_keeps_it(text: str, folder: Path, look: Examine) -> None:
    save(models.fixed_batch(), folder)
    (folder / "openmaas.yaml").write_text(text)
    found = look()
    assert (found.entry, found.batchable, found.signature.inputs[0].shape) == ("model.onnx", False, (1, 8))


def test_a_batch_axis_fixed_at_four_is_served_as_it_is(folder: Path, output: Path, look: Examine) -> None:
    save(models.linear((4, 4), (4, 3)), folder)
    np.save(folder / "rows.npy", np.random.default_rng(0).standard_normal((9, 4)))
    found = look(sample="rows.npy")
    assert (found.entry, found.batchable) == ("model.onnx", False)
    assert found.sample is not None
    inputs, expected = split_expected(read_sample(output / found.sample))
    assert (inputs["x"].shape, expected["y"].shape) == ((4, 4), (4, 3))


def test_a_convolution_with_a_fixed_batch(folder: Path, output: Path, look: Examine) -> None:
    random = np.random.default_rng(0)
    kernel = numpy_helper.from_array(random.standard_normal((4, 1, 3, 3)).astype(np.float32), "k")
    flat = numpy_helper.from_array(np.array([1, 4 * 6 * 6]), "f")
    dense = numpy_helper.from_array(random.standard_normal((144, 10)).astype(np.float32), "d")
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Reshape", ["r", "f"], ["flat"]),
        helper.make_node("MatMul", ["flat", "d"], ["scores"]),
    ]
    save(model(nodes, [value("x", [1, 1, 8, 8])], [value("scores", [1, 10])], [kernel, flat, dense]), folder)
    found = look()
    assert found.batchable
    assert serve(found, output).run({"x": np.ones((3, 1, 8, 8), np.float32)})["scores"].shape == (3, 10)


# ── old operators ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("rows", [(None, 4), (1, 4), ("n", 4)])
def test_operators_that_onnxruntime_lacks_are_rewritten_and_compared(
    rows: Any, folder: Path, output: Path, look: Examine
) -> None:
    save(models.old_operators(rows), folder)
    found = look()
    assert found.batchable
    assert (found.entry, found.added) == ("free-batch.onnx", ("free-batch.onnx", "sample.npz"))
    assert any("operators of version 6 were rewritten" in note for note in found.notes)
    matrix = numpy_helper.to_array(models.weights())
    inputs = np.random.default_rng(2).standard_normal((3, 4)).astype(np.float32)
    np.testing.assert_allclose(
        serve(found, output).run({"x": inputs})["y"], np.maximum(inputs @ matrix + [1, -2, 3], 0), rtol=1e-4, atol=1e-5
    )


def test_a_rewriting_that_answers_otherwise_is_not_served(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from onnx import version_converter

    from openmaas.formats.base import Task
    from openmaas.formats.onnx import OnnxFormat

    right = version_converter.convert_version

    def wrong(*arguments: Any) -> Any:
        newer = right(*arguments)
        for tensor in newer.graph.initializer:
            if tensor.name == "b":
                tensor.CopyFrom(numpy_helper.from_array(np.zeros(3, np.float32), "b"))
        return newer

    monkeypatch.setattr(version_converter, "convert_version", wrong)
    save(models.old_operators(), folder)
    with pytest.raises(Refused, match="onnxruntime cannot load the model") as caught:
        OnnxFormat().examine(Task(folder=folder, output=folder.parent), "model.onnx")
    assert caught.value.code == "model_not_runnable"


@pytest.mark.parametrize(("opset", "version"), [(7, 3), (9, 4), (11, 6), (13, 7), (21, 10)])
def test_versions_that_are_served_as_they_are(opset: int, version: int, folder: Path, look: Examine) -> None:
    proto = models.linear()
    proto.ir_version = version
    del proto.opset_import[:]
    proto.opset_import.append(helper.make_opsetid("", opset))
    if version < 4:
        proto.graph.input.append(value("W", [4, 3]))
    save(proto, folder)
    found = look()
    assert (found.entry, found.batchable, [spec.name for spec in found.signature.inputs]) == ("model.onnx", True, ["x"])


# ── several inputs and outputs, types ────────────────────────────────────────────────────────────────────────────────


def test_an_output_that_is_a_sequence_is_left_out_beside_a_tensor(folder: Path, output: Path, look: Examine) -> None:
    nodes = [helper.make_node("MatMul", ["x", "W"], ["y"]), helper.make_node("SplitToSequence", ["y"], ["parts"], axis=1)]
    sequence = helper.make_tensor_sequence_value_info("parts", TensorProto.FLOAT, None)
    save(model(nodes, [value("x", [None, 4])], [sequence, value("y", [None, 3])], [models.weights()]), folder)
    found = look()
    assert [spec.name for spec in found.signature.outputs] == ["y"]
    assert "Outputs that are no tensors are left out: 'parts'." in found.notes
    assert list(serve(found, folder).run({"x": np.ones((2, 4), np.float32)})) == ["y"]


def test_a_sequence_alone_is_refused(folder: Path, look: Examine) -> None:
    node = helper.make_node("SplitToSequence", ["x"], ["parts"], axis=1)
    sequence = helper.make_tensor_sequence_value_info("parts", TensorProto.FLOAT, None)
    save(model([node], [value("x", [None, 4])], [sequence]), folder)
    with pytest.raises(Refused, match="only tensors can be served") as caught:
        look()
    assert caught.value.code == "unsupported_type"


def test_several_inputs_and_outputs_of_several_types(folder: Path, output: Path, look: Examine) -> None:
    nodes = [
        helper.make_node("Cast", ["n"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["x", "f"], ["sum"]),
        helper.make_node("Greater", ["x", "f"], ["more"]),
        helper.make_node("Identity", ["s"], ["text"]),
    ]
    inputs = [value("x", [None, 2]), value("n", [None, 1], TensorProto.INT32), value("s", [None, 1], TensorProto.STRING)]
    outputs = [
        value("sum", [None, 2]), value("more", [None, 2], TensorProto.BOOL), value("text", [None, 1], TensorProto.STRING)
    ]  # fmt: skip
    save(model(nodes, inputs, outputs), folder)
    found = look()
    assert found.batchable
    assert found.sample is not None
    given, expected = split_expected(read_sample(output / found.sample))
    assert {name: array.dtype.kind for name, array in given.items()} == {"x": "f", "n": "i", "s": "O"}
    answers = serve(found, folder).run(fit(given, found.signature.inputs))
    assert all(np.array_equal(answers[name], expected[name]) for name in ("sum", "more", "text"))


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE])
def test_other_precisions_keep_a_sample_that_can_be_run_again(kind: int, folder: Path, output: Path, look: Examine) -> None:
    cast = [helper.make_node("Cast", ["W"], ["V"], to=kind), helper.make_node("MatMul", ["x", "V"], ["y"])]
    if kind == TensorProto.BFLOAT16:  # which onnxruntime does not multiply on processors
        cast = [helper.make_node("Identity", ["x"], ["y"])]
    save(model(cast, [value("x", [None, 4], kind)], [value("y", [None, None], kind)], [models.weights()]), folder)
    found = look()
    assert found.sample is not None
    given, expected = split_expected(read_sample(output / found.sample))
    answers = serve(found, folder).run(fit(given, found.signature.inputs))
    np.testing.assert_allclose(answers["y"].astype(float), expected["y"].astype(float), rtol=1e-2, atol=1e-2)


def test_a_quantised_model(folder: Path, output: Path, look: Examine) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    source = save(models.linear(), folder.parent, "source.onnx")
    quantize_dynamic(source, folder / "model.onnx", weight_type=QuantType.QInt8)
    found = look()
    assert found.engine == "onnxruntime"
    assert found.sample is not None
    assert serve(found, folder).run({"x": np.ones((1, 4), np.float32)})["y"].shape == (1, 3)


def test_the_pushed_sample_is_kept_where_it_serves(folder: Path, look: Examine) -> None:
    save(models.linear(), folder)
    rows = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)
    np.savez(folder / "rows.npz", x=rows, **{"expected/y": rows @ numpy_helper.to_array(models.weights())})
    found = look(sample="rows.npz")
    assert (found.sample, found.added) == ("rows.npz", ())


def test_a_free_batch_is_valid_onnx(folder: Path, output: Path, look: Examine) -> None:
    save(models.fixed_batch(), folder)
    onnx.checker.check_model(onnx.load(output / look().entry), full_check=True)

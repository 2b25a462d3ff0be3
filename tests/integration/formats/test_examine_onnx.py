"""ONNX files and folders through the child process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from openmaas.core.errors import InvalidInput, Refused
from openmaas.core.manifest import Parity
from openmaas.engines.onnxruntime.session import OnnxSession
from tests.integration.formats.conftest import Examine
from tests.unit.formats import models
from tests.unit.formats.models import model, save, save_external, value


def test_a_file_whatever_its_name(folder: Path, look: Examine) -> None:
    save(models.linear(), folder, "weights.txt")
    found = look()
    assert (found.format, found.engine, found.entry, found.added) == ("onnx", "onnxruntime", "weights.txt", ("sample.npz",))
    assert found.signature.inputs[0].shape == (-1, 4)
    assert found.batchable
    assert "7 rows of the generated sample" in found.batching
    assert any("No sample" in note for note in found.notes)
    assert found.parity is None


def test_a_folder_with_external_data_below_and_a_card(folder: Path, look: Examine) -> None:
    save_external(folder / "onnx")
    (folder / "openmaas.yaml").write_text("card: '# Linear'\nmetadata: {team: a}\nlicence: MIT\noptions: {k: 1}\n")
    found = look()
    assert found.entry == "onnx/model.onnx"
    assert (found.card, found.metadata, found.licence, found.options) == ("# Linear", {"team": "a"}, "MIT", {"k": 1})


def test_a_model_whose_rows_mix_is_not_batchable(folder: Path, look: Examine) -> None:
    save(models.mixing(), folder)
    found = look()
    assert not found.batchable
    assert "depends on its batch" in found.batching


def test_one_row_given_does_not_hide_that_rows_mix(folder: Path, look: Examine) -> None:
    save(models.mixing(), folder)
    np.save(folder / "sample.npy", np.ones((1, 4), np.float32))
    assert not look(sample="sample.npy").batchable


def test_a_model_of_a_fixed_batch(folder: Path, look: Examine) -> None:
    save(models.linear((2, 4), (2, 3)), folder)
    found = look()
    assert not found.batchable
    assert found.batching == "Axis 0 of the input 'x' is fixed at 2."


def test_several_inputs_with_a_dynamic_sequence(folder: Path, look: Examine) -> None:
    nodes = [helper.make_node("Mul", ["ids", "mask"], ["m"]), helper.make_node("ReduceSum", ["m", "axis"], ["y"], keepdims=0)]
    inputs = [value(name, ["batch", "sequence"], TensorProto.INT64) for name in ("ids", "mask")]
    axis = models.numpy_helper.from_array(np.array([1]), "axis")
    save(model(nodes, inputs, [value("y", ["batch"], TensorProto.INT64)], [axis]), folder)
    found = look()
    assert found.batchable
    assert [spec.shape for spec in found.signature.inputs] == [(-1, -1), (-1, -1)]


def test_a_given_sample(folder: Path, look: Examine) -> None:
    save(models.linear(), folder)
    np.save(folder / "rows.npy", np.random.default_rng(0).standard_normal((20, 4)))
    found = look(sample="rows.npy")
    assert found.batchable
    assert "given sample" in found.batching
    assert found.notes == ()


def test_a_sample_that_does_not_fit_names_both_shapes(folder: Path, look: Examine) -> None:
    save(models.linear(), folder)
    np.save(folder / "rows.npy", np.zeros((20, 5)))
    with pytest.raises(InvalidInput, match=r"shape \[20, 5\].* it takes \[-1, 4\]"):
        look(sample="rows.npy")


def test_answers_of_the_source_are_held_against(folder: Path, look: Examine) -> None:
    proto = models.linear()
    path = save(proto, folder)
    x = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)
    right = OnnxSession(path).run({"x": x})["y"]
    np.savez(folder / "rows.npz", **{"x": x, "expected/y": right})
    assert look(sample="rows.npz").batchable
    right[13] += 1
    np.savez(folder / "rows.npz", **{"x": x, "expected/y": right})
    with pytest.raises(Refused, match="output 'y' differs by up to 1") as caught:
        look(sample="rows.npz")
    assert caught.value.code == "parity_failed"


def test_a_conversion_that_the_pusher_made(folder: Path, look: Examine) -> None:
    save(models.linear(), folder, "m.onnx")
    (folder / "source.bin").write_bytes(b"anything")
    (folder / "openmaas.yaml").write_text("format: sklearn\nconverted: m.onnx\n")
    parity = Parity(source="a", target="b", passed=True, sample="given", rtol=1e-4, atol=1e-5)
    found = look(parity=parity)
    assert (found.format, found.engine, found.entry, found.parity) == ("sklearn", "onnxruntime", "m.onnx", parity)
    (folder / "openmaas.yaml").write_text("format: sklearn\nconverted: m.onnx\nentry: gone.skops\n")
    with pytest.raises(InvalidInput, match=r"'gone.skops' is not among"):
        look(parity=parity)
    for bad in (None, Parity(source="a", target="b", passed=False, sample="given", rtol=1e-4, atol=1e-5)):
        with pytest.raises(InvalidInput, match="needs a comparison that passed"):
            look(parity=bad)


def test_a_comparison_that_belongs_to_nothing(folder: Path, look: Examine) -> None:
    save(models.linear(), folder)
    with pytest.raises(InvalidInput, match="names no 'converted' file"):
        look(parity=Parity(source="a", target="b", passed=True, sample="given", rtol=1e-4, atol=1e-5))


def test_zipmap_is_replaced_by_a_tensor(folder: Path, output: Path, look: Examine) -> None:
    classifier = helper.make_node(
        "LinearClassifier", ["x"], ["label", "scores"], domain="ai.onnx.ml", classlabels_ints=[0, 1, 2],
        coefficients=[float(n) for n in range(12)], intercepts=[0.0, 1.0, 2.0], post_transform="SOFTMAX",
    )  # fmt: skip
    zipmap = helper.make_node("ZipMap", ["scores"], ["probabilities"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2])
    maps = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    outputs = [
        value("label", [None], TensorProto.INT64),
        helper.make_value_info("probabilities", helper.make_sequence_type_proto(maps)),
    ]
    path = save(model([classifier, zipmap], [value("x", [None, 4])], outputs), folder)
    found = look()
    assert (found.entry, found.added) == ("without-zipmap.onnx", ("without-zipmap.onnx", "sample.npz"))
    assert [(spec.name, spec.datatype, spec.shape) for spec in found.signature.outputs] == [
        ("label", "INT64", (-1,)),
        ("probabilities", "FP32", (-1, 3)),
    ]
    assert found.batchable
    assert any("ZipMap was removed" in note for note in found.notes)
    x = {"x": np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)}
    original, served = OnnxSession(path).session.run(None, x)[1], OnnxSession(output / found.entry).run(x)["probabilities"]
    assert [[row[label] for label in (0, 1, 2)] for row in original] == served.tolist()


def test_outputs_whose_shape_the_file_does_not_give(folder: Path, look: Examine) -> None:
    save(model([helper.make_node("Relu", ["x"], ["y"])], [value("x", ["n", 2])], [value("y", None)]), folder)
    found = look()
    assert found.signature.outputs[0].shape == (-1, -1)
    assert found.batchable


def test_outputs_whose_shape_the_file_gives_wrongly(folder: Path, look: Examine) -> None:
    save(model([helper.make_node("Relu", ["x"], ["y"])], [value("x", ["n", 2])], [value("y", [5, 2])]), folder)
    found = look()
    assert found.signature.outputs[0].shape == (-1, 2)
    assert any("declared as [5, 2] and came as" in note for note in found.notes)


def test_inputs_without_a_shape_need_the_signature(folder: Path, look: Examine) -> None:
    save(model([helper.make_node("Relu", ["x"], ["y"])], [value("x", None)], [value("y", None)]), folder)
    with pytest.raises(InvalidInput) as caught:
        look()
    assert caught.value.code == "signature_needed"
    (folder / "openmaas.yaml").write_text(
        "signature: {inputs: [{name: x, datatype: FP32, shape: [-1, 3]}], outputs: [{name: y, datatype: FP32, shape: [-1, 3]}]}"
    )
    assert look().signature.inputs[0].shape == (-1, 3)


@pytest.mark.parametrize(
    "tensor",
    [
        "{name: z, datatype: FP32, shape: [-1, 4]}",
        "{name: x, datatype: FP64, shape: [-1, 4]}",
        "{name: x, datatype: FP32, shape: [-1, 5]}",
        "{name: x, datatype: FP32, shape: [-1]}",
        "{name: x, datatype: FP32, shape: [-3, 4]}",
    ],
)
def test_a_declared_signature_that_the_file_contradicts(folder: Path, look: Examine, tensor: str) -> None:
    save(models.linear(), folder)
    (folder / "openmaas.yaml").write_text(
        f"signature: {{inputs: [{tensor}], outputs: [{{name: y, datatype: FP32, shape: [-1, 3]}}]}}"
    )
    with pytest.raises(InvalidInput) as caught:
        look()
    assert caught.value.code == "signature_mismatch"


def test_batchable_may_be_declined_and_not_claimed(folder: Path, look: Examine) -> None:
    path = save(models.linear(), folder)
    (folder / "openmaas.yaml").write_text("batchable: false")
    assert (look().batchable, look().batching) == (False, "Declared as not batchable in openmaas.yaml.")
    path.unlink()
    save(models.mixing(), folder)
    (folder / "openmaas.yaml").write_text("batchable: true")
    with pytest.raises(InvalidInput, match=r"says batchable: true. A row's answer depends"):
        look()


def test_answers_that_are_not_finite_are_noted(folder: Path, look: Examine) -> None:
    save(model([helper.make_node("Log", ["x"], ["y"])], [value("x", ["n", 8])], [value("y", ["n", 8])]), folder)
    found = look()
    assert found.batchable
    assert any("holds NaN" in note for note in found.notes)


def test_a_model_that_dislikes_made_up_input_asks_for_a_sample(folder: Path, look: Examine) -> None:
    nodes = [helper.make_node("Add", ["x", "k"], ["i"]), helper.make_node("Gather", ["W", "i"], ["y"])]
    constants = [models.weights(), models.numpy_helper.from_array(np.array(9), "k")]
    save(model(nodes, [value("x", [None], TensorProto.INT64)], [value("y", [None, 3])], constants), folder)
    with pytest.raises(Refused, match="out of data bounds") as caught:
        look()
    assert "sample" in (caught.value.next_step or "")
    np.save(folder / "ids.npy", np.array([-9, -8, -7]))
    assert look(sample="ids.npy").batchable


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (helper.make_node("NoSuchOperator", ["x"], ["y"]), "NoSuchOperator"),
        (helper.make_node("Reshape", ["x"], ["y"]), "Reshape"),
        (helper.make_node("Relu", ["nothing"], ["y"]), "nothing"),
    ],
)
def test_a_model_that_onnxruntime_cannot_load(folder: Path, look: Examine, node: object, words: str) -> None:
    save(model([node], [value("x", [None, 2])], [value("y", [None, 2])]), folder)
    with pytest.raises(Refused, match=words) as caught:
        look()
    assert caught.value.code == "model_not_runnable"
    assert str(folder) not in str(caught.value)


def test_several_models_are_named(folder: Path, look: Examine) -> None:
    save(models.linear(), folder, "a.onnx")
    save(models.mixing(), folder / "more", "b.bin")
    with pytest.raises(InvalidInput, match=r"2 models in it: 'a.onnx' \(onnx\), 'more/b.bin' \(onnx\)"):
        look()
    (folder / "openmaas.yaml").write_text("entry: more/b.bin")
    assert look().entry == "more/b.bin"


def test_no_model_at_all(folder: Path, look: Examine) -> None:
    with pytest.raises(InvalidInput, match="no file"):
        look()
    (folder / "readme.md").write_text("# Hello")
    with pytest.raises(InvalidInput, match=r"None of the files \('readme.md'\)"):
        look()
    (folder / "openmaas.yaml").write_text("format: caffe")
    with pytest.raises(InvalidInput, match="'caffe' is not a format"):
        look()


def test_a_dummy(folder: Path, look: Examine) -> None:
    (folder / "openmaas.yaml").write_text(
        "format: dummy\noptions: {delay: 0.1}\nbatchable: true\n"
        "signature:\n  inputs: [{name: x, datatype: FP32, shape: [-1, 2]}]\n"
        "  outputs: [{name: y, datatype: FP32, shape: [-1, 2]}]\n"
    )
    found = look()
    assert (found.format, found.engine, found.entry, found.batchable) == ("dummy", "dummy", "openmaas.yaml", True)
    assert found.options == {"delay": 0.1}

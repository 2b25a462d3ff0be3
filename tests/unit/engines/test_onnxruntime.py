from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from openmaas.core.errors import EngineFailed, InvalidInput
from openmaas.core.manifest import Manifest
from openmaas.core.types import Signature, TensorSpec
from openmaas.engines import Engine, EngineSpec, create_engine
from openmaas.formats.onnx.graph import read_signature
from tests.unit.formats import models


def load(folder: Path, proto: object, threads: int = 1, signature: Signature | None = None) -> Engine:
    models.save(proto, folder)
    manifest = Manifest(
        format="onnx", engine="onnxruntime", entry="model.onnx", signature=signature or read_signature(proto), files=()
    )
    engine = create_engine("onnxruntime")
    engine.load(EngineSpec(folder=folder, manifest=manifest, threads=threads))
    return engine


def test_answers_by_name(tmp_path: Path) -> None:
    engine = load(tmp_path, models.linear())
    engine.warm()
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    weights = models.numpy_helper.to_array(models.weights())
    assert list(engine.run({"x": x})) == ["y"]
    np.testing.assert_allclose(engine.run({"x": x})["y"], x @ weights, rtol=1e-5)


def test_describes_itself(tmp_path: Path) -> None:
    described = load(tmp_path, models.linear(), threads=2).describe()
    assert described["library"] == "onnxruntime"
    assert described["device"] == "cpu"
    assert described["threads"] == "2"


def test_threads_do_not_spin_and_are_as_many_as_told(tmp_path: Path) -> None:
    session = load(tmp_path, models.linear(), threads=2).run.__self__.session  # type: ignore[attr-defined]
    options = session.get_session_options()
    assert options.intra_op_num_threads == 2
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert options.get_session_config_entry("session.inter_op.allow_spinning") == "0"
    assert session.get_providers() == ["CPUExecutionProvider"]


@pytest.mark.parametrize(
    "array",
    [
        np.array([[True, False]]),
        *(np.array([[1, 2]], kind) for kind in ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8")),
    ],
)
def test_every_datatype_goes_through(tmp_path: Path, array: np.ndarray) -> None:
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    answer = load(tmp_path, models.identity(kind)).run({"x": array})["y"]
    assert answer.dtype == array.dtype
    assert np.array_equal(answer, array)


def test_bfloat16_goes_through(tmp_path: Path) -> None:
    from ml_dtypes import bfloat16

    array = np.array([[1.5, -2.25], [0.0, 3e38]], bfloat16)
    answer = load(tmp_path, models.identity(TensorProto.BFLOAT16)).run({"x": array})["y"]
    assert answer.dtype == bfloat16
    assert np.array_equal(answer, array)


def test_bytes_go_in_and_out_as_bytes(tmp_path: Path) -> None:
    array = np.array([["Köln".encode(), b""], [b"b'x'", b"a\x00b"]], object)
    answer = load(tmp_path, models.identity(TensorProto.STRING)).run({"x": array})["y"]
    assert answer.dtype == object
    assert answer.tolist() == array.tolist()


def test_bytes_that_are_not_text_are_the_callers_mistake(tmp_path: Path) -> None:
    engine = load(tmp_path, models.identity(TensorProto.STRING))
    with pytest.raises(InvalidInput, match="UTF-8"):
        engine.run({"x": np.array([[b"\xff", b""]], object)})


@pytest.mark.parametrize("how", ["readonly", "strided", "transposed"])
def test_any_memory_layout_will_do(tmp_path: Path, how: str) -> None:
    x = np.arange(16, dtype=np.float32).reshape(4, 4)
    if how == "readonly":
        x = np.frombuffer(x.tobytes(), np.float32).reshape(4, 4)
    elif how == "strided":
        x = np.repeat(x, 2, axis=0)[::2]
    else:
        x = x.T
    engine = load(tmp_path, models.linear())
    assert np.array_equal(engine.run({"x": x})["y"], engine.run({"x": np.ascontiguousarray(x)})["y"])


def test_only_the_outputs_of_the_signature_are_computed(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Neg", ["x"], ["z"])]
    proto = models.model(nodes, [models.value("x", [None])], [models.value("y", [None]), models.value("z", [None])])
    declared = read_signature(proto)
    engine = load(tmp_path, proto, signature=Signature(inputs=declared.inputs, outputs=declared.outputs[1:]))
    assert list(engine.run({"x": np.ones(2, np.float32)})) == ["z"]


def test_a_failing_input_is_told_without_paths_and_the_engine_lives(tmp_path: Path) -> None:
    nodes = [helper.make_node("Gather", ["W", "x"], ["y"])]
    proto = models.model(
        nodes, [models.value("x", [None], TensorProto.INT64)], [models.value("y", [None, 3])], [models.weights()]
    )
    engine = load(tmp_path, proto)
    with pytest.raises(EngineFailed) as caught:
        engine.run({"x": np.array([99])})
    assert "indices element out of data bounds" in caught.value.message
    assert "/" not in caught.value.message.replace("[-4,3]", "")
    assert engine.run({"x": np.array([0])})["y"].shape == (1, 3)


@pytest.mark.parametrize("x", [np.zeros((1, 5), np.float32), np.zeros((1, 4), np.float64), np.zeros(4, np.float32)])
def test_an_input_of_another_shape_or_type_is_an_error(tmp_path: Path, x: np.ndarray) -> None:
    with pytest.raises(EngineFailed):
        load(tmp_path, models.linear()).run({"x": x})


def test_a_missing_input_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(EngineFailed, match="x"):
        load(tmp_path, models.linear()).run({})


@pytest.mark.parametrize("data", [b"", b"not a model", models.linear().SerializeToString()[:100]])
def test_a_file_that_cannot_be_loaded(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(data)
    signature = Signature(inputs=(TensorSpec(name="x", datatype="FP32", shape=(-1, 4)),), outputs=())
    manifest = Manifest(format="onnx", engine="onnxruntime", entry="model.onnx", signature=signature, files=())
    with pytest.raises(EngineFailed) as caught:
        create_engine("onnxruntime").load(EngineSpec(folder=tmp_path, manifest=manifest))
    assert str(tmp_path) not in str(caught.value)
    assert caught.value.code == "load_failed"


def test_external_data_is_read_from_beside_the_model(tmp_path: Path) -> None:
    models.save_external(tmp_path)
    proto = models.linear()
    manifest = Manifest(format="onnx", engine="onnxruntime", entry="model.onnx", signature=read_signature(proto), files=())
    engine = create_engine("onnxruntime")
    engine.load(EngineSpec(folder=tmp_path, manifest=manifest))
    assert engine.run({"x": np.ones((1, 4), np.float32)})["y"].shape == (1, 3)


def test_warming_survives_a_model_that_dislikes_made_up_input(tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["x", "k"], ["i"]), helper.make_node("Gather", ["W", "i"], ["y"])]
    constants = [models.weights(), models.numpy_helper.from_array(np.array(9), "k")]
    proto = models.model(nodes, [models.value("x", [None], TensorProto.INT64)], [models.value("y", [None, 3])], constants)
    engine = load(tmp_path, proto)
    engine.warm()
    assert engine.run({"x": np.array([-9])})["y"].shape == (1, 3)


def test_running_before_loading_is_an_error() -> None:
    with pytest.raises(EngineFailed, match="not loaded"):
        create_engine("onnxruntime").run({})

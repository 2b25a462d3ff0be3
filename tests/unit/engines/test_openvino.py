from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from openmaas.core import hardware
from openmaas.core.errors import EngineFailed
from openmaas.core.manifest import Artifact, EngineChoice, Manifest
from openmaas.core.types import Signature, TensorSpec
from openmaas.engines import Engine, EngineSpec, create_engine
from openmaas.engines.openvino import OpenVinoEngine
from openmaas.engines.openvino.model import OpenVinoModel, write_ir
from openmaas.formats.onnx.graph import read_signature
from tests.unit.formats import models

ONNX = Artifact(kind="onnx", entry="model.onnx")


def manifest(signature: Signature, artifact: Artifact = ONNX) -> Manifest:
    return Manifest(
        format="onnx", engine="openvino", entry=artifact.entry, artifacts=(artifact,), signature=signature, files=()
    )


def load(folder: Path, proto: onnx.ModelProto, precision: str = "", threads: int = 1) -> Engine:
    models.save(proto, folder)
    engine = create_engine("openvino")
    choice = EngineChoice(engine="openvino", artifact=ONNX, precision=precision)
    engine.load(EngineSpec(folder=folder, manifest=manifest(read_signature(proto)), threads=threads, choice=choice))
    return engine


def expected(x: np.ndarray) -> np.ndarray:
    return x @ models.numpy_helper.to_array(models.weights())


def test_answers_by_name_at_any_batch(tmp_path: Path) -> None:
    engine = load(tmp_path, models.linear())
    engine.warm()
    for rows in (1, 32, 7, 0):
        x = np.random.default_rng(rows).standard_normal((rows, 4)).astype(np.float32)
        answer = engine.run({"x": x})
        assert list(answer) == ["y"]
        np.testing.assert_allclose(answer["y"], expected(x), rtol=1e-5, atol=1e-6)


def test_answers_stay_what_they_were_after_the_next_run(tmp_path: Path) -> None:
    engine = load(tmp_path, models.linear())
    first_input = np.ones((3, 4), np.float32)
    first = engine.run({"x": first_input})["y"]
    before = first.copy()
    engine.run({"x": first_input * 5})
    np.testing.assert_array_equal(first, before)
    first[:] = 0  # the caller's own
    np.testing.assert_array_equal(engine.run({"x": first_input})["y"], before)


def test_inputs_are_read_in_place_and_never_written_to(tmp_path: Path) -> None:
    """An operation that could be done in place, on memory that is shared."""
    proto = models.model(
        [helper.make_node("Relu", ["x"], ["y"])], [models.value("x", (None, 2))], [models.value("y", (None, 2))]
    )
    engine = load(tmp_path, proto)
    x = np.array([[-1.0, 2.0]], np.float32)
    assert engine.run({"x": x})["y"].tolist() == [[0.0, 2.0]]
    assert x.tolist() == [[-1.0, 2.0]]


@pytest.mark.parametrize("kind", ["read-only", "transposed", "strided", "sliced"])
def test_arrays_that_cannot_be_shared_are_copied(tmp_path: Path, kind: str) -> None:
    x = np.random.default_rng(1).standard_normal((6, 4)).astype(np.float32)
    given = {
        "read-only": np.frombuffer(x.tobytes(), np.float32).reshape(6, 4),
        "transposed": np.asfortranarray(x),
        "strided": np.repeat(x, 2, axis=0)[::2],
        "sliced": np.concatenate([x, x], axis=1)[:, :4],
    }[kind]
    np.testing.assert_allclose(load(tmp_path, models.linear()).run({"x": given})["y"], expected(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((1, 5), np.float32), "incompatible"),
        (np.zeros((1, 4), np.float64), "precision"),
        (np.zeros((4,), np.float32), "incompatible"),
    ],
)
def test_a_wrong_input_is_told_and_harms_nothing(tmp_path: Path, array: np.ndarray, said: str) -> None:
    engine = load(tmp_path, models.linear())
    with pytest.raises(EngineFailed, match=said) as caught:
        engine.run({"x": array})
    assert "src/" not in caught.value.message
    good = np.ones((2, 4), np.float32)
    np.testing.assert_allclose(engine.run({"x": good})["y"], expected(good), rtol=1e-5)


def test_a_name_that_it_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(EngineFailed):
        load(tmp_path, models.linear()).run({"z": np.zeros((1, 4), np.float32)})


@pytest.mark.parametrize("kind", ["u1", "i1", "i4", "i8", "f2", "f4", "f8", "?"])
def test_datatypes_go_through(tmp_path: Path, kind: str) -> None:
    array = np.array([[1, 0]], kind)
    answer = load(tmp_path, models.identity(helper.np_dtype_to_tensor_dtype(array.dtype))).run({"x": array})["y"]
    np.testing.assert_array_equal(answer, array)
    assert answer.dtype == array.dtype


def test_full_precision_is_full_and_bf16_is_not(tmp_path: Path) -> None:
    """Where the processor has bfloat16, OpenVINO would use it unasked."""
    rng = np.random.default_rng(2)
    x = rng.standard_normal((8, 256)).astype(np.float32)
    w = rng.standard_normal((256, 64)).astype(np.float32)
    proto = models.model(
        [helper.make_node("MatMul", ["x", "W"], ["y"])],
        [models.value("x", (None, 256))],
        [models.value("y", (None, 64))],
        [models.numpy_helper.from_array(w, "W")],
    )
    want = x.astype(np.float64) @ w.astype(np.float64)
    full, reduced = (np.abs(load(tmp_path, proto, precision).run({"x": x})["y"] - want).max() for precision in ("", "bf16"))
    assert full < 1e-4
    if hardware.computes_bf16():
        assert 1e-3 < reduced < 1.0


def test_what_it_says_of_itself(tmp_path: Path) -> None:
    engine = load(tmp_path, models.linear(), "bf16", threads=2)
    described = engine.describe()
    assert {key: described[key] for key in ("library", "device", "threads", "precision")} == {
        "library": "openvino", "device": "cpu", "threads": "2", "precision": "bf16",
    }  # fmt: skip
    compiled = engine.run.__self__._compiled  # type: ignore[attr-defined]
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 2
    assert compiled.get_property("NUM_STREAMS") == 1
    assert compiled.get_property("ENABLE_CPU_PINNING") is False


def test_the_file_may_have_any_name(tmp_path: Path) -> None:
    path = models.save(models.linear(), tmp_path, "weights.bin")
    x = np.ones((1, 4), np.float32)
    np.testing.assert_allclose(OpenVinoModel(path, "onnx").run({"x": x})["y"], expected(x), rtol=1e-5)


def test_an_ir_answers_as_the_onnx_file_that_it_was_made_of(tmp_path: Path) -> None:
    path = models.save(models.linear(), tmp_path)
    write_ir(path, tmp_path / "model.xml")
    x = np.random.default_rng(3).standard_normal((5, 4)).astype(np.float32)
    ir = OpenVinoModel(tmp_path / "model.xml", "openvino")
    assert ir.signature() == Signature(
        inputs=(TensorSpec(name="x", datatype="FP32", shape=(-1, 4)),),
        outputs=(TensorSpec(name="y", datatype="FP32", shape=(-1, 3)),),
    )
    np.testing.assert_array_equal(ir.run({"x": x})["y"], OpenVinoModel(path, "onnx").run({"x": x})["y"])


@pytest.mark.parametrize("content", [b"\x08\x07garbage", b"PK\x03\x04", b"<net>"])
def test_garbage_is_refused_by_a_sentence(tmp_path: Path, content: bytes) -> None:
    for kind, name in (("onnx", "a.onnx"), ("openvino", "a.xml")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(EngineFailed, match="OpenVINO cannot load the model") as caught:
            OpenVinoModel(tmp_path / name, kind)
        assert str(tmp_path) not in caught.value.message
        assert caught.value.code == "load_failed"


def test_a_file_without_the_signature_s_names(tmp_path: Path) -> None:
    """An empty file is a valid, empty protobuf."""
    (tmp_path / "model.onnx").write_bytes(b"")
    engine = create_engine("openvino")
    with pytest.raises(EngineFailed, match="no input or output 'x'"):
        engine.load(EngineSpec(folder=tmp_path, manifest=manifest(TestChoices.signature)))


def test_operators_that_it_lacks_are_named(tmp_path: Path) -> None:
    node = helper.make_node(
        "LinearClassifier", ["x"], ["l", "p"], domain="ai.onnx.ml", coefficients=[1.0, -1.0], classlabels_ints=[0, 1]
    )
    outputs = [models.value("l", (None,), TensorProto.INT64), models.value("p", (None, 2))]
    path = models.save(models.model([node], [models.value("x", (None, 1))], outputs), tmp_path)
    with pytest.raises(EngineFailed, match="LinearClassifier"):
        OpenVinoModel(path, "onnx")


class TestChoices:
    signature = Signature(
        inputs=(TensorSpec(name="x", datatype="FP32", shape=(-1, 4)),),
        outputs=(TensorSpec(name="y", datatype="FP32", shape=(-1, 3)),),
    )

    def labels(self, artifact: Artifact = ONNX, signature: Signature | None = None) -> list[str]:
        return [one.label for one in OpenVinoEngine.choices(artifact, manifest(signature or self.signature, artifact))]

    def test_bf16_only_where_the_processor_has_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(hardware, "_flags", lambda: frozenset({"avx512f", "avx512_bf16"}))
        assert self.labels() == ["openvino", "openvino:bf16"]
        monkeypatch.setattr(hardware, "_flags", lambda: frozenset({"avx512f"}))
        assert self.labels() == ["openvino"]

    def test_kinds(self) -> None:
        assert self.labels(Artifact(kind="openvino", entry="m.xml"))[0] == "openvino"
        assert self.labels(Artifact(kind="skops", entry="m.skops")) == []

    @pytest.mark.parametrize("datatype", ["BYTES", "BF16"])
    def test_none_for_text_and_bfloat16_tensors(self, datatype: str) -> None:
        spec = TensorSpec(name="t", datatype=datatype, shape=(-1,))  # type: ignore[arg-type]
        assert self.labels(signature=Signature(inputs=(spec,), outputs=self.signature.outputs)) == []
        assert self.labels(signature=Signature(inputs=self.signature.inputs, outputs=(spec,))) == []

    def test_none_without_the_library(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("openmaas.engines.base.find_spec", lambda name: None)
        assert self.labels() == []

"""TensorFlow Lite files: answers as the trained source gives them, and files that are refused before the library sees them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openmaas.core.errors import EngineFailed, InvalidInput, OpenMaaSError, Refused
from openmaas.core.manifest import Artifact, Manifest
from openmaas.core.types import Signature
from openmaas.engines import EngineSpec, create_engine, engine_choices
from openmaas.engines.litert.file import is_tflite, read_contents
from openmaas.engines.litert.model import LiteRtModel
from tests.unit.formats import tflite_models as models


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.bin"


@pytest.mark.parametrize("rows", [1, -1])
def test_it_answers_as_the_trained_model_at_every_batch(rows: int, path: Path) -> None:
    trained, images, labels = models.digits()
    model = LiteRtModel(models.perceptron(path, rows=rows))
    for batch in (1, 2, 7, 32, 1, 3, 4, 5, 6, 8, 9, 10, 2):  # more shapes than are kept, and back to the first
        np.testing.assert_allclose(
            model.run({"pixels": images[:batch]})["digit"], trained.predict_proba(images[:batch]), atol=1e-5
        )
    assert (model.run({"pixels": images})["digit"].argmax(axis=1) == labels).mean() > 0.9


def test_names_are_the_signatures_else_the_tensors(path: Path) -> None:
    named = LiteRtModel(models.perceptron(path, rows=-1)).signature
    assert [(spec.name, spec.datatype, spec.shape) for spec in (*named.inputs, *named.outputs)] == [
        ("pixels", "FP32", (-1, 64)), ("digit", "FP32", (-1, 10)),
    ]  # fmt: skip
    plain = LiteRtModel(models.perceptron(path, signature=False)).signature
    assert [spec.name for spec in (*plain.inputs, *plain.outputs)] == ["serving_default_pixels:0", "StatefulPartitionedCall:0"]


def test_eight_bit_inputs_keep_their_type_and_say_their_scale(path: Path) -> None:
    model = LiteRtModel(models.quantised(path))
    assert model.signature.inputs[0].datatype == model.signature.outputs[0].datatype == "INT8"
    assert model.quantisation() == (
        "Input 'x' is quantised: quantity = 0.0078125 · (number +0).",
        "Output 'y' is quantised: quantity = 0.00390625 · (number +128).",
    )
    numbers = np.array([[-128, -64, 0, 127]], np.int8)
    quantities = 0.00390625 * (model.run({"x": numbers})["y"].astype(float) + 128)
    np.testing.assert_allclose(quantities, 1 / (1 + np.exp(-numbers.astype(float) / 128)), atol=0.00390625)


def test_what_a_recurrent_layer_remembers_ends_with_the_call(path: Path) -> None:
    model = LiteRtModel(models.recurrent(path))
    steps = np.random.default_rng(0).standard_normal((1, 3, 4)).astype(np.float32)
    first = model.run({"steps": steps})["answer"]
    model.run({"steps": steps * 5})
    np.testing.assert_array_equal(model.run({"steps": steps})["answer"], first)


def _manifest(signature: Signature) -> Manifest:
    artifact = Artifact(kind="tflite", entry="model.bin")
    return Manifest(format="tflite", engine="litert", entry="model.bin", artifacts=(artifact,), signature=signature, files=())


def test_the_engine_serves_it(path: Path) -> None:
    model = LiteRtModel(models.perceptron(path))
    manifest = _manifest(model.signature)
    assert [choice.engine for choice in engine_choices(manifest)] == ["litert"]
    engine = create_engine("litert")
    with pytest.raises(EngineFailed):
        engine.run({})
    engine.load(EngineSpec(folder=path.parent, manifest=manifest, threads=2))
    engine.warm()
    images: Any = models.digits()[1][:5]
    np.testing.assert_array_equal(engine.run({"pixels": images})["digit"], model.run({"pixels": images})["digit"])
    assert engine.describe()["threads"] == "2"
    for wrong in (np.zeros((1, 65), np.float32), np.zeros((1, 64), np.int32), np.zeros((0, 64), np.float64)):
        with pytest.raises(EngineFailed, match="cannot run this input"):
            engine.run({"pixels": wrong})
    engine.run({"pixels": images})


def test_the_engine_says_why_it_cannot_load(path: Path) -> None:
    manifest = _manifest(LiteRtModel(models.perceptron(path)).signature)
    models.custom(path)
    with pytest.raises(EngineFailed, match="FlexErf"):
        create_engine("litert").load(EngineSpec(folder=path.parent, manifest=manifest))


@pytest.mark.parametrize("name", ["FlexErf", "MyOwnOperator"])
def test_custom_operators_are_refused_by_name(name: str, path: Path) -> None:
    with pytest.raises(Refused, match=name) as refused:
        LiteRtModel(models.custom(path, name))
    assert refused.value.code == "custom_operator"


@pytest.mark.parametrize(
    "where",
    [{"buffer": 99}, {"tensor": 99}, {"tensor": -7}, {"operator": 9}, {"output": 77}, {"output": -1}, {"bytes": 1 << 40}],
)
def test_what_points_outside_is_refused(where: dict[str, int], path: Path) -> None:
    with pytest.raises(InvalidInput) as refused:
        LiteRtModel(models.pointing(path, **where))
    assert refused.value.code == "damaged"


def test_truncated_and_damaged_files_never_surprise_the_reader(path: Path) -> None:
    whole = models.perceptron(path).read_bytes()
    for length in range(8, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(OpenMaaSError):
            read_contents(path)
    random = np.random.default_rng(4)
    for _ in range(300):
        damaged = bytearray(whole)
        for at in random.integers(8, len(whole), 4):
            damaged[at] = int(random.integers(0, 256))
        path.write_bytes(bytes(damaged))
        try:
            read_contents(path)
        except OpenMaaSError as error:
            assert error.code in ("damaged", "custom_operator", "stateful")


def test_it_is_told_by_its_identifier_and_a_root_that_exists(path: Path) -> None:
    assert is_tflite(models.perceptron(path))
    for content in (b"", b"TFL3", b"\x10\0\0\0TFL2" + bytes(20), b"\xff\xff\xff\x7fTFL3" + bytes(20), b"\0\0\0\0TFL3"):
        path.write_bytes(content)
        assert not is_tflite(path)

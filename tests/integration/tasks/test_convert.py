"""Conversions as jobs, on real models: what comes of them is held against its source, and pushed with its lineage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from openmaas.core.errors import Conflict, InvalidInput, Refused
from openmaas.core.manifest import Artifact, Parity
from openmaas.formats import converters
from openmaas.formats.converters import Conversion, Converter
from openmaas.processing import open_processing
from openmaas.tasks import convert, parity
from openmaas.tasks.comparing import opened
from tests.integration.tasks.conftest import FakeJob, Registry
from tests.unit.formats.encoders import encoder_folder

Jobs = Callable[..., FakeJob]


def save_linear(folder: Path, scale: float = 1.0, name: str = "model.onnx") -> Path:
    """y = relu(x · W) with a free batch axis."""
    folder.mkdir(exist_ok=True)
    weights = (np.random.default_rng(7).standard_normal((4, 3)) * scale).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 3])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), folder / name)
    return folder


def test_onnx_becomes_openvino_with_proof_and_lineage(registry: Registry, job: Jobs, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    source = registry.add("linear", save_linear(tmp_path / "source"))
    work = job("convert", version=source, to="openvino")
    result = convert.run(work)
    assert result["version"] == "linear:2"
    assert registry.parents["linear:2"] == source
    manifest, folder = registry.versions["linear:2"]
    assert (manifest.format, manifest.engine, manifest.entry) == ("openvino", "openvino", "model.xml")
    assert manifest.batchable
    assert manifest.parity is not None
    assert manifest.parity.passed
    assert [one.batch for one in manifest.parity.comparisons] == [1, 2, 7]
    assert manifest.signature == registry.versions[source][0].signature
    assert manifest.sample is not None
    assert (folder / manifest.sample).is_file()
    assert "comparing with the source" in work.stages

    again = parity.run(job("parity", version="linear:2"))
    assert {one["target"] for one in again["parity"]} >= {"openvino"}
    assert all(one["passed"] for one in again["parity"] if ":" not in one["target"])
    given = {"x": {"datatype": "FP32", "shape": [2, 4], "data": [1, 2, 3, 4, -1, -2, -3, -4]}}
    on_given = parity.run(job("parity", version="linear:2", data=given))
    assert on_given["rows"] == 2
    assert on_given["parity"][0]["source"].startswith("linear:1 (")
    assert on_given["parity"][0]["sample"] == "given"


@pytest.mark.timeout(600)
def test_a_converted_encoder_still_reads_texts_of_any_length(registry: Registry, job: Jobs, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("transformers")
    source = registry.add("encoder", encoder_folder(tmp_path / "source", "bert", "SequenceClassification"))
    theirs, files = registry.versions[source]
    assert theirs.padding is not None
    result = convert.run(job("convert", version=source, to="openvino"))
    manifest, folder = registry.versions[result["version"]]
    assert (manifest.engine, manifest.padding, manifest.processing) == ("openvino", theirs.padding, theirs.processing)
    assert result["parity"]["sample"] == manifest.sample_origin == theirs.sample_origin == "generated"

    texts = np.array(["Water boils.", "A cat sits on the mat and looks at the rain that falls on the roof."], dtype=object)
    processor = open_processing(manifest, folder)
    run = opened(manifest, folder, manifest.choice, threads=1)
    together = processor.prepare(texts)
    assert len(set(together.lengths)) == 2
    scores = processor.finish(run({**together.inputs}), together.inputs, {})
    alone = [processor.prepare(texts[row : row + 1]).inputs for row in range(2)]
    first = opened(theirs, files, theirs.choice, threads=1)
    expected = np.concatenate([processor.finish(first({**one}), one, {})["probabilities"] for one in alone])
    np.testing.assert_allclose(scores["probabilities"], expected, atol=1e-4)


def test_what_is_there_already_is_not_converted_again(registry: Registry, job: Jobs, tmp_path: Path) -> None:
    source = registry.add("linear", save_linear(tmp_path / "source"))
    with pytest.raises(Conflict, match=r"has onnx among its files already \(model.onnx\)"):
        convert.run(job("convert", version=source, to="onnx"))


def test_no_way_there_names_what_can_be_reached(registry: Registry, job: Jobs, tmp_path: Path) -> None:
    source = registry.add("linear", save_linear(tmp_path / "source"))
    with pytest.raises(InvalidInput, match="no conversion from onnx to 'torchscript'") as caught:
        convert.run(job("convert", version=source, to="torchscript"))
    assert "openvino" in str(caught.value.next_step)


class Wrong(Converter):
    """Gives another model's weights."""

    source, target = "onnx", "openvino"

    def convert(self, conversion: Conversion) -> Artifact:
        other = save_linear(conversion.output / "other", scale=1.001)
        (other / "model.onnx").rename(conversion.output / "model.onnx")
        other.rmdir()
        return Artifact(kind="onnx", entry="model.onnx")


def test_another_answer_is_never_registered(
    registry: Registry, job: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = registry.add("linear", save_linear(tmp_path / "source"))
    monkeypatch.setattr(converters, "converters", lambda: {("onnx", "openvino"): Wrong()})
    work = job("convert", version=source, to="openvino")
    with pytest.raises(Refused, match="does not give its source's answers: at batch 1 output 'y' differs") as caught:
        convert.run(work)
    assert caught.value.code == "parity_failed"
    assert list(registry.versions) == [source]
    assert any("largest difference" in line for line in work.lines)


def test_stored_answers_are_what_a_version_is_held_against(registry: Registry, job: Jobs, tmp_path: Path) -> None:
    source = registry.add("linear", save_linear(tmp_path / "source"))
    report = parity.run(job("parity", version=source))
    assert {one["source"] for one in report["parity"]} == {"the answers stored at push"}
    assert report["parity"][0]["target"] == "onnxruntime"
    assert report["parity"][0]["passed"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"x": [[1, 2, 3, 4]]}, "data for input 'x'"),
        ({"x": {"datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3]}}, "data for input 'x'"),
        ({"x": {"datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, "four"]}}, "data for input 'x'"),
        ({"z": {"datatype": "FP32", "shape": [1, 5], "data": [1, 2, 3, 4, 5]}}, "it takes"),
        ({}, "names no input"),
    ],
)
def test_bad_data_is_named(registry: Registry, job: Jobs, tmp_path: Path, data: object, message: str) -> None:
    source = registry.add("linear", save_linear(tmp_path / "source"))
    with pytest.raises(InvalidInput, match=message):
        parity.run(job("parity", version=source, data=data))


def test_a_comparison_that_is_kept_is_the_one_that_was_made(registry: Registry, job: Jobs, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    source = registry.add("linear", save_linear(tmp_path / "source"))
    result = convert.run(job("convert", version=source, to="openvino"))
    manifest, _ = registry.versions[result["version"]]
    assert manifest.parity == Parity(**{**result["parity"], "comparisons": manifest.parity.comparisons})  # type: ignore[union-attr]

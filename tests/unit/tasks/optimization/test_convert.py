from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from openmaas.core.errors import InvalidInput, Refused
from openmaas.core.recipes import Convert, read_recipe
from openmaas.tasks.optimization.passes import convert

from .graph_models import bench, perceptron, piece_of, rows, run


def test_a_piece_becomes_another_kind_with_its_answers(tmp_path: Path) -> None:
    import openvino

    model = perceptron(1)
    made = convert.run(piece_of(model, tmp_path / "a"), Convert(to="openvino"), bench(tmp_path))
    x = rows(3)
    compiled = openvino.Core().compile_model(made.path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    np.testing.assert_allclose(compiled({"x": x})["scores"], run(model, {"x": x})["scores"], rtol=1e-4, atol=1e-4)
    assert made.artifact.kind == "openvino"
    assert made.facts["converted"] == {"from": "onnx", "to": "openvino"}


def test_a_kind_that_cannot_be_reached_is_told_with_those_that_can(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"no conversion from onnx to 'tflite'.*openvino"):
        convert.run(piece_of(perceptron(1), tmp_path / "a"), Convert(to="tflite"), bench(tmp_path))


def test_a_piece_of_that_kind_stays_as_it_is(tmp_path: Path) -> None:
    piece = piece_of(perceptron(1), tmp_path / "a")
    made = convert.run(piece, Convert(to="onnx"), bench(tmp_path))
    assert made.path == piece.path
    assert "already" in made.notes[-1]


def test_weights_belong_to_text_generators(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="text generators"):
        convert.run(piece_of(perceptron(1), tmp_path / "a"), Convert(to="openvino", weights="int8"), bench(tmp_path))


@pytest.mark.parametrize("weights", ["int8", "auto", ""])
def test_only_int4_weights_are_chosen_on_data(weights: str) -> None:
    with pytest.raises(InvalidInput, match="calibrated belongs to int4"):
        read_recipe({"steps": [{"convert": {"to": "openvino-genai", "weights": weights, "calibrated": True}}]})
    assert read_recipe({"steps": [{"convert": {"to": "openvino-genai", "weights": "int4", "calibrated": True}}]}).needs_data

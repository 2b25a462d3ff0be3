"""Conversions from Keras files that need nothing but PyTorch, on several architectures."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from openmaas.core.errors import InvalidInput, Refused
from openmaas.core.manifest import Artifact
from openmaas.engines.keras.model import load_keras
from openmaas.formats.converters import Converter, converters
from tests.integration.formats.conversions import require_equal
from tests.unit.formats import keras_models as models
from tests.unit.formats.keras_models import keras, layers, save, save_as_it_is

ARTIFACT = Artifact(kind="keras", entry="model.keras")


def _converter(target: str) -> Converter:
    return converters()["keras", target]


@pytest.mark.parametrize("target", ["onnx", "torch-export"])
@pytest.mark.parametrize(
    "make", [models.perceptron, models.convolutional, models.recurrent, models.attention, models.two_inputs]
)
def test_conversions_answer_as_keras(make: Callable[[], Any], target: str, folder: Path, output: Path) -> None:
    signature = load_keras(save(make(), folder / "model.keras")).signature
    require_equal(_converter(target), folder, ARTIFACT, signature, output, Path(sys.executable))


@pytest.mark.parametrize("target", ["onnx", "torch-export"])
def test_a_loop_over_any_length_is_told_why_it_cannot_be_converted(target: str, folder: Path, output: Path) -> None:
    signature = load_keras(save(models.recurrent(length=None), folder / "model.keras")).signature
    with pytest.raises(InvalidInput) as failed:
        require_equal(_converter(target), folder, ARTIFACT, signature, output, Path(sys.executable))
    assert failed.value.code == "conversion_failed"


@pytest.mark.parametrize("target", ["onnx", "torch-export", "tflite"])
def test_nothing_hostile_is_converted(target: str, folder: Path, output: Path) -> None:
    signature = load_keras(save(models.perceptron(), folder / "model.keras")).signature
    save_as_it_is(keras.Sequential([keras.Input((64,)), layers.Lambda(lambda x: x)]), folder / "model.keras")
    with pytest.raises(Refused):
        require_equal(_converter(target), folder, ARTIFACT, signature, output, Path(sys.executable))

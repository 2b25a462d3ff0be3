"""Conversions that need TensorFlow, in the environment that a job would make: 1.6 GB, so only in `make test-all`."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from openmaas.core.errors import InvalidInput
from openmaas.core.manifest import Artifact
from openmaas.engines.keras.model import load_keras
from openmaas.formats.converters import converters
from openmaas.formats.saved_model.file import read_endpoint
from openmaas.tasks.interpreters import Interpreters
from openmaas.tasks.process import ENVIRONMENTS
from tests.integration.formats.conversions import require_equal
from tests.unit.formats import keras_models as models

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
MAKE = Path(__file__).with_name("saved_models") / "make.py"


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Interpreters(tmp_path_factory.mktemp("environments"), ENVIRONMENTS).get("tensorflow", print)


@pytest.fixture(scope="module")
def saved(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SavedModels that this very TensorFlow wrote."""
    folder = tmp_path_factory.mktemp("saved")
    subprocess.run([python, MAKE, folder], check=True)
    return folder


def _convert_saved(name: str, target: str, saved: Path, output: Path, python: Path) -> None:
    endpoint = read_endpoint(saved / name / "saved_model.pb")
    artifact = Artifact(kind="saved-model", entry="saved_model.pb", options={"signature": endpoint.name})
    require_equal(converters()["saved-model", target], saved / name, artifact, endpoint.signature, output, python)


@pytest.mark.parametrize("name", ["digits", "convolutional", "recurrent"])
def test_a_saved_model_becomes_onnx_that_answers_as_tensorflow(name: str, saved: Path, output: Path, python: Path) -> None:
    _convert_saved(name, "onnx", saved, output, python)


@pytest.mark.parametrize("name", ["digits", "convolutional"])
def test_a_saved_model_becomes_tflite_that_answers_as_tensorflow(name: str, saved: Path, output: Path, python: Path) -> None:
    _convert_saved(name, "tflite", saved, output, python)


def test_what_tflite_has_no_operators_for_is_told(saved: Path, output: Path, python: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot convert the saved-model to tflite") as failed:
        _convert_saved("recurrent", "tflite", saved, output, python)
    assert failed.value.code == "conversion_failed"


@pytest.mark.parametrize("make", [models.perceptron, models.convolutional, models.attention, models.two_inputs])
def test_a_keras_file_becomes_tflite_that_answers_as_keras(
    make: Callable[[], Any], folder: Path, output: Path, python: Path
) -> None:
    signature = load_keras(models.save(make(), folder / "model.keras")).signature
    artifact = Artifact(kind="keras", entry="model.keras")
    require_equal(converters()["keras", "tflite"], folder, artifact, signature, output, python)

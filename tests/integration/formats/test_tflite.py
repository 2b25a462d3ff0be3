"""TensorFlow Lite files as they are pushed: examined in the child, whatever becomes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from openmaas.core.errors import OpenMaaSError, Refused
from tests.integration.formats.conftest import Examine
from tests.unit.formats import tflite_models as models


@pytest.mark.parametrize("rows", [1, -1])
def test_a_perceptron_is_batched_although_its_file_declares_one_row(rows: int, folder: Path, look: Examine) -> None:
    models.perceptron(folder / "digits.tflite", rows=rows)
    np.savez(folder / "sample.npz", pixels=models.digits()[1][:30])
    found = look(sample="sample.npz")
    assert (found.format, found.engine, found.entry) == ("tflite", "litert", "digits.tflite")
    assert [artifact.kind for artifact in found.artifacts] == ["tflite"]
    assert [spec.shape for spec in (*found.signature.inputs, *found.signature.outputs)] == [(-1, 64), (-1, 10)]
    assert found.batchable
    assert found.notes == ()


def test_one_row_stays_one_row_where_the_model_is_made_for_it(folder: Path, look: Examine) -> None:
    models.fixed_by_reshape(folder / "model.tflite")
    found = look()
    assert not found.batchable
    assert found.batching == "Axis 0 of the input 'x' is fixed at 1."
    assert found.signature.inputs[0].shape == (1, 4)


def test_a_quantised_model_tells_its_scale(folder: Path, look: Examine) -> None:
    models.quantised(folder / "model.tflite")
    found = look()
    assert found.signature.inputs[0].datatype == "INT8"
    assert any(note.startswith("Input 'x' is quantised: quantity = 0.0078125") for note in found.notes)


def test_flex_operators_are_refused_by_name(folder: Path, look: Examine) -> None:
    models.custom(folder / "model.tflite")
    with pytest.raises(Refused, match="FlexErf"):
        look()


def test_damaged_files_harm_nobody(folder: Path, look: Examine) -> None:
    whole = models.perceptron(folder / "model.tflite").read_bytes()
    random = np.random.default_rng(11)
    for _ in range(5):
        damaged = bytearray(whole)
        for at in random.integers(8, len(whole), 16):
            damaged[at] ^= 0xFF
        (folder / "model.tflite").write_bytes(bytes(damaged))
        try:
            assert look().engine == "litert"  # what was hit was a weight
        except OpenMaaSError as error:
            assert error.status in (400, 422)

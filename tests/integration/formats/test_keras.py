"""Keras files as they are pushed: examined in the child, served as ONNX where that answers as Keras does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from openmaas.core.errors import InvalidInput, Refused
from openmaas.engines.keras.model import load_keras
from openmaas.engines.onnxruntime.session import OnnxSession
from openmaas.formats import export
from openmaas.formats.sample import read_sample, split_expected
from tests.integration.formats.conftest import Examine
from tests.unit.formats import keras_models as models
from tests.unit.formats.keras_models import keras, layers, save, save_as_it_is


@pytest.fixture(scope="module")
def digits() -> tuple[Any, Any]:
    data = load_digits()
    return data.data.astype(np.float32), data.target


@pytest.fixture(scope="module")
def trained(digits: tuple[Any, Any]) -> Any:
    keras.utils.set_random_seed(7)  # the same weights each time
    model = models.perceptron()
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(digits[0], digits[1], epochs=16, batch_size=32, verbose=0)
    return model


@pytest.mark.parametrize("make", [models.convolutional, models.recurrent, models.attention, models.two_inputs])
def test_a_keras_file_is_served_as_onnx_with_its_proof(
    make: Callable[[], Any], folder: Path, output: Path, look: Examine
) -> None:
    source = load_keras(save(make(), folder / "model.keras"))
    found = look()
    assert (found.format, found.engine, found.entry) == ("keras", "onnxruntime", "model.onnx")
    assert [artifact.kind for artifact in found.artifacts] == ["onnx", "keras"]
    assert found.signature == source.signature
    assert found.batchable
    assert found.parity is not None and found.parity.passed
    assert {comparison.batch for comparison in found.parity.comparisons} == {1, 2, 7}
    assert found.processing is None  # nothing of labels is in such a file, and nothing is made up
    inputs, expected = split_expected(read_sample(output / str(found.sample)))
    session = OnnxSession(output / found.entry, threads=1)
    session.bind(found.signature)
    for answers in (session.run(inputs), source.run(inputs)):
        for name, answer in answers.items():
            np.testing.assert_allclose(answer, expected[name], rtol=1e-4, atol=1e-5)


def test_a_trained_h5_file_with_a_sample_recognises_digits(
    trained: Any, digits: tuple[Any, Any], folder: Path, output: Path, look: Examine
) -> None:
    save_as_it_is(trained, folder / "digits.h5")
    np.save(folder / "sample.npy", digits[0][:50])
    found = look(sample="sample.npy")
    assert found.parity is not None and found.parity.sample == "given"
    session = OnnxSession(output / found.entry, threads=1)
    session.bind(found.signature)
    recognised = session.run({"pixels": digits[0]})["digit"].argmax(axis=1)
    assert (recognised == digits[1]).mean() > 0.8


def test_a_loop_over_sequences_of_any_length_is_served_by_keras_itself(folder: Path, look: Examine) -> None:
    save(models.recurrent(length=None), folder / "model.keras")
    found = look()
    assert (found.engine, found.entry) == ("keras", "model.keras")
    assert [artifact.kind for artifact in found.artifacts] == ["keras"]
    assert found.batchable
    assert found.parity is not None and not found.parity.passed
    assert any(note.startswith("Keras itself serves it: As a graph it cannot be converted") for note in found.notes)


def test_hostile_and_unfit_files_are_refused_in_the_child_too(folder: Path, look: Examine) -> None:
    save_as_it_is(keras.Sequential([keras.Input((2,)), layers.Lambda(lambda x: x, name="mine")]), folder / "model.keras")
    with pytest.raises(Refused, match="Lambda 'mine'") as refused:
        look()
    assert refused.value.code == "unsafe_layer"


def test_a_sample_that_does_not_fit_is_refused(folder: Path, look: Examine) -> None:
    save(models.perceptron(), folder / "model.keras")
    np.save(folder / "sample.npy", np.zeros((3, 5), np.float32))
    with pytest.raises(InvalidInput, match="pixels"):
        look(sample="sample.npy")


# ── live models ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _pushed(model: Any, sample: Any, folder: Path, look: Examine) -> Any:
    exported = export(model, sample, folder)
    assert sorted(exported.files) == sorted(path.name for path in folder.iterdir())
    return look(sample=exported.sample, parity=exported.parity)


def test_a_live_model_is_pushed_with_both_of_its_forms(
    trained: Any, digits: tuple[Any, Any], folder: Path, look: Examine
) -> None:
    found = _pushed(trained, digits[0][:40], folder, look)
    assert (found.format, found.engine) == ("keras", "onnxruntime")
    assert [artifact.kind for artifact in found.artifacts] == ["onnx", "keras"]
    assert found.parity.passed and found.parity.sample == "given"
    assert found.batchable


class Shifted(keras.Model):  # type: ignore[misc]
    """A class of the author's own, which no server has."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = layers.Dense(3)

    def call(self, inputs: Any) -> Any:
        return {"shifted": self.inner(inputs["x"]) + 1.0, "mask": keras.ops.sigmoid(inputs["y"])}


def test_a_live_model_of_the_authors_own_class_is_pushed_as_onnx(folder: Path, look: Examine) -> None:
    model = Shifted()
    random = np.random.default_rng(0)
    sample = {"x": random.standard_normal((9, 4)), "y": random.standard_normal((9, 2))}
    model(sample)
    found = _pushed(model, sample, folder, look)
    assert [artifact.kind for artifact in found.artifacts] == ["onnx"]
    assert {spec.name for spec in found.signature.outputs} == {"shifted", "mask"}
    assert not (folder / "model.keras").exists()


def test_a_live_loop_over_any_length_is_pushed_for_keras_itself(folder: Path, look: Examine) -> None:
    sample = np.random.default_rng(0).standard_normal((8, 6, 4)).astype(np.float32)
    found = _pushed(models.recurrent(length=None), sample, folder, look)
    assert found.engine == "keras"


def test_a_dictionary_a_list_and_no_sample_are_understood(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    left, right = random.standard_normal((8, 4)).astype(np.float32), random.integers(0, 5, (8, 3))
    kept = []
    samples = ({"a": left, "b": right}, {"left": left, "right": right}, [left, right], None)
    for number, sample in enumerate(samples):
        (tmp_path / str(number)).mkdir()
        model = models.two_inputs()
        exported = export(model, sample, tmp_path / str(number))
        assert exported.parity is not None and exported.parity.passed
        kept.append(split_expected(read_sample(tmp_path / str(number) / "sample.npz"))[0])
    for inputs in kept[:3]:
        np.testing.assert_array_equal(inputs["left"], left)
        np.testing.assert_array_equal(inputs["right"], right)


def test_the_same_live_model_is_always_the_same_bytes(trained: Any, digits: tuple[Any, Any], tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        export(trained, digits[0][:10], tmp_path / name)
    assert (tmp_path / "one/model.keras").read_bytes() == (tmp_path / "two/model.keras").read_bytes()


@pytest.mark.parametrize(
    ("make", "sample", "code"),
    [
        (lambda: keras.Sequential([layers.Dense(2)]), np.zeros((2, 2), np.float32), "not_fitted"),
        (models.perceptron, np.zeros((2, 3), np.float32), "invalid_sample"),
        (models.perceptron, ["a", "b"], "invalid_sample"),
    ],
)
def test_live_models_that_cannot_be_pushed_are_told_why(make: Any, sample: Any, code: str, folder: Path) -> None:
    with pytest.raises(InvalidInput) as refused:
        export(make(), sample, folder)
    assert refused.value.code == code

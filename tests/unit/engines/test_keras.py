"""Keras files: what is loaded answers as the model that was saved; what would run code or read files never gets so far."""

from __future__ import annotations

import json
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from openmaas.core.errors import EngineFailed, InvalidInput, OpenMaaSError, Refused
from openmaas.core.made_up import make_up
from openmaas.core.manifest import Artifact, Manifest
from openmaas.engines import EngineSpec, create_engine, engine_choices
from openmaas.engines.keras import config as keras_config
from openmaas.engines.keras import model as keras_model
from openmaas.engines.keras.file import kind_of, read_configuration
from openmaas.engines.keras.model import KerasModel, load_keras
from tests.unit.formats import keras_models as models
from tests.unit.formats.keras_models import Json, first_dense, keras, layers, rewrite, rewrite_hdf5, save, save_as_it_is


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "it-ran"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return save(models.perceptron(), tmp_path / "model.keras")


# ── what serves ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("extension", ["keras", "h5"])
@pytest.mark.parametrize("make", [models.perceptron, models.convolutional, models.recurrent, models.attention])
def test_the_loaded_model_answers_as_the_saved_one(make: Callable[[], Any], extension: str, tmp_path: Path) -> None:
    model = make()
    renamed = save(model, tmp_path / f"model.{extension}").rename(tmp_path / "weights.bin")
    loaded = load_keras(renamed)
    inputs = make_up(loaded.signature.inputs, rows=3, length=5)
    expected = model(next(iter(inputs.values())), training=False)
    expected = expected if isinstance(expected, dict) else {loaded.signature.outputs[0].name: expected}
    answers = loaded.run(inputs)
    assert set(answers) == set(expected)
    for name, answer in answers.items():
        np.testing.assert_allclose(answer, expected[name].detach().numpy(), rtol=1e-6)
        assert answer.dtype == np.float32


def test_names_types_and_shapes_come_from_the_layers(tmp_path: Path) -> None:
    signature = load_keras(save(models.two_inputs(), tmp_path / "model.keras")).signature
    assert [(spec.name, spec.datatype, spec.shape) for spec in signature.inputs] == [
        ("left", "FP32", (-1, 4)), ("right", "INT32", (-1, 3)),
    ]  # fmt: skip
    assert [(spec.name, spec.shape) for spec in signature.outputs] == [("first", (-1, 2)), ("second", (-1, 1))]


def test_a_layer_that_gives_two_outputs_names_each_once() -> None:
    sequence = keras.Input((5, 2), name="sequence")
    whole, last = layers.GRU(3, return_sequences=True, return_state=True, name="memory")(sequence)
    assert [spec.name for spec in KerasModel(keras.Model(sequence, [whole, last])).signature.outputs] == ["memory", "memory_1"]


def test_operations_functions_and_nested_models_of_keras_own_are_loaded(tmp_path: Path) -> None:
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4, activation=keras.activations.gelu, kernel_regularizer="l2")])
    entry = keras.Input((4,))
    hidden = keras.ops.relu(inner(entry) * 2) + keras.ops.sin(entry)
    hidden = layers.TimeDistributed(layers.Dense(2))(layers.Reshape((2, 2))(hidden))
    model = keras.Model(entry, layers.Dense(1, dtype="mixed_bfloat16")(layers.Flatten()(hidden)))
    model.compile("adam", loss=lambda wanted, given: (wanted - given) ** 2)  # never used here, so it is not looked at
    assert load_keras(save(model, tmp_path / "model.keras")).signature.outputs[0].datatype == "BF16"


def test_the_engine_serves_it(path: Path) -> None:
    model = load_keras(path)
    artifact = Artifact(kind="keras", entry=path.name)
    manifest = Manifest(
        format="keras", engine="keras", entry=path.name, artifacts=(artifact,), signature=model.signature, files=()
    )
    assert [choice.engine for choice in engine_choices(manifest)] == ["keras"]
    engine = create_engine("keras")
    with pytest.raises(EngineFailed):
        engine.run({})
    engine.load(EngineSpec(folder=path.parent, manifest=manifest, threads=1))
    engine.warm()
    inputs = make_up(model.signature.inputs, rows=2)
    np.testing.assert_array_equal(engine.run(inputs)["digit"], model.run(inputs)["digit"])
    assert engine.describe()["backend"].startswith("torch")
    with pytest.raises(EngineFailed, match="cannot run this input"):
        engine.run({"pixels": np.zeros((1, 3), np.float32)})


def test_the_engine_refuses_what_the_push_refuses(tmp_path: Path) -> None:
    path = save_as_it_is(keras.Sequential([keras.Input((2,)), layers.Lambda(lambda x: x)]), tmp_path / "model.keras")
    manifest = Manifest(
        format="keras", engine="keras", entry=path.name, signature=KerasModel(models.perceptron()).signature, files=()
    )
    with pytest.raises(EngineFailed, match="Lambda"):
        create_engine("keras").load(EngineSpec(folder=tmp_path, manifest=manifest))


def test_a_model_that_does_not_say_what_it_takes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as refused:
        load_keras(save_as_it_is(keras.Sequential([layers.Dense(2)]), tmp_path / "model.keras"))
    assert refused.value.code == "signature_needed"


# ── what would run code or read files ────────────────────────────────────────────────────────────────────────────────


def _code(marker: Path) -> Any:
    """A lambda whose code makes a file, marshalled as Keras does it."""
    from keras.src.utils import python_utils

    source = f"lambda x: __import__('os').system('touch {marker}') and x"
    code = python_utils.func_dump(eval(source))
    return code if isinstance(code, dict) else {"code": code[0], "defaults": code[1], "closure": code[2]}


def _becomes(layer: Json, **fields: Any) -> None:
    layer.clear()
    layer.update(fields)


def _lambda_layer(marker: Path) -> Json:
    code = {"class_name": "__lambda__", "config": {"value": _code(marker)}}
    return {
        "module": "keras.layers",
        "class_name": "Lambda",
        "config": {"name": "sneaky", "function": code},
        "registered_name": None,
    }


Attack = Callable[[Json, Path], None]
ATTACKS: dict[str, tuple[str, Attack]] = {
    "a Lambda layer": ("unsafe_layer", lambda c, m: _becomes(first_dense(c), **_lambda_layer(m))),
    "a Lambda layer by its internal module": (
        "unsafe_layer",
        lambda c, m: _becomes(first_dense(c), **_lambda_layer(m) | {"module": "keras.src.layers.core.lambda_layer"}),
    ),
    "a Lambda layer within a wrapper": (
        "unsafe_layer",
        lambda c, m: first_dense(c)["config"].update(name="outer", layer={"deep": [_lambda_layer(m)]}),
    ),
    "a function as code": (
        "unsafe_layer",
        lambda c, m: first_dense(c)["config"].update(activation={"class_name": "__lambda__", "config": {"value": _code(m)}}),
    ),
    "os.system as an activation": (
        "custom_class",
        lambda c, m: first_dense(c)["config"].update(
            activation={"module": "os", "class_name": "function", "config": "system", "registered_name": "system"}
        ),
    ),
    "eval of the builtins": (
        "custom_class",
        lambda c, m: first_dense(c)["config"].update(
            activation={"module": "builtins", "class_name": "function", "config": "eval", "registered_name": "function"}
        ),
    ),
    "a class of another package": (
        "custom_class",
        lambda c, m: first_dense(c).update(module="subprocess", class_name="Popen", config={"args": ["touch", str(m)]}),
    ),
    "a registered name of another package": ("custom_class", lambda c, m: first_dense(c).update(registered_name="evil>Dense")),
    "keras.utils.get_file": (
        "custom_class",
        lambda c, m: first_dense(c)["config"].update(
            kernel_initializer={"module": "keras.utils", "class_name": "get_file", "config": {"origin": f"{m}", "fname": "x"}}
        ),
    ),
    "enable_unsafe_deserialization": (
        "custom_class",
        lambda c, m: first_dense(c)["config"].update(
            kernel_initializer={"module": "keras.config", "class_name": "enable_unsafe_deserialization", "config": {}}
        ),
    ),
    "a function of Keras' own that loads code": (
        "custom_class",
        lambda c, m: first_dense(c)["config"].update(
            activation={"module": "keras.src.utils.python_utils", "class_name": "function", "config": "func_load"}
        ),
    ),
    "keras.saving.load_model as a class": (
        "custom_class",
        lambda c, m: first_dense(c).update(module="keras.saving", class_name="load_model", config={"filepath": "/etc/passwd"}),
    ),
    "a module that importing would run": (
        "custom_class",
        lambda c, m: first_dense(c).update(module="keras.src.testing.test_case"),
    ),
    "a pickled PyTorch module": (
        "unsafe_layer",
        lambda c, m: first_dense(c).update(
            class_name="TorchModuleWrapper",
            config={"name": "wrapped", "module": {"class_name": "__bytes__", "config": {"value": models.torch_wrapper(m)}}},
        ),
    ),
    "a SavedModel somewhere on the disk": (
        "unsafe_layer",
        lambda c, m: first_dense(c).update(class_name="TFSMLayer", config={"name": "outside", "filepath": "/srv/evil"}),
    ),
    "a vocabulary read from a file": (
        "reads_files",
        lambda c, m: first_dense(c).update(class_name="StringLookup", config={"name": "words", "vocabulary": "/etc/passwd"}),
    ),
    "a file:// address": ("reads_files", lambda c, m: first_dense(c)["config"].update(name="file:///etc/passwd")),
}


@pytest.mark.parametrize("what", ATTACKS)
def test_a_hostile_configuration_is_refused_and_nothing_runs(what: str, path: Path, marker: Path) -> None:
    code, attack = ATTACKS[what]
    rewrite(path, lambda configuration: attack(configuration, marker))
    with pytest.raises(Refused) as refused:
        load_keras(path)
    assert refused.value.code == code
    assert refused.value.next_step is not None
    assert not marker.exists()


@pytest.mark.parametrize(
    "what",
    ["a Lambda layer", "a function as code", "os.system as an activation", "a class of another package",
     "a registered name of another package", "a pickled PyTorch module", "a SavedModel somewhere on the disk",
     "a file:// address"],
)  # fmt: skip
def test_what_its_names_betray_is_refused_before_keras_is_imported(
    what: str, path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> Any:
        raise AssertionError("Keras was imported")

    monkeypatch.setattr(keras_model, "import_keras", fail)
    monkeypatch.setattr(keras_config, "_safe", fail)
    monkeypatch.setattr(keras_config, "_unsafe", fail)
    code, attack = ATTACKS[what]
    rewrite(path, lambda configuration: attack(configuration, marker))
    with pytest.raises(Refused) as refused:
        load_keras(path)
    assert refused.value.code == code


@pytest.mark.parametrize("what", ["a Lambda layer", "a function as code", "os.system as an activation", "keras.utils.get_file"])
def test_a_hostile_h5_file_is_refused_too(what: str, tmp_path: Path, marker: Path) -> None:
    path = save(models.perceptron(), tmp_path / "model.h5")
    rewrite_hdf5(path, lambda configuration: ATTACKS[what][1](configuration, marker))
    with pytest.raises(Refused):
        load_keras(path)
    assert not marker.exists()


def test_a_lambda_as_old_h5_files_write_it_is_refused(tmp_path: Path, marker: Path) -> None:
    path = save(models.perceptron(), tmp_path / "model.h5")
    code = _code(marker)
    old = {"name": "old", "function": [code["code"], None, None], "function_type": "lambda", "module": "__main__"}
    rewrite_hdf5(path, lambda configuration: _becomes(first_dense(configuration), class_name="Lambda", config=old))
    with pytest.raises(Refused, match="Lambda 'old' runs code"):
        load_keras(path)
    assert not marker.exists()


def test_the_refusal_names_the_layer(path: Path, marker: Path) -> None:
    rewrite(path, lambda configuration: ATTACKS["a Lambda layer"][1](configuration, marker))
    with pytest.raises(Refused, match="Lambda 'sneaky' runs code that the file holds"):
        load_keras(path)


def test_a_class_of_the_authors_own_is_told_how_to_go_on(tmp_path: Path) -> None:
    @keras.saving.register_keras_serializable("mine")
    class Doubled(layers.Layer):  # type: ignore[misc]
        def call(self, x: Any) -> Any:
            return x * 2

    model = keras.Sequential([keras.Input((2,)), Doubled(name="doubled"), layers.Dense(1)])
    with pytest.raises(Refused, match="Doubled 'doubled' needs mine>Doubled") as refused:
        load_keras(save_as_it_is(model, tmp_path / "model.keras"))
    assert refused.value.code == "custom_class"
    assert "client.push" in str(refused.value.next_step)


# ── weights elsewhere, bombs and garbage ─────────────────────────────────────────────────────────────────────────────


def _with_weights(path: Path, make: Callable[[h5py.File], None]) -> None:
    place = path.with_suffix(".weights")
    with h5py.File(place, "w") as file:
        make(file)
    rewrite(path, lambda _: None, **{"model.weights.h5": place.read_bytes()})


def _virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (4,))
    file.create_virtual_dataset("x", layout)


ELSEWHERE: dict[str, Callable[[h5py.File], Any]] = {
    "an external link": lambda file: file.__setitem__("layers", h5py.ExternalLink("/etc/passwd", "/")),
    "a soft link": lambda file: file.__setitem__("layers", h5py.SoftLink("/nowhere")),
    "external storage": lambda file: file.create_dataset("x", (4,), "u1", external=[("/etc/passwd", 0, 4)]),
    "a virtual dataset": _virtual,
}


@pytest.mark.parametrize("what", ELSEWHERE)
def test_weights_in_other_files_are_refused(what: str, path: Path) -> None:
    _with_weights(path, ELSEWHERE[what])
    with pytest.raises(Refused) as refused:
        load_keras(path)
    assert refused.value.code == "external_data"


def test_a_dataset_that_only_claims_to_be_giant_is_refused(path: Path) -> None:
    _with_weights(path, lambda file: file.create_dataset("x", (1 << 40,), "f4", chunks=(1 << 16,)))
    with pytest.raises(Refused, match="claims to have 4398046511104 bytes"):
        load_keras(path)


def test_a_zip_bomb_is_refused(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in (parts | {"model.weights.h5": bytes(64 << 20)}).items():
            archive.writestr(name, content)
    with pytest.raises(Refused, match="claims"):
        load_keras(path)


def test_assets_are_refused(path: Path) -> None:
    rewrite(path, lambda _: None, **{"assets/layers/words/vocabulary.txt": b"a\nb"})
    with pytest.raises(Refused) as refused:
        load_keras(path)
    assert refused.value.code == "reads_files"


def test_weights_alone_are_told_so(tmp_path: Path) -> None:
    model = models.perceptron()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_weights(tmp_path / "model.weights.h5")
    with pytest.raises(InvalidInput) as refused:
        load_keras(tmp_path / "model.weights.h5")
    assert refused.value.code == "no_model"
    assert "model.save" in str(refused.value.next_step)


@pytest.mark.parametrize("extension", ["keras", "h5"])
def test_truncated_and_damaged_files_are_refused(extension: str, tmp_path: Path) -> None:
    path = save(models.perceptron(), tmp_path / f"model.{extension}")
    whole = path.read_bytes()
    for length in (9, 100, len(whole) // 2, len(whole) - 30):
        path.write_bytes(whole[:length])
        if kind_of(path):
            with pytest.raises(OpenMaaSError):
                load_keras(path)
    random = np.random.default_rng(1)
    for _ in range(20):
        damaged = bytearray(whole)
        for at in random.integers(8, len(whole), 8):
            damaged[at] ^= 0xFF
        path.write_bytes(bytes(damaged))
        if kind_of(path):
            try:
                load_keras(path)
            except OpenMaaSError as error:
                assert "/" not in error.message.replace("layers/", "")


@pytest.mark.parametrize(
    "text", [b"[]", b"{}", b"null", b'{"class_name": 3, "config": {}}', b"[" * 200_000, b"{", b'{"class_name": "Sequential"}']
)
def test_configurations_that_are_none_are_refused(text: bytes, path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (parts | {"config.json": text}).items():
            archive.writestr(name, content)
    with pytest.raises(InvalidInput):
        load_keras(path)


def test_two_members_of_one_name_are_refused(path: Path) -> None:
    with pytest.warns(UserWarning), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("config.json", json.dumps({}))
    with pytest.raises(Refused, match="one name"):
        read_configuration(path)


def test_the_kind_is_told_by_content(path: Path, tmp_path: Path) -> None:
    assert kind_of(path.rename(tmp_path / "model.onnx")) == "keras"
    for content in (b"", b"PK\x03\x04", b"PK\x03\x04" + bytes(60), b"\x89HDF", struct.pack("<Q", 7)):
        (tmp_path / "other").write_bytes(content)
        assert kind_of(tmp_path / "other") is None

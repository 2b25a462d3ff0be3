"""Small Keras models, and what an attacker would make of their files."""

from __future__ import annotations

import io
import json
import os
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
from keras import layers

Json = dict[str, Any]


def perceptron() -> Any:
    return keras.Sequential(
        [
            keras.Input((64,), name="pixels"),
            layers.Rescaling(1 / 16),
            layers.Dense(16, activation="relu"),
            layers.Dense(10, activation="softmax", name="digit"),
        ]
    )


def convolutional() -> Any:
    """An image in, a dictionary of two outputs out."""
    image = keras.Input((8, 8, 1), name="image")
    hidden = layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same")(image))
    hidden = layers.Flatten()(layers.MaxPooling2D()(layers.ReLU()(hidden)))
    digit = layers.Dense(10, activation="softmax", name="dense_digit")(hidden)
    return keras.Model(image, {"digit": digit, "features": layers.Dense(3)(hidden)})


def recurrent(length: int | None = 6) -> Any:
    """A loop over the sequence: unrolled where its length is known."""
    steps = keras.Input((length, 4), name="steps")
    return keras.Model(steps, layers.Dense(2, name="answer")(layers.LSTM(8)(layers.GRU(8, return_sequences=True)(steps))))


def attention() -> Any:
    """A sequence of any length."""
    steps = keras.Input((None, 16), name="steps")
    hidden = layers.LayerNormalization()(layers.Add()([layers.MultiHeadAttention(2, 8)(steps, steps), steps]))
    return keras.Model(steps, layers.Dense(3, name="answer")(layers.GlobalAveragePooling1D()(hidden)))


def two_inputs() -> Any:
    """A dictionary of inputs, a list of outputs."""
    left, right = keras.Input((4,), name="left"), keras.Input((3,), dtype="int32", name="right")
    joined = layers.Concatenate()([left, keras.ops.cast(right, "float32")])
    outputs = [layers.Dense(2, name="first")(joined), layers.Dense(1, name="second")(joined)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # keys that are not the inputs' names
        return keras.Model({"a": left, "b": right}, outputs)


def save(model: Any, path: Path) -> Path:
    """With weights that are not the initializer's zeros and ones."""
    random = np.random.default_rng(5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        weights = model.get_weights()
    model.set_weights([np.abs(random.standard_normal(weight.shape)).astype(weight.dtype) * 0.3 for weight in weights])
    return save_as_it_is(model, path)


def save_as_it_is(model: Any, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(path)
    return path


def rewrite(path: Path, change: Callable[[Json], None], **members: bytes) -> Path:
    """The same archive with another configuration, and other or more members."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    configuration = json.loads(parts["config.json"])
    change(configuration)
    parts["config.json"] = json.dumps(configuration).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (parts | members).items():
            archive.writestr(name, content)
    return path


def rewrite_hdf5(path: Path, change: Callable[[Json], None]) -> Path:
    import h5py

    with h5py.File(path, "r+") as file:
        configuration = json.loads(file.attrs["model_config"])
        change(configuration)
        file.attrs["model_config"] = json.dumps(configuration)
    return path


def first_dense(configuration: Json) -> Json:
    """The configuration of the first Dense layer."""
    found: Json = next(layer for layer in configuration["config"]["layers"] if layer["class_name"] == "Dense")
    return found


def torch_wrapper(marker: Path) -> str:
    """A pickled module, as TorchModuleWrapper keeps it, that makes a file when it is loaded."""
    import base64
    import pickle

    class Evil:
        def __reduce__(self) -> Any:
            return (os.system, (f"touch {marker}",))

    buffer = io.BytesIO()
    pickle.dump(Evil(), buffer)
    return base64.b64encode(buffer.getvalue()).decode()

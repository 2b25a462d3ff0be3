"""Convert with TensorFlow, and say what TensorFlow itself answers. Run as a file by the environment's own interpreter.

The request on stdin: {"source": kind, "target": kind, "path", "output", "signature", "inputs": […], "outputs": […],
"sample": .npz or null, "parent": process id}. Written: `output`, and `expected.npz` beside it where a sample was given.
"""

from __future__ import annotations

import ctypes
import json
import os
import runpy
import signal
import sys
from pathlib import Path
from typing import Any

_OPSET = "18"  # the newest that tf2onnx 1.17 writes


def main() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: not to outlive the job
    request: dict[str, Any] = json.load(sys.stdin)
    if os.getppid() != request["parent"]:
        sys.exit(1)
    os.environ |= {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    folder = _keras_as_saved_model(request) if request["source"] == "keras" else Path(request["path"])
    if request["sample"] is not None:
        _answer(request, folder)
    if request["target"] == "onnx":
        _to_onnx(request, folder)
    else:
        _to_tflite(request, folder)


def _keras_as_saved_model(request: dict[str, Any]) -> Path:
    """A SavedModel with inputs and outputs of the given names, from a Keras file that was found harmless before."""
    import keras
    import tensorflow as tf

    model = keras.saving.load_model(request["path"], compile=False, safe_mode=True)
    structure: Any = getattr(model, "output", None)
    keyed = isinstance(structure, dict) and set(structure) == set(request["outputs"])
    outputs = [structure[name] for name in request["outputs"]] if keyed else list(model.outputs)
    inputs = list(model.inputs)
    flat = keras.Model(inputs if len(inputs) > 1 else inputs[0], outputs)
    names: list[str] = request["inputs"]
    specs = [tf.TensorSpec(one.shape, one.dtype, name=name) for one, name in zip(inputs, names, strict=True)]

    def serve(*arguments: Any) -> dict[str, Any]:
        answers = flat(list(arguments) if len(arguments) > 1 else arguments[0], training=False)
        answers = answers if isinstance(answers, list | tuple) else [answers]
        return dict(zip(request["outputs"], answers, strict=True))

    # tf.saved_model.save keeps the weights too, but TensorFlow Lite then converts them to zeros and worse.
    archive = keras.export.ExportArchive()
    archive.track(flat)
    archive.add_endpoint("serve", serve, input_signature=specs)
    folder = Path(request["output"]).with_name("saved_model")
    archive.write_out(str(folder), verbose=False)  # the first endpoint becomes serving_default
    return folder


def _answer(request: dict[str, Any], folder: Path) -> None:
    """TensorFlow's own answers, row by row where the rows are free, so that no row knows of another."""
    import numpy as np
    import tensorflow as tf

    with np.load(request["sample"], allow_pickle=False) as arrays:
        sample = {name: arrays[name] for name in arrays.files}
    loaded = tf.saved_model.load(str(folder), tags=["serve"])
    run = loaded.signatures[request["signature"]]
    _, specs = run.structured_input_signature
    free = all(spec.shape.rank and spec.shape[0] is None for spec in specs.values())
    count = len(next(iter(sample.values())))
    parts = [slice(row, row + 1) for row in range(count)] if free else [slice(None)]
    answers = [
        run(**{name: tf.constant(array[part], dtype=specs[name].dtype) for name, array in sample.items()}) for part in parts
    ]
    expected = {
        name: np.concatenate([np.atleast_1d(answer[name].numpy()) for answer in answers]) for name in request["outputs"]
    }
    np.savez(Path(request["output"]).with_name("expected.npz"), allow_pickle=False, **expected)


def _to_onnx(request: dict[str, Any], folder: Path) -> None:
    arguments = ["--saved-model", str(folder), "--output", request["output"], "--opset", _OPSET]
    sys.argv = ["tf2onnx.convert", *arguments, "--tag", "serve", "--signature_def", request["signature"]]
    runpy.run_module("tf2onnx.convert", run_name="__main__")


def _to_tflite(request: dict[str, Any], folder: Path) -> None:
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder), signature_keys=[request["signature"]], tags={"serve"})
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    Path(request["output"]).write_bytes(converter.convert())


if __name__ == "__main__":
    main()

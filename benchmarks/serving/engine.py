"""onnxruntime, set up once and alike for every server.

Runs inside each peer's environment, so it imports nothing but onnxruntime and numpy.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

MAX_BATCH = 32
"""Rows a server may join into one call."""

MAX_WAIT = 0.002
"""Seconds the first of a batch waits for the others, in servers that join nothing otherwise.

Much longer costs a lone caller that much in every request.
"""

DTYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64}


class Engine:
    """The model named by `BENCHMARK_MODEL` on `BENCHMARK_THREADS` threads."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ["BENCHMARK_THREADS"])
        options.inter_op_num_threads = 1
        # Threads that spin between calls take the cores from the server around the engine.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(os.environ["BENCHMARK_MODEL"], options, providers=["CPUExecutionProvider"])
        self.inputs = {tensor.name: DTYPES[tensor.type] for tensor in self.session.get_inputs()}
        (self.output,) = (tensor.name for tensor in self.session.get_outputs())

    def read(self, tensors: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """The inputs in a decoded JSON body, as typed arrays."""
        return {name: np.asarray(tensors[name], dtype) for name, dtype in self.inputs.items()}

    @cached_property
    def sample(self) -> dict[str, Any]:
        """What the case says of its columns, or of its pictures."""
        told: dict[str, Any] = json.loads(Path(os.environ["BENCHMARK_SAMPLE"]).read_text())
        return told

    def read_record(self, record: Mapping[str, float]) -> dict[str, NDArray[Any]]:
        """One row by column names, in the model's order."""
        (name,) = self.inputs
        return {name: np.array([[record[column] for column in self.sample["record"]]], np.float32)}

    def read_picture(self, body: bytes) -> dict[str, NDArray[Any]]:
        """An encoded image as the model takes it."""
        from PIL import Image

        (name,) = self.inputs
        side = self.sample["side"]
        image = Image.open(io.BytesIO(body)).convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
        values = np.asarray(image, np.float32) * np.float32(1 / 255)
        values = (values - np.float32(self.sample["mean"])) / np.float32(self.sample["std"])
        return {name: np.ascontiguousarray(values.transpose(2, 0, 1)[None], np.float32)}

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Predict for a batch: one row out for each row in."""
        (answer,) = self.session.run([self.output], dict(inputs))
        rows: NDArray[np.float32] = answer
        return rows


def softmax(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities of the rows' scores."""
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    shares: NDArray[np.float32] = powers / powers.sum(-1, keepdims=True)
    return shares


def join(requests: list[dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """One batch from the inputs of several requests, filled up with 0 to the longest of them where they differ in length."""
    return {name: np.concatenate(_as_long([request[name] for request in requests])) for name in requests[0]}


def _as_long(arrays: list[NDArray[Any]]) -> list[NDArray[Any]]:
    longest = max(array.shape[1] for array in arrays)
    return [array if array.shape[1] == longest else np.pad(array, ((0, 0), (0, longest - array.shape[1]))) for array in arrays]

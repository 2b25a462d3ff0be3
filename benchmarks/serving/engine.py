"""onnxruntime, set up once and alike for every server.

Runs inside each peer's environment, so it imports nothing but onnxruntime and numpy.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
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

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Predict for a batch: one row out for each row in."""
        (answer,) = self.session.run([self.output], dict(inputs))
        rows: NDArray[np.float32] = answer
        return rows


def join(requests: list[dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """One batch from the inputs of several requests."""
    return {name: np.concatenate([request[name] for request in requests]) for name in requests[0]}

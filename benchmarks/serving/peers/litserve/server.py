"""The model behind LitServe with its batching.

Usage: `python server.py PORT`.
"""

import sys
from typing import Any

import litserve
import numpy as np
from numpy.typing import NDArray

from benchmarks.serving.engine import MAX_BATCH, MAX_WAIT, Engine, join

Tensors = dict[str, NDArray[Any]]


class Model(litserve.LitAPI):  # type: ignore[misc]
    def setup(self, device: str) -> None:
        self.engine = Engine()

    # LitServe looks at the parameter's name: it must be `request`.
    def decode_request(self, request: dict[str, Any]) -> Tensors:
        return self.engine.read(request)

    def batch(self, inputs: list[Tensors]) -> Tensors:
        return join(inputs)

    def predict(self, batch: Tensors) -> NDArray[np.float32]:
        return self.engine.run(batch)

    def unbatch(self, output: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        return list(output)

    def encode_response(self, output: NDArray[np.float32]) -> dict[str, list[list[float]]]:
        return {self.engine.output: [output.tolist()]}


if __name__ == "__main__":
    model = Model(max_batch_size=MAX_BATCH, batch_timeout=MAX_WAIT)
    server = litserve.LitServer(model, accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )

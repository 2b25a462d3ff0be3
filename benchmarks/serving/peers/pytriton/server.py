"""The model behind PyTriton: Triton's C++ door, the model in this process.

Usage: `python server.py MODEL_NAME HTTP_PORT GRPC_PORT METRICS_PORT`.
"""

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from benchmarks.serving.engine import MAX_BATCH, Engine

engine = Engine()


@batch  # type: ignore[untyped-decorator]
def infer(**inputs: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
    return {engine.output: engine.run(inputs)}


if __name__ == "__main__":
    name, http, grpc, metrics = sys.argv[1], *map(int, sys.argv[2:])
    config = TritonConfig(
        http_address="127.0.0.1",
        http_port=http,
        grpc_address="127.0.0.1",
        grpc_port=grpc,
        metrics_address="127.0.0.1",
        metrics_port=metrics,
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name=name,
            infer_func=infer,
            inputs=[Tensor(name=key, dtype=dtype, shape=(-1,)) for key, dtype in engine.inputs.items()],
            outputs=[Tensor(name=engine.output, dtype=np.float32, shape=(-1,))],
            config=ModelConfig(max_batch_size=MAX_BATCH, batching=True, batcher=DynamicBatcher()),
        )
        triton.serve()

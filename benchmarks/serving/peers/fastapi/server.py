"""The model behind plain FastAPI, no batching: what most tutorials end with."""

import os

from fastapi import FastAPI

from benchmarks.serving.engine import Engine

engine = Engine()
app = FastAPI()

Tensors = dict[str, list[list[float]]]


def predict(tensors: Tensors) -> Tensors:
    return {engine.output: engine.run(engine.read(tensors)).tolist()}


async def predict_at_once(tensors: Tensors) -> Tensors:
    return predict(tensors)


# FastAPI runs a plain function on its thread pool: right for a slow model, a waste for a tiny one.
app.post("/predict")(predict if os.environ["BENCHMARK_SLOW"] else predict_at_once)

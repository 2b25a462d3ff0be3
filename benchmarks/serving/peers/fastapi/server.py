"""The model behind plain FastAPI, no batching: what most tutorials end with."""

import os

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool

from benchmarks.serving.engine import Engine, softmax

engine = Engine()
app = FastAPI()

Tensors = dict[str, list[list[float]]]


def predict(tensors: Tensors) -> Tensors:
    return {engine.output: engine.run(engine.read(tensors)).tolist()}


async def predict_at_once(tensors: Tensors) -> Tensors:
    return predict(tensors)


def predict_record(record: dict[str, float]) -> Tensors:
    return {engine.output: engine.run(engine.read_record(record)).tolist()}


async def predict_record_at_once(record: dict[str, float]) -> Tensors:
    return predict_record(record)


def predict_picture(body: bytes) -> Tensors:
    return {engine.output: softmax(engine.run(engine.read_picture(body))).tolist()}


@app.post("/picture")
async def picture(request: Request) -> Tensors:
    return await run_in_threadpool(predict_picture, await request.body())


app.post("/record")(predict_record if os.environ["BENCHMARK_SLOW"] else predict_record_at_once)
# FastAPI runs a plain function on its thread pool: right for a slow model, a waste for a tiny one.
app.post("/predict")(predict if os.environ["BENCHMARK_SLOW"] else predict_at_once)

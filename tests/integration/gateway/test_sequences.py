"""Sequences of mixed length through the door: right answers, and what padding they cost."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import msgspec

from openmaas.core.processing import Padding
from openmaas.core.types import Signature, TensorSpec
from tests.integration.gateway.plane import Plane

SIGNATURE = Signature(
    inputs=(TensorSpec(name="ids", datatype="INT64", shape=(-1, -1)),),
    outputs=(
        TensorSpec(name="each", datatype="INT64", shape=(-1, -1)),
        TensorSpec(name="whole", datatype="INT64", shape=(-1, 1)),
    ),
)


def test_mixed_lengths_are_answered_right_and_their_padding_is_told(make_plane: Callable[..., Plane]) -> None:
    plane = make_plane()
    plane.publish()
    plane.replica(
        "m-1-0",
        signature=SIGNATURE,
        options={"factor": 2, "pooled": ["whole"], "delay": 0.01},
        padding=Padding(pad={"ids": 0}, trim=("each",)),
        max_batch=8,
        max_tokens=200,
    )
    plane.start_gateway()
    plane.deploy("m")
    plane.wait_ready("m")
    source = random.Random(7)
    sentences = [[source.randint(1, 99) for _ in range(source.randint(1, 60))] for _ in range(200)]

    with httpx.Client(headers=plane.headers, timeout=30, trust_env=False) as client, ThreadPoolExecutor(16) as pool:

        def ask(ids: list[int]) -> Any:
            described = {"name": "ids", "shape": [1, len(ids)], "datatype": "INT64", "data": ids}
            answer = client.post(f"{plane.url}/v2/models/m/infer", content=msgspec.json.encode({"inputs": [described]}))
            assert answer.status_code == 200, answer.text
            return {output["name"]: output["data"] for output in answer.json()["outputs"]}

        answers = list(pool.map(ask, sentences))
    for ids, answer in zip(sentences, answers, strict=True):
        assert answer["each"] == [2 * value for value in ids]
        assert answer["whole"] == [sum(2 * value * (place + 1) for place, value in enumerate(ids))]

    counts = plane.replica_counts()["m-1-0"]
    tokens, padding = counts["tokens"], counts["padding_tokens"]
    assert tokens == sum(map(len, sentences))
    assert 0 < padding < tokens
    assert counts["execution_count"] < len(sentences)
    labels = {"model": "m", "version": "1", "replica": "m-1-0"}
    assert plane.sample("openmaas_inference_tokens_total", **labels) == tokens
    assert plane.sample("openmaas_inference_padding_tokens_total", **labels) == padding

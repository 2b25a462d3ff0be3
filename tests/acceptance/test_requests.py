"""One caller's trouble stays its own: poison, impatience, a full queue, a caller that leaves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from .conftest import Server
from .generators import count, wait_until
from .load import Outcome, one


def _infer(server: Server, name: str, values: list[float], **headers: str) -> httpx.Response:
    shape = [len(values) // 2, 2]
    return httpx.post(
        f"{server.gateway}/v2/models/{name}/infer",
        json={"inputs": [{"name": "X", "shape": shape, "datatype": "FP32", "data": values}]},
        headers={"authorization": f"Bearer {server.key}", **headers},
        timeout=90,
        trust_env=False,
    )


async def _together(server: Server, name: str, values: list[float], factor: float = 1.0) -> list[Outcome]:
    headers = {"authorization": f"Bearer {server.key}"}
    limits = httpx.Limits(max_connections=len(values))
    async with httpx.AsyncClient(headers=headers, limits=limits, timeout=90, trust_env=False) as client:
        url = f"{server.gateway}/v2/models/{name}/infer"
        return list(await asyncio.gather(*(one(client, url, value, factor) for value in values)))


def test_a_poisoned_batch_mate_fails_alone(server: Server, dummy: Callable[..., Path]) -> None:
    client = server.client()
    client.push(dummy(delay=0.1, poison=13.0, factor=2.0), name="poison")
    client.deploy("poison", max_batch=16)
    values = [float(number) for number in range(1, 25)]
    outcomes = asyncio.run(_together(server, "poison", values, factor=2.0))
    for value, outcome in zip(values, outcomes, strict=True):
        assert outcome.status == (500 if value == 13.0 else 200), outcome
    told = next(outcome for outcome in outcomes if outcome.status == 500)
    assert told.body["code"] == "engine_failed" and "poison value 13.0" in told.body["error"]
    assert told.body["request_id"] == told.headers["x-request-id"]
    stats = client.statistics()
    sizes = [entry["batch_size"] for entry in next(s for s in stats if s["name"] == "poison")["batch_stats"]]
    assert max(sizes) > 1, "nothing was batched, so nothing was proven"
    client.undeploy("poison")


def test_a_segfaulting_request_harms_only_itself(server: Server, dummy: Callable[..., Path]) -> None:
    client = server.client()
    client.push(dummy(exit_on=13.0), name="fatal")
    client.deploy("fatal", replicas=2)
    answer = _infer(server, "fatal", [13.0, 13.0])
    assert answer.status_code == 503 and answer.headers["retry-after"]
    assert _infer(server, "fatal", [1.0, 2.0]).status_code == 200
    client.undeploy("fatal")


def test_a_caller_that_leaves_is_not_worked_for_and_harms_no_batch_mate(server: Server, dummy: Callable[..., Path]) -> None:
    client = server.client()
    client.push(dummy(delay=2.0), name="left")
    client.deploy("left", max_batch=1)

    body = b'{"inputs": [{"name": "X", "shape": [1, 2], "datatype": "FP32", "data": [2.0, 2.0]}]}'
    head = f"POST /v2/models/left/infer HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {server.key}\r\n"
    request = f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body

    def in_flight() -> float:
        return count(server, "openmaas_requests_in_flight")

    async def scene() -> list[Outcome]:
        headers = {"authorization": f"Bearer {server.key}"}
        url = f"{server.gateway}/v2/models/left/infer"
        async with httpx.AsyncClient(headers=headers, timeout=90, trust_env=False) as http:
            first = asyncio.create_task(one(http, url, 1.0, 1.0))
            await asyncio.to_thread(wait_until, lambda: in_flight() == 1)  # the engine is busy now; what comes waits
            _, leaver = await asyncio.open_connection("127.0.0.1", server.http_port)
            leaver.write(request)
            await leaver.drain()
            await asyncio.to_thread(wait_until, lambda: in_flight() == 2)  # it waits in the replica's queue
            stayer = asyncio.create_task(one(http, url, 3.0, 1.0))
            leaver.close()
            return [await first, await stayer]

    outcomes = asyncio.run(scene())
    assert [outcome.status for outcome in outcomes] == [200, 200]
    (stats,) = [s for s in client.statistics() if s["name"] == "left"]
    assert stats["cancelled"] == 1 and stats["execution_count"] == 2, stats
    client.undeploy("left")


def test_a_deadline_ends_the_wait_in_time(server: Server, dummy: Callable[..., Path]) -> None:
    client = server.client()
    client.push(dummy(delay=1.5), name="late")
    client.deploy("late", max_batch=1)
    seconds = []
    for _ in range(4):  # the best of them: a busy machine may be late once
        started = time.monotonic()
        answer = _infer(server, "late", [1.0, 2.0], **{"x-request-timeout": "0.3"})
        seconds.append(time.monotonic() - started)
        assert answer.status_code == 504 and answer.json()["code"] == "deadline_exceeded"
    assert 0.25 < min(seconds) < 1.2
    assert _infer(server, "late", [1.0, 2.0]).status_code == 200
    client.undeploy("late")


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back(server: Server, dummy: Callable[..., Path]) -> None:
    client = server.client()
    client.push(dummy(delay=2.0), name="full")
    client.deploy("full", max_batch=1, max_queue=2)
    outcomes = asyncio.run(_together(server, "full", [float(n) for n in range(1, 13)]))
    refused = [outcome for outcome in outcomes if outcome.status == 503]
    served = [outcome for outcome in outcomes if outcome.status == 200]
    assert len(refused) + len(served) == 12 and len(served) >= 3 and len(refused) >= 7
    for outcome in refused:
        assert int(outcome.headers["retry-after"]) >= 1 and outcome.body["code"] == "queue_full"
        assert "max_queue" in outcome.body["error"]
        assert outcome.seconds < 1.9, "a refusal must not wait for the queue"
    client.undeploy("full")


def test_a_replica_at_its_memory_limit_says_so_and_leaves_its_neighbour_alone(
    server: Server, dummy: Callable[..., Path]
) -> None:
    client = server.client()
    client.push(dummy(), name="modest")
    client.deploy("modest")
    client.push(dummy(allocate=800 * 2**20), name="greedy")
    done = server.run("deploy", "greedy", "--memory", "400MiB", check=False)
    assert done.returncode == 1
    assert "memory" in (done.stdout + done.stderr).lower()
    assert client.deployment("greedy").cause.code == "memory_limit"
    assert _infer(server, "modest", [1.0, 2.0]).status_code == 200
    client.undeploy("modest")
    client.undeploy("greedy")


def test_answers_carry_their_id_and_where_the_time_went(server: Server, dummy: Callable[..., Path]) -> None:
    client = server.client()
    client.push(dummy(delay=0.02), name="timed")
    client.deploy("timed")
    answer = _infer(server, "timed", [1.0, 2.0], **{"x-request-id": "abc-1"})
    assert answer.headers["x-request-id"] == "abc-1"
    timing = dict(part.strip().split(";dur=") for part in answer.headers["server-timing"].split(","))
    assert set(timing) == {"queue", "batch", "model", "overhead"} and float(timing["model"]) >= 20
    metrics = httpx.get(f"{server.gateway}/metrics", headers={"x-api-key": server.key}, timeout=60, trust_env=False).text
    assert 'openmaas_requests_total{deployment="timed",route="infer",status="200"} 1.0' in metrics
    assert 'openmaas_inference_request_success_total{model="timed"' in metrics
    client.undeploy("timed")

"""A replica's server behind a real link in one process, with engines that behave well and badly."""

from __future__ import annotations

import asyncio
import gzip
import tempfile
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import numpy as np
import pytest

from openmaas.core.contracts import Answer, Call, Health, ReplicaSpec, encode
from openmaas.core.errors import DeadlineExceeded, EngineFailed, InvalidInput, OpenMaaSError, TooLarge, Unavailable
from openmaas.core.link import Link, LinkServer, connect
from openmaas.core.manifest import Manifest
from openmaas.core.types import Signature
from openmaas.engines import Engine, EngineSpec, Tensors
from openmaas.replica.server import ReplicaServer
from tests.unit.protocols.bodies import binary, body, signature, tensor

ROW = tensor([1, 2], "FP32", [1, 2])


class Doubling(Engine):
    def __init__(self) -> None:
        self.calls = 0
        self.gate = threading.Event()
        self.gate.set()
        self.answer: Any = None

    def load(self, spec: EngineSpec) -> None:
        pass

    def run(self, inputs: Tensors) -> Tensors:
        self.calls += 1
        self.gate.wait(60)
        (values, *_) = inputs.values()
        return self.answer(values) if self.answer is not None else {"y": values * 2 if values.dtype != object else values}

    def describe(self) -> dict[str, str]:
        return {}


class Replica:
    def __init__(self, link: Link, server: ReplicaServer, engine: Doubling, links: LinkServer) -> None:
        self.link, self.server, self.engine, self.links = link, server, engine, links

    async def call(self, content: bytes, operation: Any = "infer", **head: Any) -> tuple[Answer, bytes]:
        call = Call(operation, "r", head.pop("timeout", 10.0), deployment="m", **head)
        header, answer = await self.link.call(encode(call), content)
        return msgspec.msgpack.decode(header, type=Answer), answer

    async def infer(self, *tensors: dict[str, Any], **head: Any) -> Any:
        head_, answer = await self.call(body(*tensors), **head)
        assert head_.status == 200
        return msgspec.json.decode(answer)["outputs"][0]["data"]

    async def health(self) -> Health:
        return msgspec.msgpack.decode((await self.link.ping())[0], type=Health)


@asynccontextmanager
async def replica(sig: Signature | None = None, batchable: bool = True, **limits: Any) -> AsyncIterator[Replica]:
    engine = Doubling()
    max_body = limits.pop("max_body", 64 * 2**20)
    manifest = Manifest(format="dummy", engine="dummy", entry="", signature=sig or signature(), files=(), batchable=batchable)
    spec = ReplicaSpec(
        id="m-1-0", deployment="m", revision=1, project="default", model="m", version=7, digest="0", manifest=manifest, **limits
    )
    server = ReplicaServer(spec, engine, max_body)
    links = LinkServer(server.handle, health=server.health)
    with tempfile.TemporaryDirectory(prefix="omr-") as folder:
        await links.listen(f"unix:{folder}/r.sock")
        link = await connect(f"unix:{folder}/r.sock")
        try:
            yield Replica(link, server, engine, links)
        finally:
            engine.gate.set()
            link.close()
            server.close()
            links.close()
            await asyncio.sleep(0.02)


# ── predictions ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_json_and_binary() -> None:
    async with replica() as one:
        head, answer = await one.call(body(ROW, id="mine"))
        assert (head.status, head.content_type, head.content_encoding, head.json_size) == (200, "application/json", "", -1)
        assert head.timing is not None and head.timing.rows == 1
        assert msgspec.json.decode(answer) == {
            "model_name": "m",
            "model_version": "7",
            "id": "mine",
            "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [2.0, 4.0]}],
        }
        content, size = binary(([1, 2], "FP32", np.float32([1, 2]).tobytes()), parameters={"binary_data_output": True})
        head, answer = await one.call(content, json_size=size)
        assert head.content_type == "application/octet-stream"
        assert np.frombuffer(answer[head.json_size :], "<f4").tolist() == [2, 4]


async def test_kserve_v1() -> None:
    async with replica() as one:
        _, answer = await one.call(b'{"instances":[[1,2],[3,4]]}', "v1_predict")
        assert msgspec.json.decode(answer) == {"predictions": [[2, 4], [6, 8]]}


async def test_codings_both_ways() -> None:
    rows = tensor([1000, 2], "FP32", [1.0] * 2000)
    async with replica() as one:
        head, answer = await one.call(gzip.compress(body(rows)), content_encoding="gzip", accept_encoding="gzip")
        assert head.content_encoding == "gzip"
        assert msgspec.json.decode(gzip.decompress(answer))["outputs"][0]["shape"] == [1000, 2]
        with pytest.raises(InvalidInput):
            await one.call(body(ROW), content_encoding="br")


async def test_what_the_model_says_of_itself() -> None:
    async with replica(max_batch=5) as one:
        await one.infer(ROW)
        assert msgspec.json.decode((await one.call(b"", "metadata"))[1])["versions"] == ["7"]
        assert msgspec.json.decode((await one.call(b"", "config"))[1])["max_batch_size"] == 5
        statistics = msgspec.json.decode((await one.call(b"", "statistics"))[1])
        assert (statistics["inference_count"], statistics["execution_count"]) == (1, 1)
        assert statistics["inference_stats"]["success"]["count"] == 1


# ── bad input harms nobody else ──────────────────────────────────────────────────────────────────────────────────────

BAD = [
    b"",
    b"\xff",
    b'{"inputs":[{"name":"\xff"}]}',
    b'{"inputs":' + b"[" * 50_000,
    body(ROW | {"shape": [0, 2**62, 2**62], "data": []}),
    body(ROW | {"shape": [0, 2], "data": []}),
    body(ROW)[:-1] + b',"parameters":{"timeout":' + b"9" * 400 + b"}}",
]


@pytest.mark.parametrize("content", BAD)
@pytest.mark.parametrize("operation", ["infer", "v1_predict"])
async def test_bad_input_is_an_error_of_its_own_call(content: bytes, operation: str) -> None:
    async with replica() as one:
        one.engine.gate.clear()
        neighbour = asyncio.create_task(one.infer(ROW))
        while not one.engine.calls:
            await asyncio.sleep(0.001)
        with pytest.raises(InvalidInput):
            await one.call(content, operation)
        one.engine.gate.set()
        assert await neighbour == [2, 4]
        assert len(one.links.connections) == 1


@pytest.mark.parametrize(
    "header", [b"", b"\xc1", b"\x93\x01\x02\x03", encode(Call("infer", "r", 1.0))[:-3], encode(["nonsense", "r", 1.0])]
)
async def test_a_head_that_is_none_is_an_error_of_its_own_call(header: bytes) -> None:
    async with replica() as one:
        with pytest.raises(OpenMaaSError) as caught:
            await one.link.call(header, b"")
        assert type(caught.value) is InvalidInput
        assert await one.infer(ROW) == [2, 4]


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (lambda x: None, "engine_failed"),
        (lambda x: [x], "engine_failed"),
        (lambda x: {"y": [1.0]}, "engine_failed"),
        (lambda x: {"y": x.astype(complex)}, "engine_failed"),
        (lambda x: {"y": x * np.nan}, "not_finite"),
        (lambda x: {"y": np.array([b"\xff"], object)}, "not_text"),
    ],
)
async def test_an_engine_s_odd_answer_is_that_request_s_error(answer: Any, code: str) -> None:
    async with replica() as one:
        one.engine.answer = answer
        for _ in range(2):
            with pytest.raises(EngineFailed) as caught:
                await one.infer(ROW)
            assert caught.value.code == code
        one.engine.answer = None
        assert await one.infer(ROW) == [2, 4]
        assert (await one.health()).in_flight == 0
        assert one.server.batcher.statistics.fail.count == 2


async def test_one_request_s_answer_cannot_be_sent_and_its_batch_mates_can() -> None:
    async with replica() as one:
        one.engine.gate.clear()
        first = asyncio.create_task(one.infer(ROW))
        while not one.engine.calls:
            await asyncio.sleep(0.001)
        one.engine.answer = lambda x: {"y": np.where(x == 3, np.inf, x)}
        mates = [asyncio.create_task(one.infer(tensor([1, 2], "FP32", [n, n]))) for n in (1, 3, 5)]
        while (await one.health()).queued < 3:
            await asyncio.sleep(0.001)
        one.engine.gate.set()
        await first
        results = await asyncio.gather(*mates, return_exceptions=True)
        assert results[0] == [1, 1]
        assert isinstance(results[1], EngineFailed)
        assert results[2] == [5, 5]
        assert one.engine.calls == 2


async def test_an_output_that_was_asked_for_and_did_not_come() -> None:
    async with replica() as one:
        one.engine.answer = lambda x: {"other": x}
        with pytest.raises(EngineFailed) as caught:
            await one.call(body(ROW, outputs=[{"name": "y"}]))
        assert caught.value.code == "output_missing"


# ── time and room ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_caller_that_leaves_is_never_worked_for() -> None:
    async with replica() as one:
        one.engine.gate.clear()
        first = asyncio.create_task(one.infer(ROW))
        while not one.engine.calls:
            await asyncio.sleep(0.001)
        leaving = [asyncio.create_task(one.infer(ROW)) for _ in range(5)]
        while (await one.health()).queued < 5:
            await asyncio.sleep(0.001)
        for task in leaving:
            task.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
        health = await one.health()
        assert (health.queued, health.in_flight) == (0, 1)
        one.engine.gate.set()
        await first
        assert one.engine.calls == 1
        assert one.server.batcher.statistics.cancelled == 5


async def test_the_caller_s_own_timeout_counts() -> None:
    async with replica() as one:
        one.engine.gate.clear()
        first = asyncio.create_task(one.infer(ROW))
        while not one.engine.calls:
            await asyncio.sleep(0.001)
        late = asyncio.create_task(one.call(body(ROW, parameters={"timeout": 10_000})))
        await asyncio.sleep(0.05)
        one.engine.gate.set()
        await first
        with pytest.raises(DeadlineExceeded):
            await late
        with pytest.raises(DeadlineExceeded):
            await one.infer(ROW, timeout=-1.0)


async def test_a_full_queue() -> None:
    async with replica(max_queue=2) as one:
        one.engine.gate.clear()
        tasks = [asyncio.create_task(one.infer(ROW))]
        while not one.engine.calls:
            await asyncio.sleep(0.001)
        tasks += [asyncio.create_task(one.infer(ROW)) for _ in range(2)]
        await asyncio.sleep(0.01)
        with pytest.raises(Unavailable) as caught:
            await one.infer(ROW)
        assert caught.value.code == "queue_full"
        one.engine.gate.set()
        assert await asyncio.gather(*tasks) == [[2, 4]] * 3


# ── large bodies and answers ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("operation", ["infer", "v1_predict"])
async def test_large_requests_get_the_answers_that_small_ones_get(operation: str) -> None:
    values = np.arange(200_000, dtype=np.float32).reshape(-1, 2)
    content = (
        body(tensor([100_000, 2], "FP32", values.tolist()))
        if operation == "infer"
        else msgspec.json.encode({"instances": values.tolist()})
    )
    async with replica(max_batch=100_000) as one:
        _, answer = await one.call(content, operation)
        said = msgspec.json.decode(answer)
        data = said["outputs"][0]["data"] if operation == "infer" else said["predictions"]
        assert np.array_equal(np.ravel(data), values.ravel() * 2)
        statistics = one.server.batcher.statistics
        assert (statistics.success.count, statistics.rows) == (1, 100_000)


async def test_large_requests_fail_as_small_ones_do() -> None:
    async with replica(max_body=2**20) as one:
        with pytest.raises(InvalidInput):
            await one.call(b"[" * 300_000)
        with pytest.raises(InvalidInput):
            await one.call(b'{"instances":["' + b"\xff" * 300_000 + b'"]}', "v1_predict")
        with pytest.raises(TooLarge):
            await one.call(gzip.compress(bytes(2 * 2**20)), content_encoding="gzip")
        one.engine.answer = lambda x: {"y": np.full((len(x), 100_000), np.nan)}
        with pytest.raises(EngineFailed) as caught:
            await one.infer(ROW)
        assert caught.value.code == "not_finite"
        one.engine.answer = lambda x: {"y": np.zeros((len(x), 2**25), np.int8)}
        one.links.connections.copy().pop()._max_frame = 10_000  # the answer does not fit into a frame
        with pytest.raises(TooLarge):
            await one.infer(ROW)
        assert (await one.health()).in_flight == 0
        assert one.server.batcher.statistics.fail.count == 2


async def test_a_caller_that_leaves_while_its_large_body_is_read_is_not_worked_for() -> None:
    async with replica(signature("BYTES", (-1,))) as one:
        content, size = binary(([300_000], "BYTES", bytes(4 * 300_000)))
        task = asyncio.create_task(one.call(content, json_size=size))
        while not one.server._tasks:
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        while one.server._tasks:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        assert one.engine.calls == 0
        assert (await one.health()).in_flight == 0


async def test_others_are_served_while_a_large_body_is_read() -> None:
    async with replica(signature("BYTES", (-1,))) as one:
        content, size = binary(([1_500_000], "BYTES", bytes(6_000_000)))
        begun = time.monotonic()
        large = asyncio.create_task(one.call(content, json_size=size))
        while not one.server._tasks:
            await asyncio.sleep(0)
        slowest = 0.0
        pings = 0
        while one.server._tasks and not one.engine.calls:
            sent = time.monotonic()
            await one.health()
            slowest, pings = max(slowest, time.monotonic() - sent), pings + 1
        await large
        assert pings > 3
        assert slowest < 0.7 * (time.monotonic() - begun)

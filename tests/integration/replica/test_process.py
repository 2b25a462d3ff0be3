"""The life of a real replica process: it comes up or says why not, answers, drains and goes."""

from __future__ import annotations

import asyncio
import gzip
import json
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from openmaas.core.contracts import Answer, Call, Health, encode
from openmaas.core.errors import LinkLost, Unavailable
from openmaas.core.link import Link, connect
from openmaas.replica.process import DO_NOT_RETRY
from tests.integration.gateway.plane import Plane, ReplicaProcess, infer_body

Start = Callable[..., ReplicaProcess]
Reach = Callable[[ReplicaProcess], Awaitable[Link]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a replica without a gateway."""
    plane = Plane(control=False, drain_timeout=3.0, max_body=240 * 2**20)

    def one(identity: str = "a", **options: Any) -> ReplicaProcess:
        return plane.replica(identity, **options)

    yield one
    plane.close()


@pytest.fixture
async def reach() -> AsyncIterator[Reach]:
    """Connect as soon as a replica listens."""
    links: list[Link] = []

    async def one(replica: ReplicaProcess) -> Link:
        for _ in range(6000):
            assert replica.process.poll() is None, replica._log.read_text()
            try:
                links.append(await connect(replica.address))
            except LinkLost:
                await asyncio.sleep(0.01)
            else:
                return links[-1]
        raise AssertionError("the replica does not listen")

    yield one
    for link in links:
        link.abort()
    await asyncio.sleep(0.02)


async def infer(link: Link, *rows: list[float]) -> Any:
    header, body = await link.call(encode(Call("infer", "r", 60.0, deployment="m")), infer_body(*rows))
    assert msgspec.msgpack.decode(header, type=Answer).status == 200
    return msgspec.json.decode(body)["outputs"][0]["data"]


async def test_it_listens_only_when_it_is_ready(start: Start, reach: Reach) -> None:
    replica = start(options={"load_delay": 0.5, "factor": 3})
    begun = time.monotonic()
    link = await reach(replica)
    assert time.monotonic() - begun > 0.5
    health = msgspec.msgpack.decode((await link.ping())[0], type=Health)
    assert health.ready
    assert await infer(link, [1, 2]) == [3, 6]
    assert Path(replica.address.removeprefix("unix:")).stat().st_mode & 0o777 == 0o600


async def test_told_to_stop_it_answers_what_it_has_and_goes(start: Start, reach: Reach) -> None:
    replica = start(options={"delay": 0.3})
    link = await reach(replica)
    calls = [asyncio.create_task(infer(link, [n, n])) for n in range(5)]
    await asyncio.sleep(0)  # the calls are sent
    await link.ping()  # and have come: a connection is read in order
    replica.signal(signal.SIGTERM)
    while not link.draining:
        await asyncio.sleep(0.005)
    replica.signal(signal.SIGTERM)  # impatience changes nothing
    with pytest.raises(LinkLost):
        while True:  # nobody new comes in
            (await connect(replica.address)).abort()
            await asyncio.sleep(0.01)
    assert await asyncio.gather(*calls) == [[n, n] for n in range(5)]
    assert await asyncio.to_thread(replica.process.wait, 60) == 0
    assert not Path(replica.address.removeprefix("unix:")).exists()


async def test_a_caller_that_never_leaves_does_not_keep_it(start: Start, reach: Reach) -> None:
    replica = start(options={"delay": 30.0})
    link = await reach(replica)
    call = asyncio.create_task(infer(link, [1, 2]))
    await asyncio.sleep(0)  # it is sent
    await link.ping()  # and has come: a connection is read in order
    begun = time.monotonic()
    replica.signal(signal.SIGTERM)
    with pytest.raises(LinkLost):
        await call
    assert 2.5 < time.monotonic() - begun < 20, "the default of drain_timeout is longer"
    replica.end()


async def test_a_killed_one_s_socket_is_taken_over_by_the_next(start: Start, reach: Reach) -> None:
    replica = start()
    await reach(replica)
    replica.end()
    assert Path(replica.address.removeprefix("unix:")).exists()
    replica.start()
    assert await infer(await reach(replica), [1, 2]) == [1, 2]


def cause_of(replica: ReplicaProcess) -> Any:
    """The cause on the last line of stderr of a replica that gave up."""
    assert replica.process.wait(60) == DO_NOT_RETRY
    return json.loads(replica._log.read_text().splitlines()[-1])["openmaas_cause"]


def test_a_model_that_cannot_be_loaded_says_so_on_its_last_line(start: Start) -> None:
    cause = cause_of(start(options={"fail_load": "the file is no model"}))
    assert cause["code"] == "load_failed"
    assert "the file is no model" in cause["message"]


def test_a_model_that_does_not_fit_into_its_memory_says_so(start: Start) -> None:
    cause = cause_of(start(options={"allocate": 2**31}, memory=2**30))
    assert cause["code"] == "memory_limit"
    assert "1024 MiB" in cause["message"]


async def test_a_request_that_needs_too_much_memory_harms_only_itself(start: Start, reach: Reach) -> None:
    replica = start(options={"factor": 2}, memory=400 * 2**20, max_batch=100_000_000)
    link = await reach(replica)
    small = [asyncio.create_task(infer(link, [n, n])) for n in range(20)]
    large = encode(Call("infer", "r", 60.0, json_size=0, content_encoding="gzip", deployment="m"))
    with pytest.raises(Unavailable) as caught:
        await link.call(large, gzip.compress(bytes(200 * 2**20), 1))
    assert caught.value.code == "out_of_memory"
    assert await asyncio.gather(*small) == [[2 * n, 2 * n] for n in range(20)]
    assert await infer(link, [1, 2]) == [2, 4]


def test_told_to_stop_while_it_loads_it_goes_at_once(start: Start) -> None:
    replica = start(options={"load_delay": 300.0})
    time.sleep(0.5)
    replica.signal(signal.SIGTERM)
    assert replica.process.wait(60) == -signal.SIGTERM

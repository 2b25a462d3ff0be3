"""The life of a real replica process that generates: it drains, breaks, hangs and dies in mid-stream."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from openmaas.core.contracts import Call, Health, encode
from openmaas.core.errors import EngineFailed, InvalidInput, LinkLost
from openmaas.core.link import Link, connect
from openmaas.replica.process import DO_NOT_RETRY, RETRY
from tests.integration.gateway.plane import Plane, ReplicaProcess
from tests.unit.replica.generation.writer import SIGNATURE, generator, write_files


@pytest.fixture
def plane() -> Iterator[Plane]:
    made = Plane(control=False, drain_timeout=5.0)
    yield made
    made.close()


def start(plane: Plane, **options: Any) -> ReplicaProcess:
    write_files(plane.folder)
    declared = generator(chat_template=options.pop("chat_template", ""), tokenizer=options.pop("tokenizer", "tokenizer.json"))
    return plane.replica("w", signature=SIGNATURE, options=options, generator=declared, files=plane.folder)


@asynccontextmanager
async def reach(replica: ReplicaProcess) -> AsyncIterator[Link]:
    for _ in range(6000):
        assert replica.process.poll() is None, replica._log.read_text()
        try:
            link = await connect(replica.address)
            break
        except LinkLost:
            await asyncio.sleep(0.01)
    else:
        raise AssertionError("the replica does not listen")
    yield link
    link.abort()
    await asyncio.sleep(0.02)


def stream(link: Link, max_tokens: int, prompt: str = "abc", timeout: float = 60.0) -> AsyncIterator[bytes]:
    body = {"model": "w", "prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "stream": True}
    return link.stream(encode(Call("completions", "r", timeout, deployment="w")), json.dumps(body).encode())


async def read(chunks: AsyncIterator[bytes]) -> str:
    events = b"".join([chunk async for chunk in chunks]).decode().split("\n\n")
    assert events[-2] == "data: [DONE]"
    return "".join(json.loads(event.removeprefix("data: "))["choices"][0]["text"] for event in events[:-2])


def cause_of(replica: ReplicaProcess, status: int) -> Any:
    assert replica.process.wait(60) == status
    return json.loads(replica._log.read_text().strip().splitlines()[-1])["openmaas_cause"]


async def test_told_to_stop_it_ends_its_streams_and_goes(plane: Plane) -> None:
    replica = start(plane, token_delay=0.02, chat_template="chat_template.jinja")
    async with reach(replica) as link:
        running = [asyncio.create_task(read(stream(link, 30))) for _ in range(3)]
        await asyncio.sleep(0.2)
        replica.signal(signal.SIGTERM)
        assert await asyncio.gather(*running) == ["abc" * 10] * 3
    assert await asyncio.to_thread(replica.process.wait, 60) == 0


async def test_an_engine_that_breaks_tells_every_caller_and_the_supervisor_and_ends_the_process(plane: Plane) -> None:
    replica = start(plane, token_delay=0.01, fail_at=20)
    async with reach(replica) as link:
        short = asyncio.create_task(read(stream(link, 5)))
        broken = [asyncio.create_task(read(stream(link, 50))) for _ in range(3)]
        assert await short == "abcab"
        results = await asyncio.gather(*broken, return_exceptions=True)
        assert [type(result) for result in results] == [EngineFailed] * 3
    cause = await asyncio.to_thread(cause_of, replica, RETRY)
    assert cause["code"] == "engine_failed"
    assert "the dummy fails at token 20" in cause["message"]


async def test_one_that_dies_in_mid_stream_breaks_the_connection(plane: Plane) -> None:
    replica = start(plane, token_delay=0.01, exit_at=20)
    async with reach(replica) as link:
        with pytest.raises(LinkLost):
            await read(stream(link, 50))
    assert await asyncio.to_thread(replica.process.wait, 60) == 139


async def test_a_hung_step_is_seen_by_who_asks_and_does_not_keep_the_process(plane: Plane) -> None:
    replica = start(plane, token_delay=0.01, hang_at=20)
    async with reach(replica) as link:
        running = asyncio.create_task(read(stream(link, 50)))
        stalled = 0.0
        while stalled < 0.5:
            stalled = msgspec.msgpack.decode((await link.ping())[0], type=Health).stalled
            await asyncio.sleep(0.05)
        link.abort()
        with pytest.raises(LinkLost):
            await running
    replica.signal(signal.SIGTERM)
    assert await asyncio.to_thread(replica.process.wait, 60) == 0


async def test_a_tokenizer_that_cannot_be_read_is_no_reason_to_try_again(plane: Plane) -> None:
    (plane.folder / "broken.json").write_text("{}")
    replica = start(plane, tokenizer="broken.json")
    cause = await asyncio.to_thread(cause_of, replica, DO_NOT_RETRY)
    assert cause["code"] == "load_failed"
    assert "tokenizer" in cause["message"]


async def test_a_conversation_through_the_template_s_own_process(plane: Plane) -> None:
    replica = start(plane, chat_template="chat_template.jinja")
    async with reach(replica) as link:
        body = {"model": "w", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 8, "temperature": 0}
        call = encode(Call("chat", "r", 60.0, deployment="w"))
        _, answer = await link.call(call, json.dumps(body).encode())
        assert json.loads(answer)["choices"][0]["message"]["content"] == "user: hi"
        with pytest.raises(InvalidInput, match="takes no tensors"):
            await link.call(encode(Call("infer", "r", 10.0, deployment="w")), b"{}")
    children = Path(f"/proc/{replica.process.pid}/task/{replica.process.pid}/children").read_text().split()
    assert len(children) == 1
    replica.signal(signal.SIGKILL)
    await asyncio.to_thread(replica.process.wait, 60)
    for _ in range(6000):
        if not Path(f"/proc/{children[0]}").exists():
            break
        await asyncio.sleep(0.01)
    else:
        raise AssertionError("the template's process outlives its replica")

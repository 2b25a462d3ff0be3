"""Streamed answers taken by callback: the parts in order, then exactly one end, whatever the other end does."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from openmaas.core import link as wire
from openmaas.core.errors import EngineFailed, LinkLost, OpenMaaSError, TooLarge
from openmaas.core.link import IncomingCall, Link, LinkServer, connect
from tests.unit.core.test_link import address, frame, linked, raw_server, read_frame, until

__all__ = ["address"]  # the fixture


class Heard:
    """What a caller was told: parts, and ends, of which there must be one."""

    def __init__(self, link: Link, header: bytes = b"s", *, parts: bool = True) -> None:
        self.parts: list[tuple[bytes, bytes]] = []
        self.ends: list[tuple[bytes, bytes] | OpenMaaSError] = []
        self.id = link.start(header, b"", self._end, self._part if parts else None)

    def _part(self, header: bytes, payload: bytes) -> None:
        assert not self.ends
        self.parts.append((header, payload))

    def _end(self, header: bytes, payload: bytes, error: OpenMaaSError | None) -> None:
        self.ends.append(error or (header, payload))

    async def end(self) -> tuple[bytes, bytes] | OpenMaaSError:
        await until(lambda: self.ends)
        await asyncio.sleep(0.005)
        (one,) = self.ends
        return one


def says(*parts: bytes) -> Callable[[IncomingCall], None]:
    def handler(call: IncomingCall) -> None:
        for index, part in enumerate(parts):
            call.write(part, b"" if index else b"head")
        call.end()

    return handler


async def test_parts_come_in_order_and_then_the_end(address: str) -> None:
    parts = [b"%d" % n for n in range(1000)]
    async with linked(address, says(*parts)) as (_, link):
        heard = Heard(link)
        assert await heard.end() == (b"", b"")
        assert heard.parts == [(b"head", b"0"), *((b"", part) for part in parts[1:])]
        assert link.in_flight == 0
        assert not link._chunks


async def test_a_part_arrives_before_the_next_one_is_written(address: str) -> None:
    calls: list[IncomingCall] = []
    async with linked(address, calls.append) as (_, link):
        heard = Heard(link)
        await until(lambda: calls)
        for n in range(5):
            calls[0].write(b"%d" % n)
            await until(lambda n=n: len(heard.parts) == n + 1)  # type: ignore[misc]
        calls[0].end()
        assert await heard.end() == (b"", b"")


async def test_hundreds_of_streams_on_one_connection_do_not_mix(address: str) -> None:
    def handler(call: IncomingCall) -> None:
        calls.append(call)
        if len(calls) == 300:
            source = random.Random(3)
            for step in range(10):
                for one in source.sample(calls, len(calls)):
                    one.write(one.header + b" %d" % step)
            for one in calls:
                one.end()

    calls: list[IncomingCall] = []
    async with linked(address, handler) as (_, link):
        all_heard = [Heard(link, b"%d" % n) for n in range(300)]
        for n, heard in enumerate(all_heard):
            await until(lambda heard=heard: heard.ends)  # type: ignore[misc]
            assert heard.parts == [(b"", b"%d %d" % (n, step)) for step in range(10)]


async def test_a_whole_answer_where_parts_were_allowed(address: str) -> None:
    async with linked(address, lambda call: call.answer(b"head", b"body")) as (_, link):
        heard = Heard(link)
        assert await heard.end() == (b"head", b"body")
        assert not link._chunks


async def test_an_error_in_the_middle_comes_after_its_parts(address: str) -> None:
    def handler(call: IncomingCall) -> None:
        call.write(b"one", b"head")
        call.fail(EngineFailed("over"))
        call.write(b"nobody's")
        call.end()

    async with linked(address, handler) as (_, link):
        heard = Heard(link)
        assert isinstance(await heard.end(), EngineFailed)
        assert heard.parts == [(b"head", b"one")]
        assert link.in_flight == 0


async def test_a_connection_that_breaks_in_the_middle_ends_every_stream(address: str) -> None:
    calls: list[IncomingCall] = []

    def handler(call: IncomingCall) -> None:
        calls.append(call)
        call.write(b"one")

    async with linked(address, handler) as (server, link):
        all_heard = [Heard(link) for _ in range(20)]
        await until(lambda: all(heard.parts for heard in all_heard))
        (connection,) = server.connections
        connection.abort()
        ends = [await heard.end() for heard in all_heard]
        assert {type(end) for end in ends} == {LinkLost}
        assert len({id(end) for end in ends}) == 20
        assert not link._chunks
        await until(lambda: all(call.cancelled for call in calls))
        calls[0].write(b"nobody's")
        with pytest.raises(LinkLost):
            Heard(link)


async def test_cancelling_in_the_middle_stops_the_other_end_and_no_end_is_told(address: str) -> None:
    calls: list[IncomingCall] = []
    stopped: list[int] = []

    def handler(call: IncomingCall) -> None:
        calls.append(call)
        call.on_cancel = lambda: stopped.append(call.id)
        call.write(b"one")

    async with linked(address, handler) as (server, link):
        first, second = Heard(link), Heard(link)
        await until(lambda: first.parts and second.parts)
        assert link.cancel(first.id) is True
        assert link.cancel(first.id) is False
        for call in calls:
            call.write(b"two")  # on its way before the other end has heard
        await until(lambda: stopped)
        assert stopped == [first.id]
        for call in calls:
            call.write(b"three")
            call.end()
        assert await second.end() == (b"", b"")
        assert [payload for _, payload in second.parts] == [b"one", b"two", b"three"]
        assert [payload for _, payload in first.parts] == [b"one"]
        assert first.ends == []
        assert link.in_flight == 0
        (connection,) = server.connections
        assert not connection.calls


async def test_parts_for_a_call_that_takes_none_end_it_and_stop_the_other_end(address: str) -> None:
    calls: list[IncomingCall] = []

    def handler(call: IncomingCall) -> None:
        calls.append(call)
        call.write(b"one")

    async with linked(address, handler) as (_, link):
        heard = Heard(link, parts=False)
        end = await heard.end()
        assert isinstance(end, LinkLost)
        assert "kind 3" in end.message
        await until(lambda: calls[0].cancelled)


async def test_an_end_for_a_call_that_takes_no_parts_is_an_error(address: str) -> None:
    async with linked(address, lambda call: call.end()) as (_, link):
        assert isinstance(await Heard(link, parts=False).end(), LinkLost)


async def test_a_caller_that_cannot_take_a_part_ends_its_call_and_no_other(
    address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[IncomingCall] = []
    ends: list[Any] = []

    def broken(header: bytes, payload: bytes) -> None:
        raise RuntimeError("a bug")

    async with linked(address, calls.append) as (_, link):
        link.start(b"", b"", lambda header, payload, error: ends.append(error), broken)
        good = Heard(link)
        await until(lambda: len(calls) == 2)
        for call in calls:
            call.write(b"one")
        await until(lambda: calls[0].cancelled)
        calls[1].end()
        assert await good.end() == (b"", b"")
        (error,) = ends
        assert type(error) is OpenMaaSError
        assert "a bug" not in error.message


async def test_a_part_over_the_limit_is_refused_before_it_is_sent(address: str) -> None:
    def handler(call: IncomingCall) -> None:
        call.write(b"one")
        with pytest.raises(TooLarge, match="do not fit"):
            call.write(bytes(1000))
        call.fail(EngineFailed("too much"))

    async with linked(address, handler, max_frame=1000) as (_, link):
        heard = Heard(link)
        assert isinstance(await heard.end(), EngineFailed)
        assert heard.parts == [(b"", b"one")]


async def test_a_link_that_drains_stays_until_its_streams_have_ended(address: str) -> None:
    calls: list[IncomingCall] = []
    server = LinkServer(calls.append)
    await server.listen(address)
    link = await connect(address)
    heard = Heard(link)
    await until(lambda: calls)
    drained = asyncio.create_task(server.drain(5))
    await until(lambda: link.draining)
    calls[0].write(b"one")
    await until(lambda: heard.parts)
    assert not drained.done()
    calls[0].end()
    assert await asyncio.wait_for(drained, 60) is True
    assert await heard.end() == (b"", b"")
    server.close()


async def test_parts_cut_anywhere_come_together_again(address: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, call_id, _, _ = await read_frame(reader)
        data = frame(wire.CHUNK, call_id, b"head", b"one") + frame(wire.CHUNK, call_id, b"", b"two") + frame(wire.END, call_id)
        for at in range(len(data)):
            writer.write(data[at : at + 1])
            await asyncio.sleep(0)
        await reader.read()

    async with raw_server(address, serve) as link:
        heard = Heard(link)
        assert await heard.end() == (b"", b"")
        assert heard.parts == [(b"head", b"one"), (b"", b"two")]

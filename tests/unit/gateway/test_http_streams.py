"""Answers in parts, by hand-written bytes: framing, pipelines, and clients that leave, read slowly or not at all."""

from __future__ import annotations

import asyncio
import gc
import socket
import time
from collections.abc import AsyncIterator

import pytest

from openmaas.gateway.http import HttpServer, Request
from openmaas.gateway.http import connection as connection_module
from tests.unit.gateway.test_http import App, Client, Place, get, post, until

HEAD = "content-type: text/event-stream\r\n"


class Streaming(App):
    """Begins a stream for /stream…, which the test writes; all else as App."""

    def run(self, request: Request) -> None:
        if request.target.startswith(b"/stream"):
            self.ran += 1
            self.held.append(request)
            request.on_late = lambda: self.held.remove(request)
            request.begin_stream(200, HEAD)
        else:
            super().run(request)


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    app = Streaming()
    server = HttpServer(app, body_timeout=0.5)
    await server.listen("127.0.0.1", 0)
    assert server._server is not None
    one = Place(server, app, server._server.sockets[0].getsockname()[1])
    yield one
    for client in one.clients:
        client.close()
    await until(one.idle)
    server._server.close()
    server.close()
    await asyncio.sleep(0.01)


async def begun(place: Place, data: bytes, count: int = 1) -> tuple[Client, Request]:
    client = await place.client(data)
    await until(lambda: len(place.app.held) == count)
    return client, place.app.held[-1]


async def head(client: Client) -> str:
    return (await asyncio.wait_for(client.reader.readuntil(b"\r\n\r\n"), 60)).decode()


async def chunk(client: Client) -> bytes:
    """One chunk; empty for the last."""
    async with asyncio.timeout(60):
        size = int(await client.reader.readuntil(b"\r\n"), 16)
        data = await client.reader.readexactly(size)
        assert await client.reader.readexactly(2) == b"\r\n"
    return data


# ── framing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_each_part_is_a_chunk_of_its_own_and_goes_out_at_once(place: Place) -> None:
    client, request = await begun(place, get("/stream"))
    said = await head(client)
    assert said.startswith("HTTP/1.1 200 OK\r\ndate: ")
    assert HEAD in said
    assert "transfer-encoding: chunked\r\n" in said
    assert "content-length" not in said
    assert "connection" not in said
    for part in (b"one", b"two" * 1000, b"x"):
        request.write(part)
        assert await chunk(client) == part
    request.end()
    assert await chunk(client) == b""
    client.send(get())
    assert await client.answers(1) == [(200, b"hello")]
    assert place.app.gone == []


async def test_parts_of_one_turn_are_one_chunk(place: Place) -> None:
    client, request = await begun(place, get("/stream"))
    await head(client)
    for part in (b"a", b"", b"b", b"c"):
        request.write(part)
    assert await chunk(client) == b"abc"
    request.write(b"d")
    request.end()
    assert await asyncio.wait_for(client.reader.readexactly(11), 60) == b"1\r\nd\r\n0\r\n\r\n"


async def test_the_head_goes_out_with_the_first_part_where_both_are_there(place: Place) -> None:
    written: list[bytes] = []
    client, request = await begun(place, get("/later"))
    (connection,) = place.server.connections
    transport = connection._transport
    assert transport is not None

    class Watched:
        def __getattr__(self, name: str) -> object:
            return getattr(transport, name)

        def write(self, data: bytes) -> None:
            written.append(data)
            transport.write(data)

    connection._transport = Watched()  # type: ignore[assignment]
    request.begin_stream(200, HEAD)
    request.write(b"one")
    request.write(b"two")
    await head(client)
    assert await chunk(client) == b"onetwo"
    assert len(written) == 1
    request.end()


async def test_nothing_but_a_head_and_an_end(place: Place) -> None:
    client, request = await begun(place, get("/stream"))
    request.end()
    await head(client)
    assert await chunk(client) == b""


async def test_an_end_comes_once_and_nothing_follows_it(place: Place) -> None:
    client, request = await begun(place, get("/stream"))
    request.answer(500, "", b"no second head")
    request.begin_stream(500, "")
    request.write(b"a")
    request.end()
    request.write(b"b")
    request.end()
    request.answer(500, "", b"no")
    client.send(get("/", "Connection: close"))
    said = await client.rest()
    assert said.count(b"HTTP/1.1") == 2
    assert b"1\r\na\r\n0\r\n\r\nHTTP/1.1 200 OK" in said


async def test_http_1_0_gets_bare_bytes_until_the_end_of_the_connection(place: Place) -> None:
    for fields in ((), ("Connection: keep-alive",)):
        client, request = await begun(place, get("/stream", *fields, version="1.0"), len(place.app.held) + 1)
        request.write(b"one")
        await asyncio.sleep(0.01)
        request.write(b"two")
        request.end()
        said = await client.rest()
        assert said.endswith(b"connection: close\r\n\r\nonetwo")
        assert b"transfer-encoding" not in said


async def test_connection_close_is_kept_and_said(place: Place) -> None:
    client, request = await begun(place, get("/stream", "Connection: close"))
    request.write(b"one")
    request.end()
    said = await client.rest()
    assert b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n" in said
    assert said.endswith(b"3\r\none\r\n0\r\n\r\n")


async def test_an_end_may_close_though_the_head_did_not_say_so(place: Place) -> None:
    client, request = await begun(place, get("/stream") + get("/echo"))
    request.write(b"broken")
    request.end(close=True)
    said = await client.rest()
    assert said.endswith(b"6\r\nbroken\r\n0\r\n\r\n")
    assert place.app.gone == [b"/echo"]  # it came too late, and is told to nobody as done


async def test_head_is_answered_by_a_head_alone(place: Place) -> None:
    client, request = await begun(place, get("/stream").replace(b"GET", b"HEAD"))
    request.write(b"not to be seen")
    request.end()
    assert "transfer-encoding: chunked" in await head(client)
    client.send(get("/", "Connection: close"))
    assert (await client.rest()).startswith(b"HTTP/1.1 200 OK")


# ── beside other requests ────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_follows_in_the_pipeline_waits_for_the_end(place: Place) -> None:
    client, request = await begun(place, get("/stream") + post("/echo", b"next") + get("/stream2"))
    request.write(b"one")
    await head(client)
    assert await chunk(client) == b"one"
    assert place.app.ran == 1
    request.end()
    assert await chunk(client) == b""
    assert await client.answers(1) == [(200, b"next")]
    await until(lambda: len(place.app.held) == 2)
    await head(client)
    place.app.held[1].end()
    assert await chunk(client) == b""


async def test_bytes_that_are_no_request_wait_for_the_end_too(place: Place) -> None:
    client, request = await begun(place, get("/stream") + b"\x00rubbish\r\n\r\n")
    request.write(b"one")
    await asyncio.sleep(0.02)
    request.write(b"two")
    request.end()
    said = await client.rest()
    assert said.count(b"HTTP/1.1") == 1
    assert said.endswith(b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")


async def test_two_hundred_streams_side_by_side(place: Place) -> None:
    clients = [await place.client(get(f"/stream{n}")) for n in range(200)]
    await until(lambda: len(place.app.held) == 200)
    for step in range(10):
        for request in place.app.held:
            request.write(b"%d of %s" % (step, request.target))
        await asyncio.sleep(0)
    for request in place.app.held:
        request.end()
    for n, client in enumerate(clients):
        await head(client)
        text = b""
        while part := await chunk(client):
            text += part
        assert text == b"".join(b"%d of /stream%d" % (step, n) for step in range(10))


# ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_stream_that_pauses_longer_than_a_client_may_is_healthy(place: Place) -> None:
    """The body timeout is 0.5 s; the clock looks every 0.5 s."""
    client, request = await begun(place, get("/stream"))
    await head(client)
    await asyncio.sleep(1.1)
    request.write(b"tick")
    assert await chunk(client) == b"tick"
    request.end()
    assert await chunk(client) == b""


async def test_a_deadline_is_told_in_the_middle(place: Place) -> None:
    client, request = await begun(place, get("/stream"))
    request.deadline = asyncio.get_running_loop().time() + 0.05

    def late() -> None:
        request.write(b"late")
        request.end(close=True)

    request.on_late = late
    assert (await client.rest()).endswith(b"4\r\nlate\r\n0\r\n\r\n")


async def test_a_stream_that_runs_when_the_server_drains_ends_in_order(place: Place) -> None:
    client, request = await begun(place, get("/stream"))
    request.write(b"one")
    await head(client)
    drained = asyncio.create_task(place.server.drain(5))
    await asyncio.sleep(0.7)  # longer than idle connections are kept
    request.write(b"two")
    request.end()
    assert (await client.rest()).endswith(b"3\r\ntwo\r\n0\r\n\r\n")
    assert await drained is True


async def test_a_server_that_closes_breaks_off_aloud(place: Place) -> None:
    client, _ = await begun(place, get("/later"))
    assert await place.server.drain(0.05) is False
    place.server.close()
    said = await client.rest()
    assert said.startswith(b"HTTP/1.1 503 ")
    assert place.app.refused == [(503, "stopping")]


# ── clients that leave or do not read ────────────────────────────────────────────────────────────────────────────────


async def test_who_leaves_in_the_middle_is_told_at_once(place: Place) -> None:
    client, request = await begun(place, get("/stream"))
    request.on_gone = lambda: place.app.gone.append(b"gone")
    request.write(b"one")
    await head(client)
    begun_at = time.monotonic()
    client.close()
    await until(lambda: place.app.gone)
    assert time.monotonic() - begun_at < 5
    assert place.app.gone == [b"gone"]
    request.write(b"two")  # goes nowhere, and hurts nobody
    request.end()
    assert place.app.gone == [b"gone"]


async def test_what_a_client_leaves_unread_is_bounded(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "MAX_UNREAD", 200_000)
    client = await place.client(get("/stream"), limit=1000)
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await until(lambda: place.app.held)
    (request,) = place.app.held
    request.on_gone = lambda: place.app.gone.append(b"gone")
    neighbour, other = await begun(place, get("/stream"), 2)
    await head(neighbour)
    (connection,) = (one for one in place.server.connections if one._active is request)
    transport = connection._transport
    assert transport is not None
    largest = written = 0
    while not place.app.gone:
        request.write(bytes(20_000))
        other.write(b"x")
        assert await chunk(neighbour) == b"x"  # nobody else notices
        largest = max(largest, transport.get_write_buffer_size())
        written += 20_000
        assert written < 30_000_000  # the system's own buffers take some
        await asyncio.sleep(0)
    assert largest < 250_000
    assert place.app.gone == [b"gone"]


async def test_who_reads_nothing_for_so_long_is_closed(place: Place) -> None:
    client = await place.client(get("/stream"), limit=1000)
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await until(lambda: place.app.held)
    (request,) = place.app.held
    request.on_gone = lambda: place.app.gone.append(b"gone")
    (connection,) = place.server.connections
    started = time.monotonic()
    while not connection._stalled:
        request.write(bytes(20_000))
        await asyncio.sleep(0)
    while not place.app.gone:
        assert time.monotonic() - started < 60
        request.write(b"little")
        await asyncio.sleep(0.01)
    assert time.monotonic() - started > 0.4


async def test_a_slow_reader_keeps_its_stream_though_more_comes_than_it_reads(place: Place) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket() as client:
        client.setblocking(False)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await loop.sock_connect(client, ("127.0.0.1", place.port))
        await loop.sock_sendall(client, get("/stream"))
        await until(lambda: place.app.held)
        (request,) = place.app.held
        (connection,) = place.server.connections
        transport = connection._transport
        assert transport is not None
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        while not connection._stalled:
            request.write(bytes(4000))
            await asyncio.sleep(0)
        started, left = time.monotonic(), transport.get_write_buffer_size()
        while time.monotonic() - started < 1.3:  # more than twice what it may lie still
            request.write(bytes(8000))
            await loop.sock_recv(client, 4000)
            await asyncio.sleep(0.01)
        assert transport.get_write_buffer_size() > left
        assert place.app.gone == []


async def test_streams_leave_no_garbage(place: Place) -> None:
    for turn in range(20):
        client, request = await begun(place, get("/stream"))
        request.write(b"one")
        if turn % 2:
            request.end()
            await until(lambda one=request: one.answered)  # type: ignore[misc]
        client.close()
        await until(place.idle)
        place.app.held.clear()
        del request
    place.app.begun.clear()
    del client
    gc.collect()
    assert not [one for one in gc.get_objects() if type(one) is Request]


async def test_a_large_last_part_is_no_sign_of_a_slow_reader(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "MAX_UNREAD", 10_000)
    client, request = await begun(place, get("/stream"))
    large = bytes(30_000_000)  # more than the system's own buffers take
    request.write(large)
    request.end()
    await head(client)
    async with asyncio.timeout(60):
        assert int(await client.reader.readuntil(b"\r\n"), 16) == len(large)
        assert await client.reader.readexactly(len(large)) == large
    assert place.app.gone == []

"""HTTP/1.1 by hand-written bytes: what a request is, and what becomes of clients that lie, drip, flood or do not read."""

from __future__ import annotations

import asyncio
import gc
import random
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from openmaas.core.errors import InvalidInput, OpenMaaSError, Unauthenticated
from openmaas.gateway import http
from openmaas.gateway.http import HttpServer, Request

OK = b"HTTP/1.1 200 OK\r\n"


class App:
    """Answers by the target. /later is held until the test answers it; everything that happens is written down."""

    def __init__(self) -> None:
        self.begun: list[Request] = []
        self.held: list[Request] = []
        self.gone: list[bytes] = []
        self.late: list[bytes] = []
        self.refused: list[tuple[int, str]] = []
        self.parts = 0
        self.ran = 0
        self.max_body = 1_000_000
        self.answer = b""

    def begin(self, request: Request) -> None:
        self.begun.append(request)
        if request.target == b"/no":
            raise Unauthenticated("no")
        if request.target != b"/small":
            request.max_body = self.max_body
        request.on_part = self.part
        request.on_gone = lambda: self.gone.append(request.target)

    def part(self, size: int) -> None:
        self.parts += size
        if self.parts > 500_000:
            raise InvalidInput("too many parts")

    def run(self, request: Request) -> None:
        self.ran += 1
        if request.target.startswith(b"/later"):
            self.held.append(request)
            request.deadline = asyncio.get_running_loop().time() + 0.1 if request.target == b"/later-late" else 0.0
            request.on_late = lambda: self.time_over(request)
        elif request.target == b"/echo":
            request.answer(200, "", request.body)
        elif request.target == b"/headers":
            request.answer(200, "", b"|".join(name + b"=" + value for name, value in request.headers.items()))
        else:
            request.answer(200, "x-path: " + request.target.decode() + "\r\n", self.answer or b"hello")

    def time_over(self, request: Request) -> None:
        self.late.append(request.target)
        request.answer(504, "", b"late")

    def refuse(self, request: Request, error: OpenMaaSError) -> None:
        self.refused.append((error.status, error.code))
        request.answer(error.status, "", error.code.encode())


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answers(self, count: int, seconds: float = 60.0) -> list[tuple[int, bytes]]:
        """Status and body of so many answers."""
        found = []
        async with asyncio.timeout(seconds):
            for _ in range(count):
                head = await self.reader.readuntil(b"\r\n\r\n")
                size = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"content-length"))
                found.append((int(head.split()[1]), await self.reader.readexactly(size)))
        return found

    async def rest(self, seconds: float = 60.0) -> bytes:
        """Everything until the server closes."""
        async with asyncio.timeout(seconds):
            try:
                return await self.reader.read(-1)
            except ConnectionResetError:
                return b""

    def close(self) -> None:
        self.writer.transport.abort()


class Place:
    def __init__(self, server: HttpServer, app: App, port: int) -> None:
        self.server, self.app, self.port = server, app, port
        self.clients: list[Client] = []

    async def client(self, data: bytes = b"", limit: int = 64 * 1024) -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port, limit=limit))
        self.clients.append(client)
        client.send(data)
        return client

    async def ask(self, data: bytes) -> bytes:
        """All that comes back until the server closes."""
        return await (await self.client(data)).rest()

    def idle(self) -> bool:
        return not (self.server.connections or self.server.receiving or self.server.active or self.server.unread)


async def until(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    app = App()
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


def get(target: str = "/", *fields: str, version: str = "1.1") -> bytes:
    return "\r\n".join([f"GET {target} HTTP/{version}", "Host: a", *fields, "", ""]).encode()


def post(target: str, body: bytes, *fields: str, size: int | None = None) -> bytes:
    length = f"Content-Length: {len(body) if size is None else size}"
    return "\r\n".join([f"POST {target} HTTP/1.1", "Host: a", length, *fields, "", ""]).encode() + body


def chunked(target: str, *parts: bytes, end: bytes = b"0\r\n\r\n", method: str = "POST") -> bytes:
    head = f"{method} {target} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    return head + b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + end


# ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_request_and_its_answer(place: Place) -> None:
    client = await place.client(get("/a?b=c"))
    head = (await client.reader.readuntil(b"\r\n\r\n")).decode()
    assert head.startswith("HTTP/1.1 200 OK\r\ndate: ")
    assert "x-path: /a?b=c\r\n" in head
    assert "content-length: 5\r\n" in head
    assert "connection" not in head
    assert await client.reader.readexactly(5) == b"hello"


@pytest.mark.parametrize("body", [b"", b"x", bytes(range(256)) * 300])
async def test_bodies_arrive_whole(place: Place, body: bytes) -> None:
    client = await place.client(post("/echo", body) + chunked("/echo", *([body[:1], body[1:]] if len(body) > 1 else [])))
    answers = await client.answers(2)
    assert answers[0] == (200, body)
    assert answers[1] == (200, body if len(body) > 1 else b"")


async def test_one_connection_carries_many_requests(place: Place) -> None:
    client = await place.client()
    for n in range(50):
        client.send(post("/echo", b"%d" % n))
        assert await client.answers(1) == [(200, b"%d" % n)]


async def test_a_pipeline_is_answered_in_order(place: Place) -> None:
    client = await place.client(get("/later") + post("/echo", b"2") + get("/no") + get("/later") + post("/echo", b"5"))
    await until(lambda: place.app.held)
    await asyncio.sleep(0.02)
    assert len(place.app.held) == 1  # one at a time
    place.app.held[0].answer(200, "", b"1")
    assert await client.answers(3) == [(200, b"1"), (200, b"2"), (401, b"unauthenticated")]
    await until(lambda: len(place.app.held) == 2)
    place.app.held[1].answer(200, "", b"4")
    assert await client.answers(2) == [(200, b"4"), (200, b"5")]


async def test_a_long_pipeline_is_taken_in_portions(place: Place) -> None:
    client = await place.client(get("/later"))
    await until(lambda: place.app.held)
    for n in range(5000):
        client.send(post("/echo", b"%d" % n))
    await asyncio.sleep(0.1)
    (connection,) = place.server.connections
    assert len(connection._waiting) < 5000
    assert connection._paused
    place.app.held[0].answer(200, "", b"first")
    answers = await client.answers(5001, 10)
    assert answers[1:] == [(200, b"%d" % n) for n in range(5000)]


async def test_http_1_0_and_connection_close_end_the_connection(place: Place) -> None:
    assert (await place.ask(get(version="1.0"))).endswith(b"connection: close\r\n\r\nhello")
    assert (await place.ask(get("/", "Connection: close"))).endswith(b"connection: close\r\n\r\nhello")
    client = await place.client(get("/", "Connection: keep-alive", version="1.0") * 2)
    assert await client.answers(2) == [(200, b"hello")] * 2


async def test_head_has_the_length_and_no_body(place: Place) -> None:
    client = await place.client(get().replace(b"GET", b"HEAD") + get("/echo"))
    first = await client.reader.readuntil(b"\r\n\r\n")
    assert b"content-length: 5\r\n" in first
    assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(OK)


async def test_100_continue_is_said_once_the_head_is_accepted(place: Place) -> None:
    client = await place.client(post("/echo", b"", "Expect: 100-continue", size=3))
    assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send(b"abc")
    assert await client.answers(1) == [(200, b"abc")]
    client.send(post("/no", b"", "Expect: 100-continue", size=3))
    client.send(b"abc")
    assert await client.answers(1) == [(401, b"unauthenticated")]


async def test_headers_are_lower_case_and_joined_where_they_came_twice(place: Place) -> None:
    client = await place.client(get("/headers", "X-A: 1", "x-a: 2", "X-Odd: \xe4"))
    ((_, said),) = await client.answers(1)
    assert b"x-a=1, 2" in said
    assert "x-odd=\xe4".encode() in said


async def test_an_upgrade_is_answered_as_a_plain_request_and_ends_the_connection(place: Place) -> None:
    said = await place.ask(get("/", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"))
    assert said.startswith(OK)
    said = await place.ask(get("/no", "Connection: Upgrade", "Upgrade: websocket") + b"\x81\x05hello")
    assert said.startswith(b"HTTP/1.1 401 ")


# ── bytes that are no request ────────────────────────────────────────────────────────────────────────────────────────

MALFORMED = [
    b"\x00\x01\x02\r\n\r\n",
    b"GET\r\n\r\n",
    b"G" * 300,
    b"GET / HTTP/1.1\nbad header\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET /\xff HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
    b"GET / HTTP/1.1\r\nX: a\x00b\r\n\r\n",
    b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    b"POST / HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\na",
    b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    b"POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\na",
    b"POST / HTTP/1.1\r\nContent-Length: 0x1\r\n\r\na",
    b"POST / HTTP/1.1\r\nContent-Length: 1e1\r\n\r\n0123456789",
    b"POST / HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n",
    b"POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\nabc",
    b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
    b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabcd\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\na",
]


@pytest.mark.parametrize("data", MALFORMED)
async def test_what_is_no_request_is_answered_once_with_400_and_closed(place: Place, data: bytes) -> None:
    said = await place.ask(data)
    assert said.startswith(b"HTTP/1.1 400 "), said
    assert said.count(b"HTTP/1.1") == 1
    assert said.endswith(b"malformed_request")


@pytest.mark.parametrize("data", MALFORMED)
async def test_what_follows_a_request_and_is_none_does_not_take_its_answer(place: Place, data: bytes) -> None:
    client = await place.client(get("/later") + data)
    await until(lambda: place.app.held)
    place.app.held[0].answer(200, "", b"mine")
    assert (await client.answers(1)) == [(200, b"mine")]
    assert (await client.rest()).count(b"HTTP/1.1 2") == 0


async def test_random_bytes_never_hang_or_break_the_server(place: Place) -> None:
    source = random.Random(5)
    seeds = [
        get("/echo"),
        post("/echo", b"abc"),
        chunked("/echo", b"abc", b"d"),
        get("/no"),
        chunked("/no", b"x" * 100),
        get("/later"),
    ]
    for _ in range(150):
        data = bytearray(b"".join(source.choices(seeds, k=source.randint(1, 3))))
        for _ in range(source.randint(0, 3)):
            at = source.randrange(len(data))
            data[at : at + source.choice([0, 1, 4])] = source.randbytes(source.randint(0, 4))
        client = await place.client(bytes(data))
        await asyncio.sleep(0)
        if source.random() < 0.5:
            client.close()
    for client in place.clients:
        client.close()
    await until(place.idle)
    assert (await place.ask(get("/", "Connection: close"))).startswith(OK)


@pytest.mark.parametrize("step", [1, 2, 3, 7, 50])
async def test_requests_in_pieces_are_the_same_requests(place: Place, step: int) -> None:
    stream = post("/echo", b"abc", "X-A: b") + chunked("/echo", b"de", b"f") + get("/no") + get("/headers", "X-A: c", "X-A: d")
    client = await place.client()
    client.writer.transport.get_extra_info("socket").setsockopt(6, 1, 1)  # TCP_NODELAY
    for start in range(0, len(stream), step):
        client.send(stream[start : start + step])
        await asyncio.sleep(0)
    answers = await client.answers(4)
    assert [status for status, _ in answers] == [200, 200, 401, 200]
    assert [answers[0][1], answers[1][1]] == [b"abc", b"def"]
    assert b"x-a=c, d" in answers[3][1]


# ── too much ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_body_of_the_limit_passes_and_one_more_does_not(place: Place) -> None:
    place.app.max_body = 100_000
    client = await place.client(post("/echo", bytes(100_000)))
    assert await client.answers(1) == [(200, bytes(100_000))]
    assert await place.ask(post("/echo", b"", size=100_001)) != b""
    assert place.app.refused == [(413, "body_too_large")]
    said = await place.ask(chunked("/echo", *[bytes(10_000)] * 11))
    assert said.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in said
    assert place.app.held == []


async def test_a_request_that_needs_no_body_may_not_bring_a_large_one(place: Place) -> None:
    """Whoever asks, with a key or without: only what was admitted may fill memory."""
    assert (await place.ask(post("/small", b"", size=100_000))).startswith(b"HTTP/1.1 413 ")
    assert (await place.ask(chunked("/small", *[bytes(10_000)] * 10, method="GET"))).startswith(b"HTTP/1.1 413 ")
    client = await place.client(post("/small", bytes(1000)))
    assert (await client.answers(1))[0][0] == 200


async def test_a_growing_body_is_told_part_by_part_and_may_be_refused(place: Place) -> None:
    said = await place.ask(chunked("/echo", *[bytes(100_000)] * 6))
    assert said.startswith(b"HTTP/1.1 400 ")
    assert place.app.refused == [(400, "invalid_input")]


async def test_a_small_refused_body_is_read_and_the_connection_goes_on(place: Place) -> None:
    client = await place.client(post("/no", bytes(1000)) + get())
    assert await client.answers(2) == [(401, b"unauthenticated"), (200, b"hello")]


async def test_a_large_refused_body_is_answered_at_once_and_not_read(place: Place) -> None:
    client = await place.client(post("/no", bytes(100_000), size=10_000_000))
    assert await client.answers(1) == [(401, b"unauthenticated")]
    assert await client.rest() == b""


@pytest.mark.parametrize(
    "data",
    [
        b"GET /" + b"a" * 400_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"a" * 400_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 129 + b"\r\n",
        b"GET / HTTP/1.1\r\n" + b"".join(b"X%d: a\r\n" % n for n in range(20_000)) + b"\r\n",
    ],
)
async def test_a_head_that_is_too_large_is_refused(place: Place, data: bytes) -> None:
    assert (await place.ask(data)).endswith(b"head_too_large")
    assert place.app.begun == []


async def test_trailers_mean_nothing_and_are_bounded(place: Place) -> None:
    client = await place.client(chunked("/headers", b"x", end=b"0\r\nX-Late: 1\r\nAuthorization: 2\r\n\r\n"))
    ((status, said),) = await client.answers(1)
    assert status == 200
    assert b"late" not in said
    assert b"authorization" not in said
    for end in (b"0\r\n" + b"T: 1\r\n" * 200, b"0\r\nT: " + b"a" * 300_000, b"1;" + b"a" * 300_000 + b"\r\nx\r\n"):
        said = await place.ask(chunked("/echo", b"x", end=end))
        assert said.startswith((b"HTTP/1.1 413 ", b"HTTP/1.1 400 ")), said


async def test_many_equal_headers_cost_little(place: Place) -> None:
    begun = time.process_time()
    for _ in range(5):
        assert (await place.ask(b"GET / HTTP/1.1\r\n" + b"x:\r\n" * 15_000 + b"\r\n")).startswith(b"HTTP/1.1 413 ")
    assert time.process_time() - begun < 2.0


# ── too slow ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "start",
    [
        b"GET /",
        b"GET / HTTP/1.1\r\nHost",
        post("/echo", b"abc", size=100),
        chunked("/echo", b"a", end=b""),
        post("/no", b"a", size=100),
    ],
)
async def test_a_client_that_drips_is_closed(place: Place, start: bytes) -> None:
    client = await place.client(start)
    begun = time.monotonic()
    dripping = asyncio.create_task(drip(client))
    said = await client.rest()
    assert said.startswith(b"HTTP/1.1 408 ")
    assert 0.4 < time.monotonic() - begun < 20
    dripping.cancel()


async def drip(client: Client) -> None:
    while True:
        client.send(b"a")
        await asyncio.sleep(0.05)


async def test_a_slow_but_steady_client_is_not_closed(place: Place) -> None:
    client = await place.client(post("/echo", b"", size=200_000))
    for _ in range(20):  # 100 kB/s, for 2 s
        client.send(bytes(10_000))
        await asyncio.sleep(0.1)
    assert await client.answers(1) == [(200, bytes(200_000))]


async def test_a_dripping_request_behind_another_one_is_given_up(place: Place) -> None:
    client = await place.client(get("/later") + post("/echo", b"a", size=100))
    await until(lambda: place.app.gone == [b"/echo"])  # what it holds is given back
    place.app.held[0].answer(200, "", b"first")
    assert (await client.rest()).endswith(b"connection: close\r\n\r\nfirst")


async def test_a_request_s_time_is_over(place: Place) -> None:
    client = await place.client(get("/later-late"))
    begun = time.monotonic()
    assert await client.answers(1) == [(504, b"late")]
    assert 0.05 < time.monotonic() - begun < 20
    client.send(get())
    assert await client.answers(1) == [(200, b"hello")]


async def test_the_clock_goes_on_when_a_deadline_s_callback_fails(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    await place.client(get("/later-late"))
    await until(lambda: place.app.held)

    def broken() -> None:
        raise RuntimeError("broken")

    place.app.held[0].on_late = broken
    await asyncio.sleep(0.2)
    place.app.held[0].on_late = None
    client = await place.client(get("/later-late"))
    assert await client.answers(1) == [(504, b"late")]


# ── clients that do not read ─────────────────────────────────────────────────────────────────────────────────────────


async def test_who_does_not_read_gets_no_more_answers_made(place: Place) -> None:
    """Answers of 200 kB, asked for a thousand times by somebody who reads none of them."""
    place.app.answer = bytes(200_000)
    client = await place.client(limit=1000)
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    for _ in range(1000):
        client.send(get())
    await asyncio.sleep(0.2)
    assert place.app.ran < 200
    assert place.server.unread
    await until(lambda: not place.server.connections)


async def test_a_closing_connection_that_is_not_read_is_broken_in_the_end(place: Place) -> None:
    place.app.answer = bytes(30_000_000)
    client = await place.client(get("/", "Connection: close"), limit=1000)
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await until(lambda: place.server.unread)
    await until(lambda: not place.server.connections)


async def test_a_slow_reader_that_goes_on_reading_gets_everything(place: Place) -> None:
    place.app.answer = bytes(20_000_000)
    client = await place.client(get("/", "Connection: close"))
    total = 0
    begun = time.monotonic()
    while part := await client.reader.read(250_000):
        total += len(part)
        if time.monotonic() - begun < 1.5:  # longer than it may lie still
            await asyncio.sleep(0.05)
    assert total > 20_000_000


async def test_large_answers_pass(place: Place) -> None:
    place.app.answer = random.Random(1).randbytes(50 * 2**20)
    client = await place.client(get() + get())
    for status, body in await client.answers(2, 20):
        assert status == 200
        assert body == place.app.answer


# ── clients that leave ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_who_leaves_is_told_to_the_application_once(place: Place) -> None:
    client = await place.client(get("/later") + get("/later2") + post("/echo", b"a", size=10))
    await until(lambda: len(place.app.begun) == 3)
    client.close()
    await until(place.idle)
    assert sorted(place.app.gone) == [b"/echo", b"/later", b"/later2"]
    place.app.held[0].answer(200, "", b"nobody there")
    assert len(place.app.gone) == 3


async def test_a_body_cut_short_is_never_run(place: Place) -> None:
    for data in (
        post("/later", b"abc", size=10),
        chunked("/later", b"abc", end=b""),
        chunked("/later", b"abc", end=b"5\r\nde"),
    ):
        client = await place.client(data)
        client.writer.write_eof()
        assert await client.rest() == b""
    assert place.app.held == []
    assert place.app.gone == [b"/later"] * 3


async def test_requests_and_connections_leave_no_garbage(place: Place) -> None:
    for _ in range(30):
        client = await place.client(get("/later") + get() * 3)
        await until(lambda: place.app.held)
        if random.random() < 0.5:
            place.app.held.pop().answer(200, "", b"")
            await client.answers(4)
        client.close()
        await until(place.idle)
        place.app.held.clear()
    place.app.begun.clear()
    del client
    gc.collect()
    # By type(), not isinstance(): some libraries' objects answer the latter with a warning.
    assert not [one for one in gc.get_objects() if type(one) is Request]
    assert len([one for one in gc.get_objects() if type(one) is http.HttpConnection]) <= 1


# ── draining ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_draining_answers_what_was_asked_and_closes_each_connection(place: Place) -> None:
    busy = await place.client(get("/later"))
    idle = await place.client(get())
    sending = await place.client(post("/echo", b"a", size=2))
    assert await idle.answers(1) == [(200, b"hello")]
    await until(lambda: len(place.app.begun) == 3)
    drained = asyncio.create_task(place.server.drain(5))
    await asyncio.sleep(0.02)
    with pytest.raises(OSError):
        await place.client()
    idle.send(get())  # it had not heard yet
    sending.send(b"b")
    assert (await idle.rest()).endswith(b"connection: close\r\n\r\nhello")
    assert (await sending.rest()).endswith(b"connection: close\r\n\r\nab")
    assert not drained.done()
    place.app.held[0].answer(200, "", b"at last")
    assert (await busy.rest()).endswith(b"connection: close\r\n\r\nat last")
    assert await drained is True


async def test_draining_waits_until_answers_are_read(place: Place) -> None:
    place.app.answer = bytes(20_000_000)
    client = await place.client(get(), limit=1000)
    await until(lambda: place.app.begun)
    drained = asyncio.create_task(place.server.drain(5))
    await asyncio.sleep(0.1)
    assert not drained.done()
    assert len(await client.rest()) > 20_000_000
    assert await drained is True


async def test_draining_gives_up_after_its_time(place: Place) -> None:
    client = await place.client(get("/later"))
    await until(lambda: place.app.held)
    assert await place.server.drain(0.1) is False
    client.close()


async def test_idle_connections_are_closed_after_their_time(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http.connection, "_KEEP_ALIVE", 0.2)
    silent = await place.client()
    used = await place.client(get())
    assert await used.answers(1) == [(200, b"hello")]
    assert await silent.rest() == b""
    assert await used.rest() == b""

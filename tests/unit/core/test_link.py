"""The link over real unix sockets in one process: every call ends exactly once, whatever the other end does."""

from __future__ import annotations

import asyncio
import random
import ssl
import struct
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from openmaas.core import link as wire
from openmaas.core.errors import DeadlineExceeded, InvalidInput, LinkLost, OpenMaaSError, TooLarge, Unavailable
from openmaas.core.link import IncomingCall, Link, LinkServer, connect

_HEAD = struct.Struct("<IBIQ")
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def frame(kind: int, call_id: int, header: bytes = b"", payload: bytes = b"") -> bytes:
    return _HEAD.pack(13 + len(header) + len(payload), kind, len(header), call_id) + header + payload


@pytest.fixture
async def address() -> Any:
    with tempfile.TemporaryDirectory(prefix="oml-") as folder:
        yield f"unix:{folder}/a.sock"
        await asyncio.sleep(0.02)  # both ends of what was closed notice it


@asynccontextmanager
async def linked(
    address: str, handler: Callable[[IncomingCall], Any], **options: Any
) -> AsyncIterator[tuple[LinkServer, Link]]:
    server = LinkServer(handler, **options)
    await server.listen(address)
    link = await connect(address)
    await until(lambda: server.connections)
    try:
        yield server, link
    finally:
        link.abort()
        server.close()


@asynccontextmanager
async def raw_server(
    address: str, serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
) -> AsyncIterator[Link]:
    """A Link whose other end is written by hand, frame by frame."""

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_unix_server(once, address.removeprefix("unix:"))
    link = await connect(address)
    try:
        yield link
    finally:
        link.abort()
        server.close()


async def read_frame(reader: asyncio.StreamReader) -> tuple[int, int, bytes, bytes]:
    length, kind, header_size, call_id = _HEAD.unpack(await reader.readexactly(_HEAD.size))
    rest = await reader.readexactly(length - 13)
    return kind, call_id, rest[:header_size], rest[header_size:]


def echo(call: IncomingCall) -> None:
    call.answer(call.header, call.payload)


async def until(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.001)


# ── calls ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_many_calls_in_flight_get_their_own_answers_out_of_order(address: str) -> None:
    held: list[IncomingCall] = []

    def hold(call: IncomingCall) -> None:
        held.append(call)
        if len(held) == 500:
            random.Random(1).shuffle(held)
            for one in held:
                one.answer(b"h" + one.header, one.payload[::-1])

    async with linked(address, hold) as (_, link):
        answers = await asyncio.gather(*(link.call(str(n).encode(), bytes([n % 256, 7])) for n in range(500)))
        assert answers == [(b"h" + str(n).encode(), bytes([7, n % 256])) for n in range(500)]
        assert link.in_flight == 0


@pytest.mark.parametrize("size", [0, 1, 64 * 1024 - 1, 64 * 1024, 5 * 2**20])
async def test_payloads_of_any_size_arrive_as_they_were(address: str, size: int) -> None:
    payload = random.Random(size).randbytes(size)
    async with linked(address, echo) as (_, link):
        assert await link.call(b"head", payload) == (b"head", payload)


async def test_large_and_small_frames_of_one_turn_do_not_mix(address: str) -> None:
    sizes = [3, 200_000, 0, 70_000, 1, 1_000_000, 2]
    async with linked(address, echo) as (_, link):
        answers = await asyncio.gather(*(link.call(b"%d" % n, bytes([n]) * size) for n, size in enumerate(sizes)))
    assert [(head, len(body), set(body)) for head, body in answers] == [
        (b"%d" % n, size, {n} if size else set()) for n, size in enumerate(sizes)
    ]


async def test_an_error_reaches_the_caller_as_its_class(address: str) -> None:
    def refuse(call: IncomingCall) -> None:
        call.fail(Unavailable("full", code="queue_full", retry_after=3.0, next_step="wait"))

    async with linked(address, refuse) as (_, link):
        with pytest.raises(Unavailable, match="full") as caught:
            await link.call(b"x")
    assert (caught.value.code, caught.value.retry_after, caught.value.next_step) == ("queue_full", 3.0, "wait")


@pytest.mark.parametrize(
    ("raised", "seen"),
    [
        (InvalidInput("no"), InvalidInput),
        (DeadlineExceeded("late"), DeadlineExceeded),
        (ValueError("a bug"), OpenMaaSError),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), OpenMaaSError),
        (RecursionError(), OpenMaaSError),
    ],
)
async def test_what_a_handler_raises_ends_its_own_call_only(address: str, raised: Exception, seen: type) -> None:
    waiting: list[IncomingCall] = []

    def handler(call: IncomingCall) -> None:
        if call.header == b"bad":
            raise raised
        waiting.append(call)

    async with linked(address, handler) as (_, link):
        good = asyncio.create_task(link.call(b"good"))
        await until(lambda: waiting)
        with pytest.raises(seen) as caught:
            await link.call(b"bad")
        assert "a bug" not in str(caught.value)
        waiting[0].answer(b"fine")
        assert await good == (b"fine", b"")


async def test_a_call_ends_once_whatever_comes_later(address: str) -> None:
    def twice(call: IncomingCall) -> None:
        call.answer(b"first")
        call.answer(b"second")
        call.fail(Unavailable("third"))
        call.end()

    async with linked(address, twice) as (_, link):
        assert await link.call(b"a") == (b"first", b"")
        assert await link.call(b"b") == (b"first", b"")


# ── leaving early ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_cancelling_a_call_tells_the_other_end_and_forgets_it(address: str) -> None:
    calls: list[IncomingCall] = []
    cancelled: list[int] = []

    def hold(call: IncomingCall) -> None:
        call.on_cancel = lambda: cancelled.append(call.id)
        calls.append(call)

    async with linked(address, hold) as (server, link):
        tasks = [asyncio.create_task(link.call(b"x")) for _ in range(3)]
        await until(lambda: len(calls) == 3)
        tasks[1].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[1]
        assert link.in_flight == 2
        await until(lambda: cancelled)
        assert cancelled == [calls[1].id]
        assert calls[1].cancelled
        calls[1].answer(b"too late")  # dropped
        calls[0].answer(b"a")
        calls[2].answer(b"c")
        assert [(await tasks[0])[0], (await tasks[2])[0]] == [b"a", b"c"]
        (connection,) = server.connections
        assert connection.calls == {}


async def test_a_time_limit_around_a_call_leaves_nothing_behind(address: str) -> None:
    async with linked(address, lambda call: None) as (server, link):
        for _ in range(50):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(link.call(b"x"), 0.001)
        assert link.in_flight == 0
        (connection,) = server.connections
        await until(lambda: not connection.calls)


async def test_a_thousand_calls_are_cancelled_quickly(address: str) -> None:
    async with linked(address, lambda call: None) as (_, link):
        tasks = [asyncio.create_task(link.call(b"x")) for _ in range(5000)]
        await asyncio.sleep(0)
        begun = asyncio.get_running_loop().time()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert asyncio.get_running_loop().time() - begun < 3.0
        assert link.in_flight == 0


# ── streams ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_stream_yields_its_chunks_in_order_beside_plain_calls(address: str) -> None:
    tasks: set[asyncio.Task[None]] = set()

    def handler(call: IncomingCall) -> None:
        if call.header == b"stream":
            task = asyncio.create_task(produce(call))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        else:
            call.answer(b"plain")

    async def produce(call: IncomingCall) -> None:
        for n in range(100):
            await call.chunk(b"%d" % n)
            await asyncio.sleep(0)
        call.end()

    async with linked(address, handler) as (_, link):
        seen = []
        async for chunk in link.stream(b"stream"):
            seen.append(int(chunk))
            assert (await link.call(b"x"))[0] == b"plain"
        assert seen == list(range(100))
        assert link.in_flight == 0


async def test_a_stream_that_fails_in_the_middle_raises_after_its_chunks(address: str) -> None:
    async def produce(call: IncomingCall) -> None:
        await call.chunk(b"one")
        call.fail(DeadlineExceeded("over"))

    tasks = []
    async with linked(address, lambda call: tasks.append(asyncio.create_task(produce(call)))) as (_, link):
        seen = []
        with pytest.raises(DeadlineExceeded, match="over"):
            async for chunk in link.stream(b"s"):
                seen.append(chunk)  # noqa: PERF401 - what came before the error is looked at
        assert seen == [b"one"]


async def test_leaving_a_stream_stops_the_other_end(address: str) -> None:
    stopped = asyncio.Event()
    sent = 0

    async def produce(call: IncomingCall) -> None:
        nonlocal sent
        while not call.cancelled:
            await call.chunk(b"x")
            sent += 1
            await asyncio.sleep(0.001)
        stopped.set()

    tasks = []
    async with linked(address, lambda call: tasks.append(asyncio.create_task(produce(call)))) as (_, link):
        stream = link.stream(b"s")
        async for _chunk in stream:
            break
        await stream.aclose()  # type: ignore[attr-defined]
        await asyncio.wait_for(stopped.wait(), 60)
        count = sent
        await asyncio.sleep(0.02)
        assert sent == count
        assert link.in_flight == 0


async def test_a_writer_waits_for_a_slow_reader(address: str) -> None:
    """The other end reads nothing: the writer of chunks stops at the transport's limit, not at the end of memory."""
    sent = 0

    async def produce(call: IncomingCall) -> None:
        nonlocal sent
        for _ in range(1000):
            await call.chunk(bytes(256 * 1024))
            sent += 1
        call.end()

    tasks: list[asyncio.Task[None]] = []
    server = LinkServer(lambda call: tasks.append(asyncio.create_task(produce(call))))
    await server.listen(address)
    _, writer = await asyncio.open_unix_connection(address.removeprefix("unix:"), limit=64 * 1024)
    writer.write(frame(wire.CALL, 1))
    await asyncio.sleep(0.2)
    assert sent < 100  # what the socket itself holds, of 250 MiB
    writer.transport.abort()
    await asyncio.wait_for(tasks[0], 60)  # it ends when the connection breaks; what it still writes goes nowhere
    server.close()


# ── the connection breaks ────────────────────────────────────────────────────────────────────────────────────────────


async def test_every_call_and_stream_ends_with_link_lost_when_the_connection_breaks(address: str) -> None:
    calls: list[IncomingCall] = []
    cancelled: list[int] = []

    def hold(call: IncomingCall) -> None:
        call.on_cancel = lambda: cancelled.append(call.id)
        calls.append(call)

    async def consume(link: Link) -> None:
        async for _ in link.stream(b"s"):
            pass

    async with linked(address, hold) as (server, link):
        tasks = [asyncio.create_task(link.call(b"x")) for _ in range(100)]
        tasks += [asyncio.create_task(consume(link)) for _ in range(10)]  # type: ignore[list-item]
        await until(lambda: len(calls) == 110)
        (connection,) = server.connections
        connection.abort()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(result) for result in results} == {LinkLost}
        assert len({id(result) for result in results}) == 110  # no exception is shared between tasks
        assert link.closed
        assert link.in_flight == 0
        await until(lambda: len(cancelled) == 110)
        assert sorted(cancelled) == sorted(call.id for call in calls)
        with pytest.raises(LinkLost):
            await link.call(b"later")
        with pytest.raises(LinkLost):
            async for _ in link.stream(b"later"):
                pass


async def test_a_server_cancels_its_calls_when_the_caller_is_gone(address: str) -> None:
    calls: list[IncomingCall] = []
    async with linked(address, calls.append) as (server, link):
        task = asyncio.create_task(link.call(b"x"))
        await until(lambda: calls)
        link.abort()
        with pytest.raises(LinkLost):
            await task
        await until(lambda: calls[0].cancelled)
        await until(lambda: not server.connections)
        calls[0].answer(b"nobody there")


async def test_nobody_listens(address: str) -> None:
    with pytest.raises(LinkLost, match="Nothing listens"):
        await connect(address)
    with pytest.raises(InvalidInput, match="not a link address"):
        await connect("http://x")
    with pytest.raises(InvalidInput, match="not a link address"):
        await connect("tcp:host")


# ── hostile or broken bytes ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "rubbish",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\xff" * 64,
        _HEAD.pack(2**32 - 1, wire.CALL, 0, 1),
        _HEAD.pack(13, wire.CALL, 5, 1),  # the header is longer than the frame
        _HEAD.pack(0, wire.CALL, 0, 1),  # shorter than its own head
        _HEAD.pack(1001, wire.CALL, 0, 1),  # one over the limit
    ],
)
async def test_rubbish_closes_that_connection_and_no_other(address: str, rubbish: bytes) -> None:
    async with linked(address, echo, max_frame=1000) as (_, link):
        reader, writer = await asyncio.open_unix_connection(address.removeprefix("unix:"))
        writer.write(rubbish)
        with suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(), 60) == b""
        writer.close()
        assert await link.call(b"x") == (b"x", b"")


async def test_random_bytes_never_hang_or_kill_the_server(address: str) -> None:
    source = random.Random(7)
    async with linked(address, echo, max_frame=10_000) as (server, link):
        for _ in range(100):
            _, writer = await asyncio.open_unix_connection(address.removeprefix("unix:"))
            for _ in range(source.randint(1, 4)):
                kind = source.randint(0, 12)
                writer.write(source.choice([source.randbytes(40), frame(kind, source.randint(0, 3), source.randbytes(5))]))
            await asyncio.sleep(0)
            writer.close()
        assert await link.call(b"x") == (b"x", b"")
        await until(lambda: len(server.connections) == 1)


async def test_a_frame_of_exactly_the_limit_passes_and_one_more_is_refused_before_it_is_sent(address: str) -> None:
    server = LinkServer(echo, max_frame=1000)
    await server.listen(address)
    link = await connect(address, max_frame=1000)
    assert await link.call(b"ab", bytes(1000 - 13 - 2)) == (b"ab", bytes(985))
    with pytest.raises(TooLarge, match="1000"):
        await link.call(b"ab", bytes(1000 - 13 - 1))
    with pytest.raises(TooLarge):
        async for _ in link.stream(b"ab", bytes(1000)):
            pass
    assert await link.call(b"x") == (b"x", b"")  # the connection lives
    link.close()
    server.close()


async def test_an_answer_over_the_limit_is_an_error_of_its_own_call(address: str) -> None:
    async with linked(address, lambda call: call.answer(b"", bytes(int(call.header))), max_frame=1000) as (_, link):
        with pytest.raises(TooLarge, match="do not fit"):
            await link.call(b"2000")
        assert await link.call(b"10") == (b"", bytes(10))


@pytest.mark.parametrize("step", [1, 2, 3, 16, 17, 18])
async def test_frames_that_are_split_anywhere_come_together_again(address: str, step: int) -> None:
    seen: list[tuple[bytes, bytes]] = []

    def collect(call: IncomingCall) -> None:
        seen.append((call.header, call.payload))
        call.answer(b"ok")

    frames = [(b"h%d" % n, b"p" * n) for n in range(6)]
    stream = b"".join(frame(wire.CALL, n + 1, header, payload) for n, (header, payload) in enumerate(frames))
    async with linked(address, collect):
        _, writer = await asyncio.open_unix_connection(address.removeprefix("unix:"))
        for start in range(0, len(stream), step):
            writer.write(stream[start : start + step])
            await asyncio.sleep(0)
        await until(lambda: len(seen) == 6)
        writer.close()
    assert seen == frames


async def test_two_frames_cut_at_every_boundary(address: str) -> None:
    """Fed to the protocol itself, so that each cut is exactly where it is meant."""
    stream = frame(wire.CALL, 1, b"head", b"payload") + frame(wire.CALL, 2, b"", b"") + frame(wire.CALL, 3, b"x", b"y" * 40)
    for first in range(len(stream) + 1):
        for second in range(first, len(stream) + 1, 7):
            seen: list[tuple[int, bytes, bytes]] = []
            server = LinkServer(lambda call, seen=seen: seen.append((call.id, call.header, call.payload)))  # type: ignore[misc]
            connection = wire.answering._Connection(server)
            for part in (stream[:first], stream[first:second], stream[second:]):
                if part:
                    connection.data_received(part)
            assert seen == [(1, b"head", b"payload"), (2, b"", b""), (3, b"x", b"y" * 40)], (first, second)


async def test_an_error_that_cannot_be_read_still_ends_its_call(address: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, first, _, _ = await read_frame(reader)
        _, second, _, _ = await read_frame(reader)
        writer.write(frame(wire.ERROR, first, b"\xc1 rubbish") + frame(wire.ANSWER, second, b"fine"))
        await reader.read()

    async with raw_server(address, serve) as link:
        results = await asyncio.gather(link.call(b"a"), link.call(b"b"), return_exceptions=True)
    assert isinstance(results[0], LinkLost)
    assert results[1] == (b"fine", b"")


async def test_frames_nobody_waits_for_are_dropped(address: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, call_id, _, _ = await read_frame(reader)
        for kind in (wire.ANSWER, wire.CHUNK, wire.END, wire.ERROR, wire.PONG, wire.CANCEL, 77):
            writer.write(frame(kind, 999, b"\xc1"))
        writer.write(frame(wire.ANSWER, call_id, b"mine") + frame(wire.ANSWER, call_id, b"again"))
        await reader.read()

    async with raw_server(address, serve) as link:
        assert await link.call(b"a") == (b"mine", b"")
        assert link.in_flight == 0


async def test_a_chunk_where_an_answer_was_due_ends_the_call(address: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, call_id, _, _ = await read_frame(reader)
        writer.write(frame(wire.CHUNK, call_id, b"", b"x"))
        await reader.read()

    async with raw_server(address, serve) as link:
        with pytest.raises(LinkLost, match="kind 3"):
            await link.call(b"a")


# ── health and draining ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_ping_brings_the_health(address: str) -> None:
    async with linked(address, echo, health=lambda: b"well") as (_, link):
        assert await link.ping() == (b"well", b"")


async def test_drain_lets_every_call_end_and_then_the_callers_leave(address: str) -> None:
    calls: list[IncomingCall] = []
    changes: list[bool] = []
    server = LinkServer(calls.append)
    await server.listen(address)
    link = await connect(address, on_change=lambda link: changes.append(link.draining))
    tasks = [asyncio.create_task(link.call(b"%d" % n)) for n in range(20)]
    await until(lambda: len(calls) == 20)
    drained = asyncio.create_task(server.drain(5))
    await until(lambda: link.draining)
    assert changes[0] is True
    late = asyncio.create_task(link.call(b"late"))  # sent before its caller had heard: it still gets its answer
    await until(lambda: len(calls) == 21)
    assert not drained.done()
    for call in calls:
        call.answer(call.header)
    assert [(await task)[0] for task in tasks] == [b"%d" % n for n in range(20)]
    assert (await late)[0] == b"late"
    assert await asyncio.wait_for(drained, 60) is True
    assert link.closed
    server.close()


async def test_drain_waits_for_streams_and_cancelled_calls_too(address: str) -> None:
    calls: list[IncomingCall] = []
    server = LinkServer(calls.append)
    await server.listen(address)
    link = await connect(address)
    task = asyncio.create_task(link.call(b"x"))
    stream = link.stream(b"s")
    first = asyncio.ensure_future(anext(stream))
    await until(lambda: len(calls) == 2)
    drained = asyncio.create_task(server.drain(5))
    await until(lambda: link.draining)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    await calls[1].chunk(b"one")
    assert await first == b"one"
    await asyncio.sleep(0.01)
    assert not drained.done()
    calls[1].end()
    assert [chunk async for chunk in stream] == []
    assert await asyncio.wait_for(drained, 60) is True
    server.close()


async def test_drain_gives_up_after_its_time_and_says_so(address: str) -> None:
    async with linked(address, lambda call: None) as (server, link):
        task = asyncio.create_task(link.call(b"x"))
        await until(lambda: any(connection.calls for connection in server.connections))
        assert await server.drain(0.05) is False
        server.close()
        with pytest.raises(LinkLost):
            await task


async def test_who_connects_to_a_draining_server_is_told_at_once(address: str) -> None:
    server = LinkServer(echo)
    await server.listen(address)
    first = await connect(address)
    hold = asyncio.ensure_future(anext(first.stream(b"")))
    await asyncio.sleep(0)
    server.draining = True
    second = await connect(address)
    await until(lambda: second.closed)  # nothing in flight: it leaves
    hold.cancel()
    first.abort()
    server.close()
    await asyncio.sleep(0)


# ── listening ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_socket_is_for_this_user_alone_and_goes_with_the_server(address: str) -> None:
    path = Path(address.removeprefix("unix:"))
    path.touch()  # left over
    async with linked(address, echo):
        assert path.is_socket()
        assert path.stat().st_mode & 0o777 == 0o600
    assert not path.exists()


async def test_a_socket_path_that_the_system_cannot_hold_is_refused_with_the_setting(address: str) -> None:
    with pytest.raises(TooLarge, match="OPENMAAS_RUNTIME_DIR"):
        await LinkServer(echo).listen("unix:/tmp/" + "x" * 100)


async def test_the_link_runs_over_tls(unused_tcp_port: int, tmp_path: Path) -> None:
    certificate, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=a", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    tasks = []

    async def produce(call: IncomingCall) -> None:
        for n in range(20):
            await call.chunk(bytes([n]) * 100_000)
        call.end()

    def handler(call: IncomingCall) -> None:
        if call.header == b"stream":
            tasks.append(asyncio.create_task(produce(call)))
        else:
            echo(call)

    server = LinkServer(handler)
    await server.listen(f"tcp:127.0.0.1:{unused_tcp_port}", tls=context)
    link = await connect(f"tcp:127.0.0.1:{unused_tcp_port}", tls=ssl.create_default_context(cafile=certificate))
    assert await link.call(b"h", bytes(3_000_000)) == (b"h", bytes(3_000_000))
    assert [chunk[0] async for chunk in link.stream(b"stream")] == list(range(20))
    assert await asyncio.gather(*(link.call(b"%d" % n) for n in range(100))) == [(b"%d" % n, b"") for n in range(100)]
    link.abort()
    server.close()
    await asyncio.sleep(0.05)


async def test_the_link_runs_over_tcp(unused_tcp_port: int) -> None:
    async with linked(f"tcp:127.0.0.1:{unused_tcp_port}", echo) as (_, link):
        assert await link.call(b"h", bytes(100_000)) == (b"h", bytes(100_000))

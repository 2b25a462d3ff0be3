"""Generation through the door: a body that names its deployment, answers in parts, and every way in which they can break."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from openmaas.core.contracts import Answer, encode
from openmaas.core.errors import EngineFailed, InvalidInput, Unavailable
from openmaas.core.keys import make_key
from openmaas.core.link import CHUNK, END, IncomingCall
from openmaas.gateway.http import connection as connection_module
from openmaas.protocols import openai
from openmaas.protocols.routes import parse_path
from tests.unit.gateway.doors import STREAM_HEAD, OpenDoor, opened
from tests.unit.gateway.replicas import until

NAMED = ["chat/completions", "completions", "responses", "embeddings", "tokenize", "detokenize"]
STREAMING = ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v2/models/writer/generate_stream"]
BODY = b'{"model":"writer"}'


@pytest.fixture
async def door() -> AsyncIterator[OpenDoor]:
    async with opened() as one:
        yield one


def speak(*parts: bytes) -> Any:
    """Work of a replica that says this, all at once."""

    def work(call: IncomingCall) -> None:
        for index, part in enumerate(parts):
            call.write(part, b"" if index else STREAM_HEAD)
        call.end()

    return work


def chunks(data: bytes) -> list[bytes]:
    """The chunks of a body, the last empty; nothing may be missing."""
    found = []
    while True:
        size, _, data = data.partition(b"\r\n")
        found.append(data[: int(size, 16)])
        assert data[len(found[-1]) :].startswith(b"\r\n")
        data = data[len(found[-1]) + 2 :]
        if not found[-1]:
            assert data == b""
            return found


# ── the body names the deployment ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", NAMED)
async def test_the_body_s_model_is_the_deployment(door: OpenDoor, path: str) -> None:
    one, two = await door.replica("a", 1), await door.replica("b", 2)
    one.work = two.work = lambda call: call.answer(encode(Answer()), call.payload)
    await door.follow(one, two, aliases={"champion": 2})
    async with door.http() as http:
        for model in ("writer", "writer:2", "writer@champion"):
            body = json.dumps({"input": "x" * 20, "model": model}).encode()
            answer = await http.post(f"/v1/{path}", content=body, headers={"x-request-id": "mine"})
            assert (answer.status_code, answer.content, answer.headers["x-request-id"]) == (200, body, "mine")
    asked = two.asked()
    assert asked.operation == parse_path(f"/v1/{path}").name
    assert (asked.deployment, asked.project, asked.request_id) == ("writer", "letters", "mine")
    assert len(two.calls) >= 2
    assert door.counted()[asked.operation, "writer", 200] == 3


async def test_generate_names_it_in_the_path(door: OpenDoor) -> None:
    one = await door.replica("a", 3)
    one.work = lambda call: call.answer(encode(Answer()), b"{}")
    await door.follow(one)
    async with door.http("admin") as http:
        for path in ("/v2/models/writer/generate", "/v2/models/writer/versions/3/generate", "/v2/models/writer%3A3/generate"):
            assert (await http.post(path, content=b"{}")).status_code == 200
            assert (one.asked().operation, one.asked().project) == ("generate", "default")  # the caller's own
        answer = await http.post("/v2/models/nobody/generate", content=b"{}")
        assert (answer.status_code, answer.json()["code"]) == (404, "deployment_not_found")
    async with door.http() as http:
        await door.follow(one, project="numbers")
        answer = await http.post("/v2/models/writer/generate", content=b"{}")
        assert (answer.status_code, answer.json()["code"]) == (403, "wrong_project")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b'{"model":"nobody"}', 404, "model_not_found"),
        (b'{"model":"writer:9"}', 404, "model_not_found"),
        (b'{"model":"writer@nobody"}', 404, "model_not_found"),
        (b'{"model":"' + b"x" * 50_000 + b'"}', 400, "out_of_range"),
        (b'{"model":""}', 400, "out_of_range"),
        (b'{"model":7}', 400, "missing_model"),
        (b"{}", 400, "missing_model"),
        (b"", 400, "invalid_json"),
        (b'{"model"', 400, "invalid_json"),
        (b"[1]", 400, "missing_model"),
        (b'{"model":"\xff"}', 400, "invalid_json"),
        (b"[" * 20_000, 400, None),
    ],
)
async def test_a_body_that_names_nothing_here_is_refused_in_openai_s_words(
    door: OpenDoor, body: bytes, status: int, code: str | None
) -> None:
    one = await door.replica("a")
    await door.follow(one)
    async with door.http() as http:
        answer = await http.post("/v1/chat/completions", content=body)
        error = answer.json()["error"]
        assert answer.status_code == status, answer.text
        assert set(error) >= {"message", "type", "param", "code"}
        assert code is None or error["code"] == code
        assert len(answer.content) < 1000
    assert one.calls == []


async def test_every_refusal_of_an_openai_route_is_in_its_words(door: OpenDoor) -> None:
    one = await door.replica("a")
    await door.follow(one, project="numbers")

    async def refused(path: str = "/v1/chat/completions", method: str = "POST", content: bytes = BODY, **headers: str) -> Any:
        async with door.http() as http:
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            answer = await http.request(method, path, content=content, headers=names)
        error = answer.json()["error"]
        assert set(error) >= {"message", "type", "param", "code"}
        assert error["request_id"] == answer.headers["x-request-id"]
        return answer.status_code, error["code"], answer.headers

    status, code, headers = await refused(authorization=f"Bearer {make_key()}")
    assert (status, code, headers["www-authenticate"]) == (401, "unknown_key", "Bearer")
    assert (await refused())[:2] == (403, "wrong_project")
    assert (await refused(method="GET", content=b""))[:2] == (405, "wrong_method")
    assert (await refused(content=bytes(100_001)))[:2] == (413, "body_too_large")
    assert (await refused(content=gzip.compress(BODY), content_encoding="gzip"))[:2] == (415, "coding_not_taken")
    assert (await refused(x_request_timeout="soon", content=b'{"model":"nobody"}'))[:2] == (404, "model_not_found")
    assert (await refused("/v1/models/nobody", "GET", b""))[:2] == (404, "model_not_found")
    door.gate._max_in_flight = 0
    status, code, headers = await refused()
    assert (status, code, headers["retry-after"]) == (503, "gateway_full", "1")
    door.gate._max_in_flight = 1
    said = await door.ask(door.request().replace(b"Content-Length: 18", b"Content-Length: 19"))
    assert said.startswith(b"HTTP/1.1 408 ")
    assert json.loads(said.partition(b"\r\n\r\n")[2])["error"]["code"] == "request_timeout"


async def test_a_body_that_is_read_here_is_bounded_by_itself(door: OpenDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much predictions may send."""
    one = await door.replica("a")
    await door.follow(one)
    monkeypatch.setattr(openai, "LIMITS", openai.Limits(max_body=1000))
    async with door.http() as http:

        async def pieces() -> AsyncIterator[bytes]:
            yield b'{"model":"writer","input":"'
            yield b"x" * 1000 + b'"}'

        for content in (b'{"model":"writer","input":"' + b"x" * 1000 + b'"}', pieces()):
            answer = await http.post("/v1/embeddings", content=content)
            assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
    assert one.calls == []


async def test_a_key_is_asked_for_before_the_body(door: OpenDoor) -> None:
    await door.follow(await door.replica("a"))
    said = await door.ask(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 90000\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 401 ")


async def test_identity_is_no_coding(door: OpenDoor) -> None:
    one = await door.replica("a")
    one.work = lambda call: call.answer(encode(Answer()), b"{}")
    await door.follow(one)
    async with door.http() as http:
        answer = await http.post("/v1/embeddings", content=BODY, headers={"content-encoding": "identity"})
        assert answer.status_code == 200


# ── streams ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def begun(door: OpenDoor, path: str = "/v1/chat/completions", *fields: str, version: str = "1.1") -> Any:
    """A held stream: reader, writer and the replica's end of the call."""
    (one,) = door.replicas or [await door.replica("a")]
    if not door.router._targets:
        await door.follow(one)
    count = len(one.calls)
    reader, writer = await door.connect(door.request(path, BODY, *fields, version=version))
    await until(lambda: len(one.calls) == count + 1)
    return reader, writer, one.calls[-1]


async def head(reader: asyncio.StreamReader) -> str:
    return (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)).decode()


async def part(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(60):
        size = int(await reader.readuntil(b"\r\n"), 16)
        return (await reader.readexactly(size + 2))[:-2]


@pytest.mark.parametrize("path", STREAMING)
async def test_each_part_goes_on_before_the_next_one_is_there(door: OpenDoor, path: str) -> None:
    reader, writer, call = await begun(door, path, "X-Request-ID: mine")
    call.write(b"data: 1\n\n", STREAM_HEAD)
    said = await head(reader)
    assert said.startswith("HTTP/1.1 200 OK\r\n")
    for line in (
        "content-type: text/event-stream",
        "x-request-id: mine",
        "cache-control: no-cache",
        "transfer-encoding: chunked",
    ):
        assert f"\r\n{line}\r\n" in said
    assert await part(reader) == b"data: 1\n\n"
    call.write(b"data: 2\n\n")
    assert await part(reader) == b"data: 2\n\n"
    call.write(b"data: 3\n\n")
    call.write(b"data: [DONE]\n\n")
    assert await part(reader) == b"data: 3\n\ndata: [DONE]\n\n"
    call.end()
    assert await part(reader) == b""
    route = parse_path(path).name
    assert door.counted() == {(route, "writer", 200): 1}
    assert door.gate.in_flight == 0
    writer.write(door.request(path))  # the connection goes on
    await until(lambda: len(door.replicas[0].calls) == 2)
    door.replicas[0].calls[1].answer(encode(Answer()), b"whole")
    assert "content-length: 5\r\n" in await head(reader)
    writer.close()


async def test_the_first_byte_s_time_is_counted(door: OpenDoor) -> None:
    reader, writer, call = await begun(door)
    call.write(b"x", STREAM_HEAD)
    await head(reader)
    text = door.metrics.expose(0, []).decode()
    assert 'openmaas_time_to_first_byte_seconds_count{deployment="writer"} 1.0' in text
    assert "openmaas_request_duration_seconds_count" not in text  # it has no end yet
    call.end()
    await until(lambda: door.counted())
    writer.close()


async def test_httpx_reads_a_stream(door: OpenDoor) -> None:
    one = await door.replica("a")
    one.work = speak(*(b"data: %d\n\n" % n for n in range(50)))
    await door.follow(one)
    async with door.http() as http, http.stream("POST", "/v1/completions", content=BODY) as answer:
        assert [line async for line in answer.aiter_lines() if line] == [f"data: {n}" for n in range(50)]


async def test_http_1_0_reads_a_stream(door: OpenDoor) -> None:
    one = await door.replica("a")
    one.work = speak(b"data: 1\n\n", b"data: 2\n\n")
    await door.follow(one)
    said = await door.ask(door.request(version="1.0"))
    assert said.endswith(b"connection: close\r\n\r\ndata: 1\n\ndata: 2\n\n")


async def test_requests_pipelined_behind_a_stream_get_their_answers(door: OpenDoor) -> None:
    one = await door.replica("a")

    def work(call: IncomingCall) -> None:
        if b"embed" in call.payload:
            call.answer(encode(Answer()), b"vectors")
        else:
            asyncio.get_running_loop().call_later(0.05, speak(b"a", b"b"), call)

    one.work = work
    await door.follow(one)
    said = await door.ask(
        door.request()
        + door.request("/v1/embeddings", b'{"model":"writer","input":"embed"}')
        + door.request("/v1/chat/completions", BODY, "Connection: close")
    )
    first, second, third = said.split(b"HTTP/1.1 200 OK\r\n")[1:]
    assert first.endswith(b"2\r\nab\r\n0\r\n\r\n")
    assert second.endswith(b"vectors")
    assert third.endswith(b"2\r\nab\r\n0\r\n\r\n")


async def test_two_hundred_streams_at_once_do_not_mix(door: OpenDoor) -> None:
    one = await door.replica("a")
    tasks = set()

    async def tell(call: IncomingCall) -> None:
        name = json.loads(call.payload)["user"]
        for n in range(20):
            call.write(f"data: {name} {n}\n\n".encode(), b"" if n else STREAM_HEAD)
            await asyncio.sleep(0)
        call.end()

    def work(call: IncomingCall) -> None:
        task = asyncio.create_task(tell(call))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    one.work = work
    await door.follow(one)

    async def read(name: str) -> None:
        body = json.dumps({"model": "writer", "user": name}).encode()
        said = await door.ask(door.request("/v1/chat/completions", body, "Connection: close"))
        text = b"".join(chunks(said.partition(b"\r\n\r\n")[2])).decode()
        assert text == "".join(f"data: {name} {n}\n\n" for n in range(20))

    await asyncio.gather(*(read(f"caller {n}") for n in range(200)))
    assert door.counted() == {("chat", "writer", 200): 200}


async def test_an_answer_that_is_whole_passes_on_a_streaming_route(door: OpenDoor) -> None:
    reader, writer, call = await begun(door)
    call.answer(encode(Answer()), b'{"id":1}')
    assert "content-length: 8\r\n" in await head(reader)
    writer.close()


# ── before the first part ────────────────────────────────────────────────────────────────────────────────────────────


async def test_before_the_first_part_an_error_is_a_plain_answer(door: OpenDoor) -> None:
    one = await door.replica("a")
    await door.follow(one)
    async with door.http() as http:
        one.error = InvalidInput("temperature is 9.", code="out_of_range", param="temperature")
        one.work = lambda call: call.fail(one.error)  # type: ignore[arg-type]
        answer = await http.post("/v1/chat/completions", content=BODY)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "temperature")
        one.error = Unavailable("The line is full.", code="queue_full", retry_after=2.3)
        answer = await http.post("/v1/chat/completions", content=BODY)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "3")
        one.work = lambda call: call.end()
        assert (await http.post("/v1/chat/completions", content=BODY)).status_code == 500  # neither head nor parts
        one.work = lambda call: call.write(b"x", b"\xc1 no head")
        answer = await http.post("/v1/chat/completions", content=BODY)
        assert (answer.status_code, answer.json()["error"]["type"]) == (500, "server_error")
        assert one.calls[-1].cancelled or await cancelled(one.calls[-1])


async def cancelled(call: IncomingCall) -> bool:
    await until(lambda: call.cancelled)
    return True


async def test_before_the_first_part_another_replica_is_tried_and_after_it_none(door: OpenDoor) -> None:
    one, two = await door.replica("a"), await door.replica("b")
    await door.follow(one, two)
    one.work = two.work = lambda call: call.fail(Unavailable("full", code="queue_full", retry_after=1))
    async with door.http() as http:
        assert (await http.post("/v1/chat/completions", content=BODY)).status_code == 503
        assert (len(one.calls), len(two.calls)) == (1, 1)

        def broken(call: IncomingCall) -> None:
            call.write(b"data: 1\n\n", STREAM_HEAD)
            call.fail(Unavailable("gone", code="replica_lost", retry_after=1))

        one.work = two.work = broken
        answer = await http.post("/v1/chat/completions", content=BODY)
        assert answer.status_code == 200
        assert answer.text.count("data:") == 2
        assert len(one.calls) + len(two.calls) == 3


async def test_a_replica_lost_before_the_first_part_is_replaced_by_another(door: OpenDoor) -> None:
    one, two = await door.replica("a"), await door.replica("b")
    await door.follow(one, two)
    two.work = one.work = lambda call: None
    reader, writer = await door.connect(door.request())
    await until(lambda: one.calls or two.calls)
    first, second = (one, two) if one.calls else (two, one)
    first.kill()
    await until(lambda: second.calls)
    speak(b"data: 1\n\n")(second.calls[0])
    assert (await head(reader)).startswith("HTTP/1.1 200 ")
    assert await part(reader) == b"data: 1\n\n"
    assert await part(reader) == b""
    writer.close()


# ── in the middle ────────────────────────────────────────────────────────────────────────────────────────────────────


def error_of(path: str, event: bytes) -> Any:
    """What the event of an error holds."""
    lines = event.decode().split("\n")
    assert lines[-2:] == ["", ""]
    said = json.loads(next(line for line in lines if line.startswith("data: "))[6:])
    if path.endswith("responses"):
        assert lines[0] == "event: error"
    return said["error"]


@pytest.mark.parametrize("path", STREAMING)
async def test_an_error_in_the_middle_is_one_event_and_the_end(door: OpenDoor, path: str) -> None:
    reader, writer, call = await begun(door, path)
    call.write(b"data: 1\n\n", STREAM_HEAD)
    call.fail(EngineFailed("The engine broke.", code="engine_broke"))
    await head(reader)
    said = await asyncio.wait_for(reader.read(), 60)  # and the connection is closed
    text = b"".join(chunks(said))
    assert text.startswith(b"data: 1\n\n")
    error = error_of(path, text[len(b"data: 1\n\n") :])
    assert "The engine broke." in str(error)
    assert b"[DONE]" not in text
    assert text.count(b"data:") == 2
    assert door.counted() == {(parse_path(path).name, "writer", 500): 1}
    writer.close()


async def test_a_replica_killed_in_the_middle_is_told_and_nobody_waits(door: OpenDoor) -> None:
    started = [await begun(door) for _ in range(20)]
    for _, _, call in started:
        call.write(b"data: 1\n\n", STREAM_HEAD)
    for reader, _, _ in started:
        await head(reader)
        assert await part(reader) == b"data: 1\n\n"
    begun_at = time.monotonic()
    door.replicas[0].kill()
    for reader, writer, _ in started:
        said = b"".join(chunks(await asyncio.wait_for(reader.read(), 60)))
        assert error_of("", said)["code"] == "replica_lost"
        writer.close()
    assert time.monotonic() - begun_at < 20
    assert door.counted() == {("chat", "writer", 503): 20}


async def test_the_deadline_in_the_middle(door: OpenDoor) -> None:
    reader, writer, call = await begun(door, "/v1/chat/completions", "X-Request-Timeout: 1")
    call.write(b"data: 1\n\n", STREAM_HEAD)
    await head(reader)
    assert await part(reader) == b"data: 1\n\n"
    said = b"".join(chunks(await asyncio.wait_for(reader.read(), 60)))
    assert error_of("", said)["code"] == "deadline_exceeded"
    await until(lambda: call.cancelled)
    assert door.counted() == {("chat", "writer", 504): 1}
    writer.close()


async def test_who_leaves_in_the_middle_is_not_worked_for(door: OpenDoor) -> None:
    reader, writer, call = await begun(door)
    _, _, other = await begun(door)
    call.write(b"data: 1\n\n", STREAM_HEAD)
    await head(reader)
    begun_at = time.monotonic()
    writer.close()
    await until(lambda: call.cancelled)
    assert time.monotonic() - begun_at < 5
    assert not other.cancelled
    other.answer(encode(Answer()), b"")
    await until(lambda: len(door.counted()) == 2)
    assert door.counted() == {("chat", "writer", 499): 1, ("chat", "writer", 200): 1}


async def test_who_leaves_before_the_first_part_is_not_worked_for(door: OpenDoor) -> None:
    _, writer, call = await begun(door)
    writer.close()
    await until(lambda: call.cancelled)
    call.write(b"too late", STREAM_HEAD)
    await asyncio.sleep(0.01)
    assert door.counted() == {("chat", "writer", 499): 1}


async def test_who_does_not_read_is_given_up_and_the_others_are_not(door: OpenDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "MAX_UNREAD", 100_000)
    _, writer, call = await begun(door)
    writer.transport.pause_reading()
    good, other, beside = await begun(door)
    beside.write(b"x", STREAM_HEAD)
    await head(good)
    written = 0
    while not call.cancelled:
        call.write(bytes(50_000), b"" if written else STREAM_HEAD)
        beside.write(b"tick")
        written += 50_000
        assert written < 30_000_000  # the system's own buffers take some
        await asyncio.sleep(0)
    beside.write(b"last")
    beside.end()
    text = b""
    while piece := await part(good):
        text += piece
    assert text == b"x" + b"tick" * (written // 50_000) + b"last"
    assert door.counted() == {("chat", "writer", 499): 1, ("chat", "writer", 200): 1}
    writer.transport.abort()
    other.close()


async def test_a_gateway_that_stops_lets_streams_end_and_begins_none(door: OpenDoor) -> None:
    reader, writer, call = await begun(door)
    call.write(b"data: 1\n\n", STREAM_HEAD)
    await head(reader)
    idle, idle_writer = await door.connect(b"")
    await until(lambda: len(door.server.connections) == 2)
    door.pages.draining = True
    drained = asyncio.create_task(door.server.drain(5))
    idle_writer.write(door.request())
    said = (await asyncio.wait_for(idle.read(), 60)).decode()
    assert said.startswith("HTTP/1.1 503 ")
    assert "retry-after: 1\r\n" in said
    assert '"code":"stopping"' in said
    await asyncio.sleep(0.1)
    call.write(b"data: 2\n\n")
    call.end()
    assert b"".join(chunks(await asyncio.wait_for(reader.read(), 60))) == b"data: 1\n\ndata: 2\n\n"
    assert await drained is True
    writer.close()
    idle_writer.close()


async def test_a_stream_that_outlives_the_drain_is_broken_off_aloud(door: OpenDoor) -> None:
    reader, writer, call = await begun(door)
    call.write(b"data: 1\n\n", STREAM_HEAD)
    await head(reader)
    assert await part(reader) == b"data: 1\n\n"
    assert await door.server.drain(0.05) is False
    door.server.close()
    said = b"".join(chunks(await asyncio.wait_for(reader.read(), 60)))
    assert error_of("", said)["code"] == "stopping"
    writer.close()
    call.end()


async def test_streams_broken_in_every_way_leave_nothing_behind(door: OpenDoor) -> None:
    """Frames in any order, clients that leave at any moment: each request ends once, and its place is free."""
    one = await door.replica("a")
    await door.follow(one)
    turns = 0

    def work(call: IncomingCall) -> None:
        nonlocal turns
        turns += 1
        kind = turns % 5
        if kind != 1:
            call.write(b"data: 1\n\n", STREAM_HEAD)
        if kind == 2:
            call.fail(Unavailable("no", retry_after=1))
        elif kind == 3:
            call.answer(encode(Answer()), b"an answer after parts")
        elif kind == 4:
            call.connection.send(END, call.id)
            call.connection.send(CHUNK, call.id, b"", b"after the end")
            call.end()

    one.work = work

    async def client(number: int) -> None:
        _, writer = await door.connect(door.request())
        await asyncio.sleep(0.002 * (number % 10))
        writer.close()

    await asyncio.gather(*(client(n) for n in range(100)))
    await until(lambda: sum(door.counted().values()) >= turns and not door.server.active)
    assert sum(door.counted().values()) == turns
    assert door.gate.in_flight == 0

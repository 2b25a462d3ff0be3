"""Streams that are left, cut, stopped, slow and too many: each has one end, and nothing stays behind."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from statistics import median
from typing import Any

import httpx
import openai
import pytest

from tests.acceptance.conftest import Server, alive, make_server, stop_all
from tests.acceptance.generators import (
    HELLO,
    Tokens,
    async_client_of,
    client_of,
    count,
    http_of,
    idle,
    resident,
    wait_until,
    write_dummy,
)

pytestmark = pytest.mark.timeout(400)
DELAY = 0.01  # seconds a token
_MIB = 2**20


@pytest.fixture(scope="module")
def tokens() -> Tokens:
    return Tokens()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tokens: Tokens) -> Iterator[Server]:
    """`ticker` says its prompt again, a token each 10 ms; it has two versions."""
    folder = tmp_path_factory.mktemp("dummies")
    server = make_server(tmp_path_factory.mktemp("home"), hold_timeout=20, body_timeout=4, hang_timeout=3, drain_timeout=3)
    server.up()
    client = server.client()
    client.push(write_dummy(folder / "1", tokens, token_delay=DELAY), name="ticker")
    client.push(write_dummy(folder / "2", tokens, token_delay=DELAY, note=2), name="ticker")
    client.deploy("ticker:1")
    yield server
    stop_all(server)


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with client_of(server) as one:
        yield one


def asked(tokens: Tokens, max_tokens: int, letter: str = "a", **more: Any) -> dict[str, Any]:
    """A stream in which each token is one character, so that text can be counted."""
    body = {"model": "ticker", "prompt": [tokens.id(letter)], "max_tokens": max_tokens, "temperature": 0, "stream": True}
    return body | more


def ended(server: Server, *reasons: str) -> float:
    """Answers of the ticker that have ended, of these reasons or of all."""
    wanted: list[dict[str, str]] = [{"finished_reason": reason} for reason in reasons] or [{}]
    return sum(count(server, "openmaas_request_success_total", model_name="ticker", **one) for one in wanted)


def pid_of(server: Server, deployment: str = "ticker") -> int:
    (replica,) = server.replicas(deployment)
    return int(replica["pid"])


def test_fifty_streams_that_come_and_go(server: Server, tokens: Tokens) -> None:
    """Some are read to their end, some are left at once or in the middle, some before anything of them has come."""
    before, generated = ended(server), count(server, "openmaas_generation_tokens_total", model_name="ticker")
    replica = pid_of(server)
    processes, memory = sorted(server.pids()), resident(replica)
    dice = random.Random(7)

    async def one(many: openai.AsyncOpenAI, number: int, reads: int) -> tuple[int, bool]:
        await asyncio.sleep(dice.random() * 0.5)
        got = 0
        stream = await many.completions.create(**asked(tokens, 60, "abc"[number % 3]))
        async with stream:
            async for chunk in stream:
                assert set(chunk.choices[0].text) <= {"abc"[number % 3]}, "of its own answer alone"
                got += len(chunk.choices[0].text)
                if got >= reads:
                    return got, False
        return got, True

    async def impatient(many: openai.AsyncOpenAI) -> tuple[int, bool]:
        """Asks for much in one piece, and leaves before it is there."""
        with pytest.raises(TimeoutError):
            whole = many.completions.create(**asked(tokens, 3000, stream=False))
            await asyncio.wait_for(whole, 0.2 + dice.random() * 0.3)
        return 0, False

    async def run() -> list[tuple[int, bool]]:
        async with async_client_of(server) as many:
            readers = [one(many, number, dice.choice((1, 5, 30, 1000))) for number in range(40)]
            return await asyncio.gather(*readers, *(impatient(many) for _ in range(10)))

    outcomes = asyncio.run(run())
    assert wait_until(lambda: idle(server, "ticker"), 60, "nobody works for callers who have left") < 15
    whole = [got for got, at_end in outcomes if at_end]
    assert len(whole) > 5
    assert set(whole) == {60}
    seen = sum(got for got, _ in outcomes)
    made = count(server, "openmaas_generation_tokens_total", model_name="ticker") - generated
    assert seen <= made < 50 * 60, "what the engine gave is counted, read or not; who left stops the work"
    # Who left before the gateway had their request is not among them.
    assert 40 <= ended(server) - before <= 50
    assert sorted(server.pids()) == processes
    assert resident(replica) - memory < 32 * _MIB


def test_a_killed_replica_ends_each_of_its_streams_with_one_error(
    server: Server, client: openai.OpenAI, tokens: Tokens
) -> None:
    streams: list[list[str]] = [[] for _ in range(8)]

    async def read(http: httpx.AsyncClient, lines: list[str]) -> None:
        async with http.stream("POST", "/v1/completions", json=asked(tokens, 4000)) as answer:
            assert answer.status_code == 200
            async for line in answer.aiter_lines():
                if line:
                    lines.append(line[6:])  # noqa: PERF401 (others look on while they come)

    async def drain(stream: Any) -> str | None:
        with pytest.raises(openai.APIError) as lost:
            async for _ in await stream:
                pass
        return lost.value.code

    async def run(victim: int) -> tuple[str | None, ...]:
        head = {"Authorization": f"Bearer {server.key}"}
        async with (
            async_client_of(server) as many,
            httpx.AsyncClient(base_url=server.gateway, headers=head, timeout=60, trust_env=False) as http,
        ):
            reading = asyncio.gather(*(read(http, lines) for lines in streams))
            draining = asyncio.gather(
                drain(many.chat.completions.create(model="ticker", messages=HELLO, max_tokens=4000, stream=True)),
                drain(many.responses.create(model="ticker", input="a", max_output_tokens=4000, stream=True)),
                drain(many.completions.create(**asked(tokens, 4000))),
            )
            running = partial(count, server, "openmaas_num_requests_running", model_name="ticker")
            await asyncio.to_thread(wait_until, lambda: running() == 11 and min(map(len, streams)) > 10)
            os.kill(victim, signal.SIGKILL)
            await asyncio.wait_for(reading, 30)
            return await asyncio.wait_for(draining, 30)

    failed = count(server, "openmaas_requests_total", deployment="ticker", status="503")
    codes = asyncio.run(run(pid_of(server)))
    for *parts, last in streams:
        assert "error" not in "".join(parts)
        error = json.loads(last)["error"]
        assert (error["code"], error["type"]) == ("replica_lost", "server_error")
        assert error["message"]
    assert [*codes] == ["replica_lost"] * 3
    assert count(server, "openmaas_requests_total", deployment="ticker", status="503") == failed + 11
    # Who comes while it starts anew is held until it is there.
    assert client.completions.create(**asked(tokens, 3, stream=False)).choices[0].text == "aaa"
    wait_until(lambda: idle(server, "ticker"), what="idle again")


def test_an_answer_that_has_not_begun_is_made_elsewhere(server: Server, tokens: Tokens) -> None:
    server.client().deploy("ticker:1", name="pair", replicas=2)
    first, second = (int(replica["pid"]) for replica in server.replicas("pair"))

    async def run() -> list[str]:
        async with async_client_of(server) as many:
            whole = [many.completions.create(**asked(tokens, 80, model="pair", stream=False)) for _ in range(10)]
            answers = asyncio.gather(*whole)
            await asyncio.sleep(0.5)
            os.kill(first, signal.SIGKILL)
            return [answer.choices[0].text for answer in await answers]

    assert asyncio.run(run()) == ["a" * 80] * 10
    assert alive(second)
    server.client().undeploy("pair")


def test_a_stopped_replica_is_an_error_too(server: Server, client: openai.OpenAI, tokens: Tokens) -> None:
    """It says nothing more, neither does its connection break: hang_timeout (3 s here) decides."""
    victim = pid_of(server)
    stopped = 0.0
    with pytest.raises(openai.APIError) as lost:
        for number, _ in enumerate(client.completions.create(**asked(tokens, 3000))):
            if number == 10:
                os.kill(victim, signal.SIGSTOP)
                stopped = time.monotonic()
    assert lost.value.code == "replica_lost"
    assert time.monotonic() - stopped < 25
    assert client.completions.create(**asked(tokens, 3, stream=False)).choices[0].text == "aaa"
    assert not alive(victim)


def test_time_that_is_over_in_the_middle(server: Server, client: openai.OpenAI, tokens: Tokens) -> None:
    hurried = client.with_options(default_headers={"X-Request-Timeout": "0.6"})
    for _ in range(5):  # a busy machine may be late once
        got = 0
        begun = time.monotonic()
        with pytest.raises(openai.APIError) as late:
            for chunk in hurried.completions.create(**asked(tokens, 3000)):
                got += len(chunk.choices[0].text)
        took = time.monotonic() - begun
        assert late.value.code == "deadline_exceeded"
        assert took > 0.5
        assert got < 70
        if got > 10 and took < 2:
            break
    else:
        raise AssertionError((got, took))
    with pytest.raises(openai.InternalServerError) as late:
        hurried.completions.create(**asked(tokens, 3000, stream=False))
    assert late.value.code == "deadline_exceeded"
    assert late.value.status_code == 504
    wait_until(lambda: idle(server, "ticker"), 20, "the engine has let go of both")


def test_a_full_line_refuses_at_once_and_says_when_to_come_back(server: Server, client: openai.OpenAI, tokens: Tokens) -> None:
    server.client().deploy("ticker:1", name="few", max_batch=2, max_queue=2)
    body = asked(tokens, 4000, model="few")
    running = [client.completions.create(**body) for _ in range(2)]
    assert all(next(iter(stream)).choices for stream in running)
    with http_of(server) as first, http_of(server) as second:
        # These two wait in the line: not even the head of their answers has come.
        waiting = [_open(one, server, body | {"max_tokens": 30}) for one in (first, second)]
        wait_until(lambda: count(server, "openmaas_num_requests_waiting", model_name="few") == 2, what="two wait")
        assert count(server, "openmaas_num_requests_running", model_name="few") == 2
        for stream in (False, True):
            begun = time.monotonic()
            with pytest.raises(openai.InternalServerError) as full:
                client.completions.create(**(body | {"stream": stream}))
            assert time.monotonic() - begun < 5, "a refusal does not wait for those who run"
            assert (full.value.status_code, full.value.code) == (503, "queue_full")
            assert 1 <= int(full.value.response.headers["retry-after"]) <= 60
        # The client's own retries come back when they are told to, and find room.
        for stream in running:
            stream.close()
        retrying = client.with_options(max_retries=4)
        assert retrying.completions.create(**asked(tokens, 3, model="few", stream=False)).choices[0].text == "aaa"
        for one in waiting:
            assert b"200 OK" in one.recv(4096), "those who waited are served now"
            one.close()
    wait_until(lambda: idle(server, "few"), 20, "idle")
    assert count(server, "openmaas_inference_request_failure_total", model="few", reason="REJECTED") >= 2
    server.client().undeploy("few")


def _open(http: httpx.Client, server: Server, body: dict[str, Any], path: str = "/v1/completions") -> socket.socket:
    """A request on a connection of its own, of whose answer nothing is read."""
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    one.settimeout(60)
    one.connect(("127.0.0.1", server.http_port))
    data = json.dumps(body).encode()
    head = [
        f"POST {path} HTTP/1.1",
        "Host: a",
        f"Authorization: {http.headers['authorization']}",
        f"Content-Length: {len(data)}",
    ]
    one.sendall("\r\n".join(head).encode() + b"\r\n\r\n" + data)
    return one


def _read_with_gaps(client: openai.OpenAI, tokens: Tokens) -> tuple[str, list[float]]:
    """A stream's text, and the seconds between its parts."""
    text, gaps, last = "", [], time.monotonic()
    for chunk in client.completions.create(**asked(tokens, 150)):
        text += chunk.choices[0].text
        gaps.append(time.monotonic() - last)
        last = time.monotonic()
    return text, gaps


def test_who_does_not_read_is_cut_off_and_slows_nobody(server: Server, client: openai.OpenAI, tokens: Tokens) -> None:
    gone = count(server, "openmaas_requests_total", route="chat", status="499")
    gateway = server.processes()["gateway-0"]
    memory = resident(gateway)
    text, alone = _read_with_gaps(client, tokens)
    assert text == "a" * 150
    with http_of(server) as http:
        # Twelve answers of which each token brings its twenty likeliest: three megabytes a second, and nobody reads them.
        much = {"messages": HELLO, "max_tokens": 4000, "n": 12, "logprobs": True, "top_logprobs": 20, "stream": True}
        lazy = _open(http, server, {"model": "ticker"} | much, "/v1/chat/completions")
        text, beside = _read_with_gaps(client, tokens)
        assert text == "a" * 150
        assert median(beside) < 0.05 + 4 * median(alone), "the others read on as ever"
        assert max(beside) < 3, "nobody waits until it is cut off, after 4 s"
        wait_until(lambda: count(server, "openmaas_requests_total", route="chat", status="499") == gone + 1, what="cut off")
        lazy.close()
    wait_until(lambda: idle(server, "ticker"), 20, "the engine works for them no more")
    assert resident(gateway) - memory < 48 * _MIB


def test_a_new_revision_lets_running_streams_end(server: Server, client: openai.OpenAI, tokens: Tokens) -> None:
    long = [client.completions.create(**asked(tokens, 250, letter)) for letter in "abc"]
    read = [next(iter(stream)) for stream in long]
    assert {chunk.system_fingerprint for chunk in read} == {"1"}
    server.client().deploy("ticker:2")
    new = client.completions.create(**asked(tokens, 5, stream=False))
    assert new.system_fingerprint == "2"
    for first, stream, letter in zip(read, long, "abc", strict=True):
        rest = list(stream)
        assert first.choices[0].text + "".join(chunk.choices[0].text for chunk in rest) == letter * 250
        assert {chunk.system_fingerprint for chunk in rest} == {"1"}, "no answer mixes versions"
    assert rest[-1].choices[0].finish_reason == "length"
    server.client().rollback("ticker")
    assert client.completions.create(**asked(tokens, 5, stream=False)).system_fingerprint == "1"
    wait_until(lambda: len(server.replicas("ticker")) == 1, what="the old replica is gone")


def test_a_server_that_is_told_to_stop(server: Server, client: openai.OpenAI, tokens: Tokens) -> None:
    """Streams that end within drain_timeout (3 s here) end as they would have; the others are told."""
    pids = server.pids()
    short = [client.completions.create(**asked(tokens, 120)) for _ in range(3)]
    long = [client.completions.create(**asked(tokens, 4000)) for _ in range(2)]
    begun = [next(iter(stream)).choices[0].text for stream in (*short, *long)]
    told = time.monotonic()
    os.kill(server.processes()["supervisor"], signal.SIGTERM)
    for first, stream in zip(begun, short, strict=False):
        assert first + "".join(chunk.choices[0].text for chunk in stream) == "a" * 120
    for stream in long:
        with pytest.raises(openai.APIError) as cut:
            for _ in stream:
                pass
        assert cut.value.code == "stopping"
    assert time.monotonic() - told < 25, "nobody waits for the long ones' end"
    wait_until(lambda: not any(alive(pid) for pid in pids), 60, "everything has stopped")
    server.up()
    wait_until(lambda: [one["state"] for one in server.replicas("ticker")] == ["ready"], what="all is as it was")
    assert client.completions.create(**asked(tokens, 3, stream=False)).choices[0].text == "aaa"


# ── anything goes ────────────────────────────────────────────────────────────────────────────────────────────────────


class Rubbish:
    """Random requests, about half of them invalid, about a fifth of them left by their caller."""

    def __init__(self, seed: int) -> None:
        self._dice = random.Random(seed)

    def request(self) -> tuple[str, bytes, float]:
        """Path, body, and after how many seconds the caller leaves, 0 for never."""
        dice = self._dice
        route, body = dice.choice((self._chat, self._completion, self._response, self._generate, self._tokenize))()
        for _ in range(dice.choice((0, 0, 1, 1, 2, 4))):
            body[dice.choice(_NAMES)] = dice.choice(_VALUES)
        data = json.dumps(body).encode()
        if dice.random() < 0.06:
            data = data[: dice.randrange(len(data))] + dice.choice((b"", b"\x00", b"\xff", b'"', b"}"))
        return route, data, dice.random() * 0.2 if dice.random() < 0.2 else 0.0

    def _chat(self) -> tuple[str, dict[str, Any]]:
        return "/v1/chat/completions", {"model": "ticker", "messages": HELLO, **self._common()}

    def _completion(self) -> tuple[str, dict[str, Any]]:
        prompt = self._dice.choice(("abc", "🙂" * 30, [5, 6, 7], ["a", "b"], [[9], [10, 11]], "x" * 30_000, [10**6]))
        return "/v1/completions", {"model": "ticker", "prompt": prompt, **self._common()}

    def _response(self) -> tuple[str, dict[str, Any]]:
        return "/v1/responses", {"model": "ticker", "input": "naïve", "max_output_tokens": 8, "stream": self._maybe()}

    def _generate(self) -> tuple[str, dict[str, Any]]:
        kind = "generate_stream" if self._maybe() else "generate"
        return f"/v2/models/ticker/{kind}", {"text_input": "模型", "parameters": {"max_tokens": 7}}

    def _tokenize(self) -> tuple[str, dict[str, Any]]:
        if self._maybe():
            return "/v1/tokenize", {"model": "ticker", "prompt": "a🙂" * self._dice.randrange(1000)}
        return "/v1/detokenize", {"model": "ticker", "tokens": [self._dice.randrange(-1, 700) for _ in range(50)]}

    def _common(self) -> dict[str, Any]:
        return {"max_tokens": self._dice.randrange(1, 20), "stream": self._maybe(), "n": self._dice.choice((1, 1, 2, 5))}

    def _maybe(self) -> bool:
        return self._dice.random() < 0.5


_NAMES = (
    "temperature", "top_p", "n", "max_tokens", "stop", "stream", "seed", "logprobs", "messages", "prompt", "model", "tools",
    "tool_choice", "response_format", "input", "text_input", "tokens", "stream_options", "top_logprobs", "best_of", "sead",
)  # fmt: skip
_VALUES: tuple[Any, ...] = (
    None, 0, 1, -1, 2, 3.5, 10**30, True, "", "a", "auto", "x" * 3000, [], [1], ["a"], [[]], {}, {"type": "json_object"},
    {"include_usage": True}, {"a": {"a": {"a": []}}}, [{"role": "user", "content": "hi"}], "ticker", "nobody",
)  # fmt: skip


@pytest.mark.parametrize("requests", [150, pytest.param(1000, marks=pytest.mark.slow)])
def test_anything_may_come(server: Server, client: openai.OpenAI, tokens: Tokens, requests: int) -> None:
    replica, gateway = pid_of(server), server.processes()["gateway-0"]
    rubbish = Rubbish(requests)
    outcomes = _send(server, [rubbish.request() for _ in range(50)])  # what grows with the first requests has grown
    wait_until(lambda: idle(server, "ticker"), 60, "idle")
    memory, answered = [resident(replica), resident(gateway)], count(server, "openmaas_requests_total") + 1
    outcomes = _send(server, [rubbish.request() for _ in range(requests)])
    wait_until(lambda: idle(server, "ticker"), 60, "idle")
    told = Counter(outcomes)
    assert sum(told.values()) == requests
    assert set(told) <= {"200", "400", "404", "left", "ended", "error event"}, told
    assert min(told["200"], told["ended"], told["400"], told["left"]) > requests // 50, told
    # Every one that the gateway saw has ended there too; who left may not have been seen. /metrics asks for itself.
    ended_there = count(server, "openmaas_requests_total") - answered
    assert requests - told["left"] <= ended_there
    assert pid_of(server) == replica, "it was never restarted"
    growth = [resident(replica) - memory[0], resident(gateway) - memory[1]]
    assert max(growth) < 24 * _MIB, growth
    assert client.completions.create(**asked(tokens, 4, stream=False)).choices[0].text == "aaaa"


def _send(server: Server, requests: list[tuple[str, bytes, float]]) -> list[str]:
    """What became of each, 20 at a time."""
    head = {"Authorization": f"Bearer {server.key}", "Content-Type": "application/json"}

    async def one(http: httpx.AsyncClient, room: asyncio.Semaphore, path: str, body: bytes, leaves: float) -> str:
        async with room:
            try:
                return await asyncio.wait_for(_outcome(http, path, body), leaves or 100)
            except TimeoutError:
                assert leaves, (path, body[:300], "has no end")
                return "left"

    async def run() -> list[str]:
        room = asyncio.Semaphore(20)
        async with httpx.AsyncClient(base_url=server.gateway, headers=head, timeout=120, trust_env=False) as http:
            return await asyncio.gather(*(one(http, room, *request) for request in requests))

    return asyncio.run(run())


async def _outcome(http: httpx.AsyncClient, path: str, body: bytes) -> str:
    async with http.stream("POST", path, content=body) as answer:
        whole = (await answer.aread()).decode()
    if answer.status_code != 200:
        assert json.loads(whole)["error"], whole
        return str(answer.status_code)
    if not answer.headers["content-type"].startswith("text/event-stream"):
        json.loads(whole)
        return "200"
    events = [line[6:] for line in whole.splitlines() if line.startswith("data: ")]
    if '"error":{' in events[-1]:
        return "error event"
    ends = {"/v1/responses": '"type":"response.', "/v2": '"usage":'}
    assert events[-1] == "[DONE]" or any(path.startswith(start) and end in events[-1] for start, end in ends.items()), events
    return "ended"

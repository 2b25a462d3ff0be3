"""Text through the real gateway from real replicas of the fake that generates, read by OpenAI's own client."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import httpx
import openai
import pytest

from tests.integration.gateway.plane import Plane, read_rest, wait_until
from tests.unit.replica.generation.writer import SIGNATURE, generator, write_files

Make = Callable[..., Plane]
HELLO: Any = [{"role": "user", "content": "hello"}]
DELAY = 0.01  # seconds a token


def start(plane: Plane, *identities: str, **options: Any) -> Plane:
    """A gateway and replicas whose answers repeat the prompt."""
    write_files(plane.folder)
    declared = generator(chat_template="chat_template.jinja", context=4096)
    plane.publish()
    for identity in identities:
        plane.replica(
            identity, signature=SIGNATURE, options={"token_delay": DELAY} | options, generator=declared, files=plane.folder
        )
    plane.start_gateway()
    plane.deploy("writer", *identities, aliases={"champion": 1}, created=1.7e9)
    plane.wait_ready("writer")
    return plane


@pytest.fixture(scope="module")
def writer() -> Iterator[Plane]:
    """Nobody breaks it."""
    one = Plane(body_timeout=1.0)
    try:
        yield start(one, "w-0")
    finally:
        one.close()


@pytest.fixture
def client(writer: Plane) -> Iterator[openai.OpenAI]:
    with openai_client(writer) as one:
        yield one


def openai_client(plane: Plane, **more: Any) -> openai.OpenAI:
    http = httpx.Client(timeout=60, trust_env=False)
    return openai.OpenAI(base_url=f"{plane.url}/v1", api_key=plane.key, http_client=http, **({"max_retries": 0} | more))


def stream_request(plane: Plane, max_tokens: int, *fields: str, prompt: str = "abc", version: str = "1.1") -> bytes:
    body = {"model": "writer", "prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "stream": True}
    encoded = json.dumps(body).encode()
    head = plane.head("POST /v1/completions", *fields, f"Content-Length: {len(encoded)}")
    return head.replace(b"HTTP/1.1", f"HTTP/{version}".encode()) + encoded


# ── OpenAI's client ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_chat_whole_and_in_parts(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="writer", messages=HELLO, max_tokens=30, temperature=0)
    assert (whole.model, whole.choices[0].finish_reason) == ("writer", "length")
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 30
    assert whole._request_id
    parts = []
    usage = None
    for chunk in client.chat.completions.create(
        model="writer@champion",
        messages=HELLO,
        max_tokens=30,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    ):
        if chunk.choices:
            parts.append(chunk.choices[0].delta.content or "")
        usage = chunk.usage or usage
    assert "".join(parts) == whole.choices[0].message.content
    assert len([part for part in parts if part]) > 3
    assert usage is not None
    assert usage.completion_tokens == 30


def test_parts_come_while_the_answer_is_made(client: openai.OpenAI) -> None:
    for _ in range(5):  # a busy machine may let the reader wait and give it many at once
        begun = time.monotonic()
        at = [
            time.monotonic() - begun
            for _ in client.completions.create(model="writer", prompt="abc", max_tokens=100, temperature=0, stream=True)
        ]
        assert at[-1] > 100 * DELAY
        if at[0] < 0.5 * at[-1] and len({round(one, 2) for one in at}) > 10:  # as they came, not in a lump
            return
    raise AssertionError(at)


def test_responses(client: openai.OpenAI) -> None:
    whole = client.responses.create(model="writer", input="hello", max_output_tokens=16, temperature=0)
    assert whole.output_text
    events = list(client.responses.create(model="writer", input="hello", max_output_tokens=16, temperature=0, stream=True))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == whole.output_text
    assert events[0].type == "response.created"


async def test_the_asynchronous_client_and_twenty_at_once(writer: Plane) -> None:
    async with openai.AsyncOpenAI(
        base_url=f"{writer.url}/v1",
        api_key=writer.key,
        max_retries=0,
        http_client=httpx.AsyncClient(timeout=60, trust_env=False),
    ) as client:

        async def one(prompt: str) -> str:
            stream = await client.completions.create(model="writer", prompt=prompt, max_tokens=24, temperature=0, stream=True)
            return "".join([chunk.choices[0].text async for chunk in stream if chunk.choices])

        prompts = [f"{n:03d}" for n in range(20)]
        assert await asyncio.gather(*(one(prompt) for prompt in prompts)) == [prompt * 8 for prompt in prompts]


def test_models(client: openai.OpenAI, writer: Plane) -> None:
    (model,) = client.models.list().data
    assert (model.id, model.object, model.created, model.owned_by) == ("writer", "model", 1_700_000_000, "default")
    assert client.models.retrieve("writer").id == "writer"
    assert writer.get("/v1/models").json()["models"] == ["writer"]


def test_errors_are_the_client_s_own(client: openai.OpenAI, writer: Plane) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="nobody", messages=HELLO)
    assert missing.value.code == "model_not_found"
    assert "openmaas deploy nobody" in missing.value.message
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")
    with pytest.raises(openai.BadRequestError) as wrong:
        client.chat.completions.create(model="writer", messages=HELLO, temperature=9, stream=True)
    assert wrong.value.param == "temperature"
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="sk-nobody").models.list()
    with pytest.raises(openai.InternalServerError) as late:
        client.with_options(default_headers={"X-Request-Timeout": "0.1"}).completions.create(
            model="writer", prompt="abc", max_tokens=200
        )
    assert late.value.code == "deadline_exceeded"
    with pytest.raises(openai.APIError) as cut:
        for _ in client.with_options(default_headers={"X-Request-Timeout": "0.3"}).completions.create(
            model="writer", prompt="abc", max_tokens=200, stream=True
        ):
            pass
    assert cut.value.code == "deadline_exceeded"


# ── other doors and clients ──────────────────────────────────────────────────────────────────────────────────────────


def test_tokens_and_generate(writer: Plane) -> None:
    with httpx.Client(base_url=writer.url, headers=writer.headers, timeout=60, trust_env=False) as http:
        tokens = http.post("/v1/tokenize", json={"model": "writer", "prompt": "abc"}).json()
        assert tokens["count"] == 3
        text = http.post("/v1/detokenize", json={"model": "writer", "tokens": tokens["tokens"]}).json()
        assert text["prompt"] == "abc"
        asked = {"text_input": "abc", "parameters": {"max_tokens": 6, "temperature": 0}}
        assert http.post("/v2/models/writer/generate", json=asked).json()["text_output"] == "abcabc"
        with http.stream("POST", "/v2/models/writer/generate_stream", json=asked) as answer:
            events = [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: ")]
        assert "".join(event["text_output"] for event in events) == "abcabc"
        refused = http.post("/v2/models/writer/infer", json={"inputs": []})
        assert (refused.status_code, refused.json()["code"]) == (400, "generates_text")
        refused = http.post("/v1/embeddings", json={"model": "writer", "input": "abc"})
        assert refused.status_code == 400
        assert refused.json()["error"]["code"]


def test_http_1_0_and_a_pipeline(writer: Plane) -> None:
    with writer.connect(stream_request(writer, 6, version="1.0")) as client:
        said = read_rest(client)
    assert b"transfer-encoding" not in said
    assert said.endswith(b"data: [DONE]\n\n")
    with writer.connect(stream_request(writer, 30) + stream_request(writer, 3, "Connection: close")) as client:
        said = read_rest(client)
    assert said.count(b"HTTP/1.1 200 OK") == 2
    assert said.count(b"data: [DONE]\n\n\r\n0\r\n\r\n") == 2


def test_two_hundred_streams_at_once(writer: Plane) -> None:
    clients = [writer.connect(stream_request(writer, 30, "Connection: close", prompt=f"{n:03d}")) for n in range(200)]
    for n, client in enumerate(clients):
        with client:
            client.settimeout(30)
            assert text_of(read_rest(client)) == f"{n:03d}" * 10
    assert writer.sample("openmaas_requests_in_flight") == 0


def text_of(said: bytes) -> str:
    """Of a stream of completions that went well."""
    events = [line[6:] for line in said.decode().splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]", events[-1]
    return "".join(json.loads(event)["choices"][0]["text"] for event in events[:-1])


def test_who_leaves_stops_the_work(writer: Plane) -> None:
    before = writer.sample("openmaas_request_success_total", finished_reason="cancelled")
    client = writer.connect(stream_request(writer, 3000))
    assert client.recv(1000).startswith(b"HTTP/1.1 200 OK")
    assert writer.sample("openmaas_num_requests_running") >= 1
    client.close()
    wait_until(lambda: writer.sample("openmaas_request_success_total", finished_reason="cancelled") == before + 1)
    assert writer.sample("openmaas_num_requests_running") == 0
    assert writer.sample("openmaas_requests_total", route="completions", status="499") >= 1


def test_who_does_not_read_is_given_up(make_plane: Make) -> None:
    """More than the system's own buffers take."""
    plane = start(make_plane(), "w-0", token_delay=0)
    body = b'{"model":"writer","prompt":"abc","max_tokens":3900,"n":16,"temperature":0,"logprobs":5,"stream":true}'
    with plane.connect(plane.head("POST /v1/completions", f"Content-Length: {len(body)}") + body):
        wait_until(lambda: plane.sample("openmaas_requests_total", route="completions", status="499") == 1, 40)
    assert plane.sample("openmaas_requests_in_flight") == 0
    wait_until(lambda: plane.sample("openmaas_num_requests_running") == 0)


def test_metrics_tell_of_tokens(writer: Plane) -> None:
    before = writer.sample("openmaas_generation_tokens_total", model_name="writer")
    with openai_client(writer) as client:
        client.completions.create(model="writer", prompt="abc", max_tokens=12, temperature=0)
    assert writer.sample("openmaas_generation_tokens_total", model_name="writer", version="1", replica="w-0") == before + 12
    assert writer.sample("openmaas_time_to_first_token_seconds_count", model_name="writer") >= 1
    assert writer.sample("openmaas_time_to_first_byte_seconds_count", deployment="writer") >= 1


# ── what breaks ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_replica_killed_in_the_middle_is_an_error_that_the_client_raises(make_plane: Make) -> None:
    plane = start(make_plane(), "w-0", "w-1")
    with openai_client(plane) as client:
        with pytest.raises(openai.APIError) as lost:
            for number, _ in enumerate(
                client.completions.create(model="writer", prompt="abc", max_tokens=3000, temperature=0, stream=True)
            ):
                if number == 5:
                    for identity in ("w-0", "w-1"):
                        if plane.sample("openmaas_num_requests_running", replica=identity):
                            plane.replicas[identity].signal(signal.SIGKILL)
        assert lost.value.code == "replica_lost"
        assert client.completions.create(model="writer", prompt="abc", max_tokens=3, temperature=0).choices[0].text == "abc"
    assert plane.sample("openmaas_requests_total", route="completions", status="503") == 1


def test_a_replica_that_hangs_in_the_middle_is_left(make_plane: Make) -> None:
    plane = start(make_plane(hang_timeout=1.0), "w-0")
    with plane.connect(stream_request(plane, 3000)) as client:
        begun = client.recv(1000)
        plane.replicas["w-0"].signal(signal.SIGSTOP)
        said = begun + read_rest(client)
        plane.replicas["w-0"].signal(signal.SIGCONT)
    assert b'"code":"replica_lost"' in said
    assert said.endswith(b"0\r\n\r\n")


def test_every_stream_has_one_end_while_replicas_are_killed(make_plane: Make) -> None:
    """Each is whole, or has exactly one error event as its last, or was refused before its first part."""
    plane = start(make_plane(hold_timeout=3.0), "w-0", "w-1", token_delay=0.005)
    ends: Counter[str] = Counter()
    stop = asyncio.Event()

    async def client(number: int) -> None:
        prompt = f"{number:03d}"
        while not stop.is_set():
            reader, writer = await asyncio.open_connection("127.0.0.1", plane.port)
            writer.write(stream_request(plane, 60, "Connection: close", prompt=prompt))
            said = await asyncio.wait_for(reader.read(), 60)
            writer.close()
            ends[end_of(said, prompt * 20)] += 1

    async def kill() -> None:
        for turn in range(6):
            identity = f"w-{turn % 2}"
            replica = plane.replicas[identity]
            running = partial(plane.sample, "openmaas_num_requests_running", replica=identity)
            await asyncio.to_thread(wait_until, running)
            await asyncio.sleep(0.4)
            replica.signal(signal.SIGKILL)
            replica.process.wait(60)
            replica.start()
        await asyncio.to_thread(wait_until, lambda: ends["whole"] > 10)
        stop.set()

    async def run() -> None:
        await asyncio.gather(kill(), *(client(n) for n in range(16)))

    asyncio.run(run())
    assert set(ends) <= {"whole", "replica_lost", "refused no_replica", "refused replica_lost"}, ends
    assert ends["replica_lost"] > 0
    assert plane.sample("openmaas_requests_in_flight") == 0
    assert plane.log.count("unexpected") == 0


def end_of(said: bytes, whole: str) -> str:
    head, _, body = said.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        return "refused " + str(json.loads(body)["error"]["code"])
    assert body.endswith(b"0\r\n\r\n"), body[-200:]
    events = [line[6:] for line in body.decode().splitlines() if line.startswith("data: ")]
    errors = [event for event in events if "error" in event]
    if not errors:
        assert text_of(said) == whole
        return "whole"
    assert errors == events[-1:]
    assert "[DONE]" not in events
    return str(json.loads(errors[0])["error"]["code"])


def test_a_gateway_that_is_told_to_stop_lets_streams_end(make_plane: Make) -> None:
    plane = start(make_plane(), "w-0")
    assert plane.gateway is not None
    clients = [plane.connect(stream_request(plane, 100)) for _ in range(5)]
    first = [client.recv(1000) for client in clients]
    plane.gateway.send_signal(signal.SIGTERM)
    for client, begun in zip(clients, first, strict=True):
        with client:
            assert text_of(begun + read_rest(client)) == ("abc" * 34)[:100]
    assert plane.gateway.wait(60) == 0


def test_a_stream_that_outlives_the_drain_is_told(make_plane: Make) -> None:
    plane = start(make_plane(drain_timeout=0.5), "w-0")
    assert plane.gateway is not None
    with plane.connect(stream_request(plane, 3000)) as client:
        begun = client.recv(1000)
        plane.gateway.send_signal(signal.SIGTERM)
        said = begun + read_rest(client)
    assert said.endswith(b"0\r\n\r\n")
    assert b'"code":"stopping"' in said
    assert b"[DONE]" not in said
    assert plane.gateway.wait(60) == 0

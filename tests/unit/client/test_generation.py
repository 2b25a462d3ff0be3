"""Chat through both clients, against a small server on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

import openmaas
from openmaas.core.errors import LimitReached, NotFound, OpenMaaSError, Unavailable
from tests.unit.client.chat_server import BREAK, WAIT, ChatServer, answer, chat_server, event, said


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with chat_server() as server:
        yield server


@pytest.fixture
def client(server: ChatServer) -> Iterator[openmaas.Client]:
    with openmaas.Client(server.url, gateway_url=server.url, api_key="omk_secret") as client:
        yield client


def async_client_of(server: ChatServer) -> openmaas.AsyncClient:
    return openmaas.AsyncClient(server.url, gateway_url=server.url)


def test_pieces_come_as_they_are_and_the_usage_at_the_end(server: ChatServer, client: openmaas.Client) -> None:
    server.pieces = answer("Grüße", ", ", "你好 🙂")
    with client.stream_chat("writer", "Hi", temperature=0.5, seed=7, stop=["x"]) as stream:
        assert list(stream) == ["Grüße", ", ", "你好 🙂"]
    assert (stream.text, stream.finish) == ("Grüße, 你好 🙂", "stop")
    assert (stream.usage.prompt_tokens, stream.usage.completion_tokens) == (9, 3)
    assert server.asked == [
        {
            "model": "writer",
            "messages": [{"role": "user", "content": "Hi"}],
            "temperature": 0.5,
            "seed": 7,
            "stop": ["x"],
            "stream": True,
            "stream_options": {"include_usage": True},
            "path": "/v1/chat/completions",
        }
    ]
    assert server.headers[0]["authorization"] == "Bearer omk_secret"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_chunks_may_be_cut_anywhere(server: ChatServer, client: openmaas.Client, size: int) -> None:
    whole = b": a comment\r\n\r\n" + b"".join(answer("Grü", "ße 🙂")).replace(b"\n", b"\r\n")
    server.pieces = [whole[start : start + size] for start in range(0, len(whole), size)]
    stream = client.stream_chat("writer", "Hi")
    assert "".join(stream) == "Grüße 🙂" and stream.usage.completion_tokens == 2


def test_a_connection_is_used_again_after_a_whole_stream(server: ChatServer, client: openmaas.Client) -> None:
    for _ in range(3):
        assert "".join(client.stream_chat("writer", "Hi")) == "Hello"
    assert len(server.connections) == 1


def test_who_leaves_closes_the_connection(server: ChatServer, client: openmaas.Client) -> None:
    server.pieces = [said("One"), WAIT, said("never")]
    with client.stream_chat("writer", "Hi") as stream:
        assert next(iter(stream)) == "One"
    assert server.left.wait(60)
    assert stream.text == "One"


def test_an_error_in_the_middle_is_raised_where_it_comes(server: ChatServer, client: openmaas.Client) -> None:
    error = {"message": "The replica ended.", "type": "server_error", "code": "replica_lost"}
    server.pieces = [said("One"), event(error=error)]
    stream = client.stream_chat("writer", "Hi")
    pieces = iter(stream)
    assert next(pieces) == "One"
    with pytest.raises(OpenMaaSError, match=r"The replica ended\.") as raised:
        next(pieces)
    assert raised.value.code == "replica_lost"


@pytest.mark.parametrize("pieces", [[said("One"), BREAK], [said("One")]])
def test_a_stream_that_breaks_off_is_no_answer(server: ChatServer, client: openmaas.Client, pieces: list[bytes]) -> None:
    server.pieces = pieces
    with pytest.raises(Unavailable):
        list(client.stream_chat("writer", "Hi"))


@pytest.mark.parametrize(("status", "kind"), [(404, NotFound), (429, LimitReached), (503, Unavailable)])
def test_a_refusal_is_an_error_of_ours(
    server: ChatServer, client: openmaas.Client, status: int, kind: type[OpenMaaSError]
) -> None:
    server.status = status
    server.body = json.dumps(
        {"error": {"message": "No.", "type": "x", "param": None, "code": "no", "request_id": "0f"}}
    ).encode()
    for asked in (lambda: list(client.stream_chat("w", "Hi")), lambda: client.chat("w", "Hi")):
        with pytest.raises(kind, match=r"No\.") as raised:
            asked()
        assert (raised.value.code, raised.value.request_id) == ("no", "0f")


def test_a_whole_answer(server: ChatServer, client: openmaas.Client) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": None, "tool_calls": [call]},
        "finish_reason": "tool_calls",
    }
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3, "prompt_tokens_details": {"cached_tokens": 0}}
    server.body = json.dumps({"id": "x", "choices": [choice], "usage": usage}).encode()
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    found = client.chat("writer", messages, max_tokens=5)
    assert (found.text, found.finish, found.tool_calls, found.usage.completion_tokens) == ("", "tool_calls", [call], 2)
    assert server.asked[0]["messages"] == messages and server.asked[0]["max_tokens"] == 5
    assert "stream" not in server.asked[0] and "temperature" not in server.asked[0]


async def test_asynchronous(server: ChatServer) -> None:
    server.pieces = answer("Hello", " you")
    async with async_client_of(server) as client:
        async with client.stream_chat("writer", "Hi", timeout=5) as stream:
            assert [piece async for piece in stream] == ["Hello", " you"]
        assert stream.usage.completion_tokens == 2
        assert server.headers[0]["x-request-timeout"] == "5.000000"
        server.status, server.body = 404, b'{"error": {"message": "No."}}'
        with pytest.raises(NotFound, match="No"):
            await client.chat("writer", "Hi")
        with pytest.raises(NotFound, match="No"):
            [piece async for piece in client.stream_chat("writer", "Hi")]


async def test_asynchronous_who_leaves_closes_the_connection(server: ChatServer) -> None:
    server.pieces = [said("One"), WAIT, said("never")]
    async with async_client_of(server) as client:
        async with client.stream_chat("writer", "Hi") as stream:
            async for piece in stream:
                assert piece == "One"
                break
        assert server.left.wait(60)

"""A real model through the real program, asked by OpenAI's unmodified client: a GGUF whose weights are random."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.acceptance.conftest import Server, make_server, stop_all
from tests.acceptance.generators import HELLO, async_client_of, client_of, count, http_of, idle, read_chat, wait_until

pytestmark = pytest.mark.timeout(300)
CONTEXT = 2048
SCHEMAS: dict[str, Any] = {
    "closed": {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}, "kind": {"enum": ["Größe", "模型", "🙂"]}},
        "required": ["ok", "kind"],
        "additionalProperties": False,
    },
    "nested": {
        "type": "object",
        "properties": {
            "points": {
                "type": "array",
                "minItems": 2,
                "maxItems": 3,
                "items": {
                    "type": "object",
                    "properties": {"x": {"type": "integer", "minimum": 0, "maximum": 99}, "seen": {"type": "boolean"}},
                    "required": ["x", "seen"],
                    "additionalProperties": False,
                },
            }
        },
        "required": ["points"],
        "additionalProperties": False,
    },
    "referring": {
        "$defs": {"side": {"enum": ["left", "right"]}},
        "type": "object",
        "properties": {"from": {"$ref": "#/$defs/side"}, "to": {"$ref": "#/$defs/side"}},
        "required": ["from", "to"],
        "additionalProperties": False,
    },
}
TOOLS: Any = [
    {"type": "function", "function": {"name": name, "description": "…", "parameters": SCHEMAS[name]}}
    for name in ("closed", "referring")
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = make_server(tmp_path_factory.mktemp("home"), hold_timeout=30)
    server.up()
    yield server
    stop_all(server)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The writer's folder, as its own library has it."""
    pytest.importorskip("torch")
    from tests.tiny_writer import make_writer

    return make_writer(tmp_path_factory.mktemp("writer"), context=CONTEXT)


@pytest.fixture(scope="module")
def writer(server: Server, folder: Path) -> str:
    """The same as one GGUF file, pushed and deployed."""
    pytest.importorskip("openvino_genai")
    from tests.tiny_gguf import write_gguf

    path = write_gguf(folder, folder.parent / "writer.gguf")
    server.run("push", str(path), "--name", "writer", timeout=280)
    info = server.json("deploy", "writer")
    assert (info["state"], info["engine"]["name"]) == ("ready", "openvino-genai")
    return "writer"


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with client_of(server) as one:
        yield one


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[httpx.Client]:
    with http_of(server) as one:
        yield one


def test_it_counts_and_reads_as_its_own_library(client: openai.OpenAI, http: httpx.Client, writer: str, folder: Path) -> None:
    """The prompt is to the token what transformers makes of the same conversation, and so is what usage says of it."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    talk: Any = [{"role": "system", "content": "Kurz!"}, *HELLO, {"role": "assistant", "content": "ja"}, *HELLO]
    expected = tokenizer.apply_chat_template(talk, add_generation_prompt=True, tokenize=True, return_dict=False)
    told = http.post("/v1/tokenize", json={"model": writer, "messages": talk}).json()
    assert told["tokens"] == expected
    assert told["max_model_len"] == CONTEXT
    assert http.post("/v1/detokenize", json={"model": writer, "tokens": expected}).json()["prompt"] == tokenizer.decode(
        expected, skip_special_tokens=True
    )
    usage = client.chat.completions.create(model=writer, messages=talk, max_tokens=9, temperature=0).usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (len(expected), 9, len(expected) + 9)


def test_whole_in_parts_and_twelve_at_once(client: openai.OpenAI, server: Server, writer: str) -> None:
    """Seeded, so that the same text comes every way; random weights write every kind of half a character."""
    chat: dict[str, Any] = {"model": writer, "messages": HELLO, "max_tokens": 60}
    texts = set()
    for seed in range(4):
        whole = client.chat.completions.create(**chat, seed=seed)
        stream = client.chat.completions.create(**chat, seed=seed, stream=True, stream_options={"include_usage": True})
        text, finish, usage = read_chat(stream)
        assert (text, finish, usage) == (whole.choices[0].message.content, whole.choices[0].finish_reason, whole.usage)
        texts.add(text)
    assert len(texts) == 4
    several = client.chat.completions.create(**chat, seed=1, n=3)
    assert len({choice.message.content for choice in several.choices}) == 3
    assert several.choices[0].message.content in texts
    plain = client.responses.create(model=writer, input=HELLO[0]["content"], max_output_tokens=60, extra_body={"seed": 0})
    assert plain.output_text in texts

    async def many() -> list[str]:
        async with async_client_of(server) as parallel:

            async def one() -> str:
                parts = await parallel.chat.completions.create(**chat, seed=2, stream=True)
                return "".join([part.choices[0].delta.content or "" async for part in parts])

            return await asyncio.gather(*(one() for _ in range(12)))

    assert set(asyncio.run(many())) <= texts


def test_stops_logprobs_and_ends(client: openai.OpenAI, writer: str) -> None:
    asked: dict[str, Any] = {"model": writer, "messages": HELLO, "seed": 3, "max_tokens": 60}
    text = client.chat.completions.create(**asked).choices[0].message.content or ""
    for start, end in ((5, 7), (len(text) // 2, len(text) // 2 + 3), (20, 21)):
        stop = text[start:end]
        whole = client.chat.completions.create(**asked, stop=stop).choices[0]
        assert (whole.message.content, whole.finish_reason) == (text[: text.find(stop)], "stop")
        assert read_chat(client.chat.completions.create(**asked, stop=[stop], stream=True))[:2] == (
            text[: text.find(stop)],
            "stop",
        )
    told = client.chat.completions.create(**asked, logprobs=True)
    assert told.choices[0].message.content == text
    assert told.usage is not None and told.choices[0].logprobs is not None and told.choices[0].logprobs.content is not None
    assert len(told.choices[0].logprobs.content) in (told.usage.completion_tokens, told.usage.completion_tokens - 1)
    assert all(-30 < one.logprob <= 0 for one in told.choices[0].logprobs.content)


def test_what_does_not_fit_and_what_it_cannot_do(client: openai.OpenAI, writer: str) -> None:
    with pytest.raises(openai.BadRequestError) as long:
        client.chat.completions.create(model=writer, messages=[{"role": "user", "content": "🙂模型 " * 1000}])
    assert long.value.code == "context_length_exceeded"
    assert f"{CONTEXT} tokens" in long.value.message
    for parameter in ("presence_penalty", "frequency_penalty"):
        with pytest.raises(openai.BadRequestError) as unable:
            client.chat.completions.create(model=writer, messages=HELLO, **{parameter: 0.5})  # type: ignore[call-overload]
        assert unable.value.param == parameter
        assert "openvino-genai" in unable.value.message
        neutral = client.chat.completions.create(model=writer, messages=HELLO, max_tokens=1, **{parameter: 0})  # type: ignore[call-overload]
        assert neutral.choices
    with pytest.raises(openai.BadRequestError) as unable:
        client.chat.completions.create(model=writer, messages=HELLO, logprobs=True, top_logprobs=2)
    assert unable.value.param == "top_logprobs"
    with pytest.raises(openai.BadRequestError) as unable:
        client.completions.create(model=writer, prompt="a", logprobs=2)
    assert unable.value.param == "logprobs"


# ── answers of a given form ──────────────────────────────────────────────────────────────────────────────────────────


def check_schema(name: str, text: str) -> None:
    """Every byte of it follows the schema: parsed, and each field as it says."""
    value = json.loads(text)
    if name == "closed":
        assert set(value) == {"ok", "kind"}
        assert isinstance(value["ok"], bool)
        assert value["kind"] in ("Größe", "模型", "🙂")
    elif name == "nested":
        assert set(value) == {"points"}
        assert 2 <= len(value["points"]) <= 3
        assert all(set(one) == {"x", "seen"} and one["x"] in range(100) for one in value["points"])
        assert all(isinstance(one["seen"], bool) for one in value["points"])
    else:
        assert set(value) == {"from", "to"}
        assert set(value.values()) <= {"left", "right"}


@pytest.mark.parametrize("name", SCHEMAS)
def test_answers_follow_a_schema(client: openai.OpenAI, writer: str, name: str) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": name, "schema": SCHEMAS[name], "strict": True}}
    asked: dict[str, Any] = {"model": writer, "messages": HELLO, "max_tokens": 400, "response_format": form}
    ended = 0
    for seed in range(3):
        whole = client.chat.completions.create(**asked, seed=seed).choices[0]
        text, finish, _ = read_chat(client.chat.completions.create(**asked, seed=seed, stream=True))
        assert (text, finish) == (whole.message.content, whole.finish_reason)
        if finish == "stop":
            ended += 1
            check_schema(name, text)
    assert ended, "random weights may write blanks without end, but not always"
    flat: Any = {"format": {"type": "json_schema", "name": name, "schema": SCHEMAS[name]}}
    response = client.responses.create(model=writer, input="a", text=flat, max_output_tokens=400, temperature=0)
    if response.status == "completed":
        check_schema(name, response.output_text)


def test_a_schema_that_cannot_be_followed_is_refused(client: openai.OpenAI, writer: str) -> None:
    accented = {"type": "object", "properties": {"Größe": {}}}
    share = {"type": "number", "minimum": 0, "maximum": 1}
    missing = {"type": "object", "required": ["a"]}
    for schema in ({"type": "wizard"}, {"$ref": "#/nowhere"}, {"type": "integer", "multipleOf": 7}, accented, share, missing):
        form: Any = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(model=writer, messages=HELLO, response_format=form, max_tokens=20)
    assert client.chat.completions.create(model=writer, messages=HELLO, max_tokens=3).choices, "it harmed nobody"


def test_a_tool_that_must_be_called(client: openai.OpenAI, writer: str) -> None:
    named: Any = {"type": "function", "function": {"name": "referring"}}
    called = 0
    for choice, names in (("required", {"closed", "referring"}), (named, {"referring"})):
        for seed in range(3):
            asked: dict[str, Any] = {"model": writer, "messages": HELLO, "tools": TOOLS, "tool_choice": choice, "seed": seed}
            whole = client.chat.completions.create(**asked, max_tokens=700).choices[0]
            streamed = [
                call.function
                for chunk in client.chat.completions.create(**asked, max_tokens=700, stream=True)
                for call in chunk.choices[0].delta.tool_calls or ()
            ]
            if whole.finish_reason == "length":
                continue
            called += 1
            assert whole.finish_reason == "tool_calls"
            assert whole.message.tool_calls is not None
            (call,) = whole.message.tool_calls
            assert call.type == "function"
            assert call.function.name in names
            check_schema(call.function.name, call.function.arguments)
            assert not whole.message.content
            assert [(one.name, one.arguments) for one in streamed if one] == [(call.function.name, call.function.arguments)]
    assert called > 2


def test_nothing_of_it_stays_behind(server: Server, client: openai.OpenAI, writer: str) -> None:
    asked: dict[str, Any] = {"model": writer, "messages": HELLO, "max_tokens": 400, "stream": True}
    streams = [client.chat.completions.create(**asked) for _ in range(20)]
    for number, stream in enumerate(streams):
        if number % 2:
            next(iter(stream))
        stream.close()
    wait_until(lambda: idle(server, writer), 60, "the engine has let go of all")
    made = count(server, "openmaas_generation_tokens_total", model_name=writer)
    assert client.chat.completions.create(model=writer, messages=HELLO, max_tokens=5, temperature=0).usage is not None
    assert count(server, "openmaas_generation_tokens_total", model_name=writer) - made == 5

"""OpenAI's unmodified client, and what else speaks HTTP, against the whole program with a dummy that says its prompt again.

The dummy's answers are known to the token, so everything around the engine is held to account: text, usage, ends, refusals.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import httpx
import openai
import pytest

from tests.acceptance.conftest import Server, make_server, stop_all
from tests.acceptance.generators import (
    CONTEXT,
    HELLO,
    Tokens,
    async_client_of,
    client_of,
    count,
    families,
    http_of,
    read_chat,
    write_dummy,
)
from tests.acceptance.refusals import CHAT_REFUSALS, OTHER_REFUSALS, RUBBISH, WEATHER

pytestmark = pytest.mark.timeout(300)
SAID = "Grüße 🙂🚀! 模型即服务，“naïve café”\n👩‍👩‍👧 ﷽ e\u0301 \U0001f1e9\U0001f1ea"
"""Characters of one to four bytes, and such as only look like one."""
CALLED = 'Ein Blick. <tool_call>\n{"name": "weather", "arguments": {"city": "Zürich", "days": 3}}\n</tool_call>'


@pytest.fixture(scope="module")
def tokens() -> Tokens:
    return Tokens()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tokens: Tokens) -> Iterator[Server]:
    """`echo` says its prompt again and again, `caller` calls a tool and ends."""
    folder = tmp_path_factory.mktemp("dummies")
    server = make_server(tmp_path_factory.mktemp("home"), hold_timeout=10)
    server.up()
    client = server.client()
    client.push(write_dummy(folder / "echo", tokens), name="echo")
    client.deploy("echo", wait=False)
    client.push(write_dummy(folder / "caller", tokens, text=tokens.of(CALLED)), name="caller")
    client.deploy("caller")
    client.deploy("echo")
    yield server
    stop_all(server)


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with client_of(server) as one:
        yield one


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[httpx.Client]:
    with http_of(server) as one:
        yield one


# ── what is served ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_models(client: openai.OpenAI) -> None:
    listed = client.models.list().data
    assert [model.id for model in listed] == ["caller", "echo"]
    assert all(model.created > 1.7e9 and model.owned_by == "default" for model in listed)
    assert client.models.retrieve("echo").id == "echo"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")


# ── the four ways to ask ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_chat_is_the_same_whole_in_parts_and_asynchronously(client: openai.OpenAI, server: Server) -> None:
    asked: dict[str, Any] = {"model": "echo", "messages": HELLO, "max_completion_tokens": 40, "temperature": 0}
    whole = client.chat.completions.create(**asked)
    (choice,) = whole.choices
    assert choice.message.content is not None
    assert choice.message.content.startswith("user\nnaïve 🙂 模型\nassistant\nuser\n")
    assert (choice.finish_reason, choice.message.role, whole.model) == ("length", "assistant", "echo")
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 40
    assert whole.usage.total_tokens == 40 + whole.usage.prompt_tokens

    stream = client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    text, finish, usage = read_chat(stream)
    assert (text, finish) == (choice.message.content, "length")
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (whole.usage.prompt_tokens, 40)
    with client.chat.completions.stream(model="caller", messages=HELLO) as helped:
        assert helped.get_final_completion().choices[0].message.content == CALLED

    async def ask_many() -> list[Any]:
        async with async_client_of(server) as many:

            async def one(number: int) -> Any:
                if number % 2:
                    return (await many.chat.completions.create(**asked)).choices[0].message.content
                parts = await many.chat.completions.create(**asked, stream=True)
                return "".join([part.choices[0].delta.content or "" async for part in parts])

            return await asyncio.gather(*[one(number) for number in range(24)])

    assert set(asyncio.run(ask_many())) == {text}


def test_a_stream_on_the_wire(http: httpx.Client) -> None:
    """Each chunk as the API has it: the role first, one reason at the end, usage only where it was asked for, then [DONE]."""
    asked = {"model": "echo", "messages": HELLO, "max_tokens": 6, "temperature": 0, "stream": True}
    for wanted in (False, True):
        with http.stream("POST", "/v1/chat/completions", json=asked | {"stream_options": {"include_usage": wanted}}) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            lines = [line for line in answer.iter_lines() if line]
        assert all(line.startswith("data: ") for line in lines)
        assert lines[-1] == "data: [DONE]"
        chunks = [json.loads(line[6:]) for line in lines[:-1]]
        assert len({(chunk["id"], chunk["object"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
        assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        if wanted:
            last = chunks.pop()
            assert last["choices"] == []
            assert last["usage"]["completion_tokens"] == 6
            assert all(chunk["usage"] is None for chunk in chunks)
        else:
            assert not any("usage" in chunk for chunk in chunks)
        reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
        assert reasons[-1] == "length"
        assert not any(reasons[:-1])


def test_completions(client: openai.OpenAI, tokens: Tokens) -> None:
    size = len(tokens.of(SAID))
    whole = client.completions.create(model="echo", prompt=SAID, max_tokens=size, temperature=0)
    assert whole.choices[0].text == SAID
    assert whole.usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (size, size)
    parts = list(client.completions.create(model="echo", prompt=SAID, max_tokens=size, temperature=0, stream=True))
    assert "".join(part.choices[0].text for part in parts) == SAID
    assert parts[-1].choices[0].finish_reason == "length"
    many = client.completions.create(
        model="echo", prompt=[tokens.of("abc"), tokens.of("模型")], n=2, max_tokens=4, temperature=0
    )
    assert [choice.index for choice in many.choices] == [0, 1, 2, 3]
    assert many.choices[0].text == many.choices[1].text
    assert many.choices[0].text.startswith("abc")
    assert many.choices[2].text.startswith("模型")
    assert client.completions.create(model="echo", prompt="ab", max_tokens=2, echo=True).choices[0].text.startswith("ab")
    assert len(tokens.of(client.completions.create(model="echo", prompt="abc " * 20).choices[0].text)) <= 16


def test_responses(client: openai.OpenAI, server: Server) -> None:
    asked: dict[str, Any] = {"model": "echo", "input": "naïve 🙂 模型", "max_output_tokens": 24, "temperature": 0}
    whole = client.responses.create(**asked)
    assert whole.output_text.startswith("user\nnaïve 🙂 模型\nassistant")
    assert whole.status == "incomplete"
    assert whole.incomplete_details is not None
    assert whole.incomplete_details.reason == "max_output_tokens"
    assert whole.usage is not None
    assert whole.usage.output_tokens == 24
    events = list(client.responses.create(**asked, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert (events[0].type, events[-1].type) == ("response.created", "response.incomplete")
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == whole.output_text
    chatted = client.chat.completions.create(model="echo", messages=HELLO, max_tokens=24, temperature=0)
    assert chatted.choices[0].message.content == whole.output_text
    told = client.responses.create(
        model="echo",
        instructions="Sei kurz.",
        input=[{"role": "user", "content": [{"type": "input_text", "text": "Grüße"}]}],
        temperature=0,
        max_output_tokens=30,
    )
    assert told.output_text.startswith("system\nSei kurz.\nuser\nGrüße\n")


def test_the_generate_extension(http: httpx.Client, tokens: Tokens) -> None:
    size = len(tokens.of(SAID))
    asked = {"text_input": SAID, "parameters": {"max_tokens": size, "temperature": 0}}
    whole = http.post("/v2/models/echo/generate", json=asked).raise_for_status().json()
    assert (whole["text_output"], whole["model_name"], whole["model_version"]) == (SAID, "echo", "1")
    with http.stream("POST", "/v2/models/echo/versions/1/generate_stream", json=asked) as answer:
        events = [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: ")]
    assert "".join(event["text_output"] for event in events) == SAID
    refused = http.post("/v2/models/echo/generate", json={"text_input": "a", "parameters": {"max_token": 3}})
    assert refused.status_code == 400
    assert "max_token" in refused.json()["error"]
    metadata = http.get("/v2/models/echo").json()
    assert [one["name"] for one in (*metadata["inputs"], *metadata["outputs"])] == ["text_input", "text_output"]


# ── tokens ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_tokens_are_counted_as_the_engine_counts_them(client: openai.OpenAI, http: httpx.Client, tokens: Tokens) -> None:
    for text in ("a", SAID, "<|im_start|>user", " \n\t "):
        told = http.post("/v1/tokenize", json={"model": "echo", "prompt": text, "return_token_strs": True}).json()
        assert told["tokens"] == tokens.of(text)
        assert (told["count"], told["max_model_len"]) == (len(told["tokens"]), CONTEXT)
        assert len(told["token_strs"]) == told["count"]
        usage = client.completions.create(model="echo", prompt=text, max_tokens=1).usage
        assert usage is not None
        assert usage.prompt_tokens == told["count"]
    back = http.post("/v1/detokenize", json={"model": "echo", "tokens": tokens.of(SAID)}).json()
    assert back == {"prompt": SAID}
    talk = [{"role": "system", "content": "Kurz!"}, *HELLO, {"role": "assistant", "content": "ja"}, *HELLO]
    told = http.post("/v1/tokenize", json={"model": "echo", "messages": talk, "tools": [WEATHER]}).json()
    whole = client.chat.completions.create(model="echo", messages=talk, tools=[WEATHER], max_tokens=3)
    assert whole.usage is not None
    assert whole.usage.prompt_tokens == told["count"]


def test_a_prompt_that_is_too_long_is_refused_with_both_numbers(client: openai.OpenAI, tokens: Tokens) -> None:
    for size, most in ((CONTEXT, None), (CONTEXT + 700, 5), (CONTEXT - 3, 4)):
        with pytest.raises(openai.BadRequestError) as refused:
            client.completions.create(model="echo", prompt=[tokens.id("a")] * size, max_tokens=most)
        assert refused.value.code == "context_length_exceeded"
        assert str(CONTEXT) in refused.value.message
        assert str(size) in refused.value.message
    fits = client.completions.create(model="echo", prompt=[tokens.id("a")] * (CONTEXT - 3), max_tokens=3)
    assert fits.choices[0].text == "aaa"
    with pytest.raises(openai.BadRequestError, match="at least"):
        client.completions.create(model="echo", prompt="🙂" * 200_000)
    unbounded = client.chat.completions.create(model="echo", messages=[{"role": "user", "content": "ab " * 1300}])
    assert unbounded.usage is not None
    assert unbounded.usage.total_tokens == CONTEXT


def test_every_character_comes_whole(client: openai.OpenAI, tokens: Tokens) -> None:
    """Each token is one byte: in a stream no part may hold a piece of a character."""
    pieces = tokens.bytes_of(SAID)
    asked: dict[str, Any] = {"model": "echo", "prompt": pieces, "max_tokens": len(pieces), "temperature": 0}
    parts = [part.choices[0].text for part in client.completions.create(**asked, stream=True)]
    assert "".join(parts) == SAID
    assert "\ufffd" not in SAID
    assert client.completions.create(**asked).choices[0].text == SAID
    cut = client.completions.create(**(asked | {"prompt": tokens.bytes_of("a🙂"), "max_tokens": 4}))
    assert cut.choices[0].text == "a\ufffd", "the end of its answer cut the character"


def test_ends(client: openai.OpenAI, tokens: Tokens) -> None:
    ended = client.chat.completions.create(model="caller", messages=HELLO)
    assert (ended.choices[0].finish_reason, ended.choices[0].message.content) == ("stop", CALLED)
    assert ended.usage is not None
    assert ended.usage.completion_tokens == len(tokens.of(CALLED)) + 1, "the token that ends it is one of the engine's"
    cut = client.chat.completions.create(model="caller", messages=HELLO, max_tokens=len(tokens.of(CALLED)))
    assert cut.choices[0].finish_reason == "length"
    stopped = client.chat.completions.create(model="caller", messages=HELLO, stop=[" <tool", "never"])
    assert (stopped.choices[0].finish_reason, stopped.choices[0].message.content) == ("stop", "Ein Blick.")


def test_stops_wherever_tokens_and_characters_part(client: openai.OpenAI, tokens: Tokens) -> None:
    """Every neighbourhood of characters, whole and in parts, over whole tokens and over single bytes."""
    text = "Grüße 🙂🚀! 模型即服务"
    stops = {text[start : start + size] for size in (1, 2, 3, 7) for start in range(0, len(text) - size + 1, 2)}
    for number, stop in enumerate(sorted(stops)):
        prompt = tokens.bytes_of(text) if number % 2 else tokens.of(text)
        asked: dict[str, Any] = {"model": "echo", "prompt": prompt, "max_tokens": 2 * len(prompt), "temperature": 0}
        expected = text[: text.find(stop)]
        whole = client.completions.create(**asked, stop=[stop, "|never|"])
        assert (whole.choices[0].text, whole.choices[0].finish_reason) == (expected, "stop"), stop
        parts = list(client.completions.create(**asked, stop=stop, stream=True))
        assert "".join(part.choices[0].text for part in parts) == expected, stop
        assert parts[-1].choices[0].finish_reason == "stop"
    # What only began like one is given back.
    near = client.completions.create(model="echo", prompt="abab", max_tokens=4, temperature=0, stop="ababX")
    assert near.choices[0].text == "abab"


# ── sampling ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_seeds_and_several_answers(client: openai.OpenAI) -> None:
    def said(seed: int | None, n: int = 1, **more: Any) -> list[str | None]:
        whole = client.chat.completions.create(model="echo", messages=HELLO, seed=seed, n=n, max_tokens=30, **more)
        assert [choice.index for choice in whole.choices] == list(range(n))
        return [choice.message.content for choice in whole.choices]

    first = said(5)
    assert said(5) == first
    assert said(6) != first
    assert said(5, n=3) == [*first, *said(6), *said(7)]
    assert said(5, temperature=0) == said(6, temperature=0)
    assert len({tuple(said(None)) for _ in range(8)}) > 1, "without a seed each answer has its own"
    texts = ["", "", ""]
    finishes = []
    usage = None
    stream = client.chat.completions.create(
        model="echo",
        messages=HELLO,
        seed=5,
        n=3,
        max_tokens=30,
        stream=True,
        stream_options={"include_usage": True},
    )
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            finishes += [choice.finish_reason] if choice.finish_reason else []
    assert texts == said(5, n=3)
    assert finishes == ["length"] * 3
    assert usage is not None
    assert usage.completion_tokens == 90


def test_logprobs(client: openai.OpenAI, tokens: Tokens) -> None:
    asked: dict[str, Any] = {"model": "echo", "temperature": 0, "max_tokens": 30}
    whole = client.chat.completions.create(**asked, messages=HELLO, logprobs=True, top_logprobs=3)
    told = whole.choices[0].logprobs
    assert told is not None and told.content is not None
    assert len(told.content) == 30
    said = b"".join(bytes(one.bytes or ()) for one in told.content if not one.token.startswith("<|"))
    assert said.decode(errors="replace") == whole.choices[0].message.content
    for one in told.content:
        assert len(one.top_logprobs) == 3
        assert one.top_logprobs[0].token == one.token
        assert all(better.logprob >= worse.logprob for better, worse in pairwise(one.top_logprobs))
        assert math.isclose(one.logprob, -0.25)
    streamed = [
        one
        for chunk in client.chat.completions.create(**asked, messages=HELLO, logprobs=True, top_logprobs=3, stream=True)
        if chunk.choices and chunk.choices[0].logprobs is not None
        for one in chunk.choices[0].logprobs.content or ()
    ]
    assert streamed == told.content
    old = client.completions.create(model="echo", prompt=SAID, max_tokens=12, temperature=0, logprobs=2).choices[0]
    assert old.logprobs is not None and old.logprobs.tokens is not None and old.logprobs.text_offset is not None
    assert len(old.logprobs.tokens) == len(old.logprobs.token_logprobs or ()) == len(old.logprobs.top_logprobs or ()) == 12
    assert old.logprobs.text_offset[0] == 0
    assert old.logprobs.text_offset == sorted(old.logprobs.text_offset)


# ── tools ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_calls_of_tools(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="caller", messages=HELLO, tools=[WEATHER]).choices[0]
    assert whole.finish_reason == "tool_calls"
    assert whole.message.tool_calls is not None
    (call,) = whole.message.tool_calls
    assert call.type == "function"
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Zürich", "days": 3})
    assert whole.message.content is not None
    assert whole.message.content.strip() == "Ein Blick."

    text, calls, finish = "", [], None
    for chunk in client.chat.completions.create(model="caller", messages=HELLO, tools=[WEATHER], stream=True):
        delta = chunk.choices[0].delta
        text += delta.content or ""
        calls += delta.tool_calls or []
        finish = chunk.choices[0].finish_reason or finish
    assert finish == "tool_calls"
    assert "tool_call" not in text
    ((index, function),) = [(one.index, one.function) for one in calls]
    assert index == 0
    assert function is not None
    assert json.loads(function.arguments or "")["city"] == "Zürich"

    silent = client.chat.completions.create(model="caller", messages=HELLO, tools=[WEATHER], tool_choice="none").choices[0]
    assert (silent.finish_reason, silent.message.content, silent.message.tool_calls) == ("stop", CALLED, None)

    flat: Any = {"type": "function", **WEATHER["function"], "strict": False}
    response = client.responses.create(model="caller", input="naïve", tools=[flat])
    (made,) = [item for item in response.output if item.type == "function_call"]
    assert (made.name, json.loads(made.arguments)["days"]) == ("weather", 3)
    assert response.status == "completed"
    kinds = [event.type for event in client.responses.create(model="caller", input="naïve", tools=[flat], stream=True)]
    assert kinds.index("response.function_call_arguments.done") > kinds.index("response.output_text.done")

    # And the whole round: the call goes back with what the tool said.
    messages: Any = [
        *HELLO,
        whole.message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "Föhn, 24°"},
    ]
    told = client.chat.completions.create(model="echo", messages=messages, tools=[WEATHER], max_tokens=600, temperature=0)
    assert "Föhn, 24°" in (told.choices[0].message.content or "")
    with pytest.raises(openai.BadRequestError) as unknown:
        client.chat.completions.create(model="echo", messages=messages[2:])
    assert unknown.value.param == "messages[0].tool_call_id"


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_cannot_be_done_is_refused_by_name(client: openai.OpenAI, http: httpx.Client) -> None:
    """And the same in a stream, before anything of it has come: never half an answer, never another one."""
    for more, param in CHAT_REFUSALS:
        for stream in (False, True):
            body = {"model": "echo", "messages": HELLO, "stream": stream} | more
            if stream and {"stream", "stream_options"} & more.keys():
                continue
            with pytest.raises(openai.BadRequestError) as refused:
                client.post("/chat/completions", body=body, cast_to=object)
            assert (refused.value.param or "").startswith(param), (more, refused.value.message)
            assert refused.value.type == "invalid_request_error"
            assert refused.value.code
    for route, more, param in OTHER_REFUSALS:
        with pytest.raises(openai.BadRequestError) as refused:
            client.post(f"/{route}", body={"model": "echo"} | more, cast_to=object)
        assert (refused.value.param or "").startswith(param), (route, more, refused.value.message)


def test_bodies_that_are_none(http: httpx.Client) -> None:
    for body in RUBBISH:
        answer = http.post("/v1/chat/completions", content=body)
        assert answer.status_code == 400, (body[:40], answer.text)
        assert answer.json()["error"]["message"]
    huge = http.post("/v1/chat/completions", content=b'{"model": "echo", "messages": "' + b"a" * (9 << 20) + b'"}')
    assert huge.status_code == 413
    assert http.post("/v1/chat/completions", content=b"{}", headers={"content-encoding": "gzip"}).status_code == 415


def test_ids_that_the_model_has_not(client: openai.OpenAI, http: httpx.Client, tokens: Tokens) -> None:
    vocabulary = tokens.tokenizer.get_vocab_size()
    with pytest.raises(openai.BadRequestError, match=str(vocabulary)):
        client.completions.create(model="echo", prompt=[vocabulary])
    with pytest.raises(openai.BadRequestError, match="empty"):
        client.completions.create(model="echo", prompt="")
    assert http.post("/v1/detokenize", json={"model": "echo", "tokens": []}).json() == {"prompt": ""}


def test_who_may_not_and_what_is_not_there(client: openai.OpenAI, http: httpx.Client, server: Server) -> None:
    for path in ("chat/completions", "completions", "responses", "embeddings", "tokenize", "detokenize"):
        with pytest.raises(openai.AuthenticationError):
            client.with_options(api_key="sk-nobody").post(f"/{path}", body={"model": "echo"}, cast_to=object)
        with pytest.raises(openai.NotFoundError) as missing:
            client.post(f"/{path}", body={"model": "nobody"}, cast_to=object)
        assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
        with pytest.raises(openai.BadRequestError) as unnamed:
            client.post(f"/{path}", body={}, cast_to=object)
        assert unnamed.value.param == "model"
        assert httpx.get(f"{server.gateway}/v1/{path}", timeout=60, trust_env=False).status_code == 401
        assert http.get(f"/v1/{path}").status_code == 405
    for path in ("generate", "generate_stream"):
        assert httpx.post(f"{server.gateway}/v2/models/echo/{path}", json={}, timeout=60, trust_env=False).status_code == 401
    with pytest.raises(openai.BadRequestError) as wrong:
        client.embeddings.create(model="echo", input="a")
    assert wrong.value.code
    assert http.post("/predict/echo", json=["a"]).json()["code"] == "generates_text"
    assert http.post("/v2/models/echo/infer", json={"inputs": []}).json()["code"] == "generates_text"
    assert client.chat.completions.create(model="echo:1", messages=HELLO, max_tokens=1).choices
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="echo:9", messages=HELLO)


# ── what is counted ──────────────────────────────────────────────────────────────────────────────────────────────────

VLLM: dict[str, str] = {
    "num_requests_running": "gauge",
    "num_requests_waiting": "gauge",
    "kv_cache_usage_perc": "gauge",
    "prompt_tokens": "counter",
    "generation_tokens": "counter",
    "request_success": "counter",
    "time_to_first_token_seconds": "histogram",
    "inter_token_latency_seconds": "histogram",
    "e2e_request_latency_seconds": "histogram",
    "request_queue_time_seconds": "histogram",
}
"""vLLM's own, without its prefix."""


def test_metrics_are_vllm_s_and_count_right(client: openai.OpenAI, server: Server) -> None:
    told = families(server)
    assert {name: told[f"openmaas_{name}"].type for name in VLLM if f"openmaas_{name}" in told} == VLLM

    def counted() -> dict[str, float]:
        names = ("prompt_tokens_total", "generation_tokens_total", "request_success_total")
        histograms = (f"{name}_count" for name, kind in VLLM.items() if kind == "histogram")
        return {name: count(server, f"openmaas_{name}", model_name="echo") for name in (*names, *histograms)}

    before = counted()
    used = [
        client.chat.completions.create(model="echo", messages=HELLO, max_tokens=7, n=3).usage,
        client.completions.create(model="echo", prompt=["abc", "模型即服务"], max_tokens=5).usage,
        read_chat(
            client.chat.completions.create(
                model="echo", messages=HELLO, max_tokens=9, stream=True, stream_options={"include_usage": True}
            )
        )[2],
    ]
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="echo", messages=HELLO, max_tokens=10**6)
    spent = {name: value - before[name] for name, value in counted().items()}
    assert spent["prompt_tokens_total"] == sum(usage.prompt_tokens for usage in used if usage)
    assert spent["generation_tokens_total"] == sum(usage.completion_tokens for usage in used if usage) == 21 + 10 + 9
    assert spent["request_success_total"] == 3 + 2 + 1
    assert spent["e2e_request_latency_seconds_count"] == 3
    # What an answer's first step brings at once, on a busy machine several tokens, has nothing between it.
    assert 20 < spent["inter_token_latency_seconds_count"] <= 3 * 6 + 2 * 4 + 8
    assert count(server, "openmaas_num_requests_running") == count(server, "openmaas_num_requests_waiting") == 0

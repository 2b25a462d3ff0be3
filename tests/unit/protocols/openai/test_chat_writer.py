"""Answers of chats, parsed strictly by the client's own types and read by the client itself."""

from __future__ import annotations

from typing import Any

import msgspec
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from openmaas.protocols.generation import Choice, Delta, Usage
from openmaas.protocols.generation.wire import usage_of
from tests.unit.protocols.openai.asks import (
    CALL,
    GRUESSE,
    MESSAGES,
    USAGE,
    WEATHER,
    ask,
    client,
    events,
    streamed,
    unknown_fields,
    whole,
    writer,
)

HEAD = (
    b'data: {"id":"chatcmpl-r1","object":"chat.completion.chunk","created":1700000000,"model":"writer",'
    b'"system_fingerprint":"3",'
)


def chunks(stream: bytes) -> list[ChatCompletionChunk]:
    parsed = [ChatCompletionChunk.model_validate_json(msgspec.json.encode(data), strict=True) for _, data in events(stream)]
    assert not {name for chunk in parsed for name in unknown_fields(chunk)}
    return parsed


def test_a_stream_byte_by_byte() -> None:
    assert streamed("chat", [Delta(text='Hé "\n'), Delta()]) == (
        HEAD + b'"choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}\n\n'
        + HEAD + '"choices":[{"index":0,"delta":{"content":"Hé \\"\\n"},"logprobs":null,"finish_reason":null}]}\n\n'.encode()
        + HEAD + b'"choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]}\n\n'
        + b"data: [DONE]\n\n"
    )  # fmt: skip


def test_usage_is_null_in_every_chunk_but_its_own_the_last() -> None:
    stream = streamed("chat", [Delta(text="Hello")], stream_options={"include_usage": True})
    assert [data["usage"] for _, data in events(stream)[:-1]] == [None] * 3
    last = chunks(stream)[-1]
    assert last.choices == []
    assert last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.completion_tokens, last.usage.total_tokens) == (7, 3, 10)
    assert last.usage.prompt_tokens_details is not None
    assert last.usage.prompt_tokens_details.cached_tokens == 4
    assert stream.endswith(b"data: [DONE]\n\n")


def test_several_answers_each_begin_with_the_role() -> None:
    made = writer("chat", ask("chat", n=3, stream=True))
    first = chunks(made.start())
    assert [(chunk.choices[0].index, chunk.choices[0].delta.role) for chunk in first] == [(n, "assistant") for n in range(3)]
    (second,) = chunks(made.delta(2, Delta(text="x")))
    assert (second.choices[0].index, second.choices[0].delta.content, second.choices[0].delta.role) == (2, "x", None)


def test_calls_of_tools_are_numbered_across_deltas() -> None:
    deltas = [Delta(tool_calls=[CALL]), Delta(tool_calls=[CALL, CALL], first_tool=1)]
    stream = streamed("chat", deltas, "tool_calls", tools=[WEATHER])
    calls = [call for chunk in chunks(stream) for call in chunk.choices[0].delta.tool_calls or []]
    assert [call.index for call in calls] == [0, 1, 2]
    assert all(call.id and call.type == "function" and call.function and call.function.name == "weather" for call in calls)
    assert chunks(stream)[-1].choices[0].finish_reason == "tool_calls"


def test_logprobs_have_bytes_and_the_likeliest_and_are_never_infinite() -> None:
    stream = streamed("chat", [Delta(text="Grüße", logprobs=GRUESSE)], logprobs=True, top_logprobs=2)
    logprobs = chunks(stream)[1].choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    content = logprobs.content
    assert [token.bytes for token in content] == [[71, 114], [0xC3], [0xBC], [*"ße".encode()]]
    assert [token.logprob for token in content] == [-0.25, -0.5, -9999.0, -9999.0]
    assert [(top.token, top.logprob) for top in content[0].top_logprobs] == [("Gr", -0.25), ("Hi", -2.0)]


def test_logprobs_of_a_token_without_a_whole_character_are_told_at_once() -> None:
    stream = streamed("chat", [Delta(logprobs=GRUESSE[1:2])], logprobs=True)
    assert chunks(stream)[1].choices[0].logprobs is not None
    assert len(chunks(streamed("chat", [Delta(logprobs=[])], logprobs=True))) == 2


def test_a_whole_answer() -> None:
    body = whole(
        "chat",
        Choice(index=0, text="Hello", finish="stop", logprobs=GRUESSE[:1]),
        Choice(index=1, text="", finish="tool_calls", tool_calls=[CALL]),
        n=2,
    )
    parsed = ChatCompletion.model_validate_json(body, strict=True)
    assert not unknown_fields(parsed)
    assert (parsed.id, parsed.model, parsed.created, parsed.system_fingerprint) == ("chatcmpl-r1", "writer", 1_700_000_000, "3")
    first, second = parsed.choices
    assert (first.message.content, first.message.tool_calls, first.finish_reason) == ("Hello", None, "stop")
    assert (second.message.content, second.finish_reason, second.logprobs) == (None, "tool_calls", None)
    assert second.message.tool_calls is not None
    assert second.message.tool_calls[0].model_dump() == {
        "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Graz"}'},
    }  # fmt: skip
    assert parsed.usage is not None
    assert parsed.usage.total_tokens == USAGE.prompt + USAGE.completion


def test_an_empty_answer_has_empty_content() -> None:
    parsed = ChatCompletion.model_validate_json(whole("chat", Choice(index=0, text="", finish="length")), strict=True)
    assert parsed.choices[0].message.content == ""


def test_the_client_puts_a_stream_together() -> None:
    stream = streamed("chat", [Delta(text="Hel"), Delta(text="lo"), Delta(tool_calls=[CALL])], "tool_calls", tools=[WEATHER])
    with client(stream).chat.completions.stream(model="writer", messages=[{"role": "user", "content": "x"}]) as opened:
        message = opened.get_final_completion().choices[0].message
    assert message.content == "Hello"
    assert message.tool_calls is not None
    assert message.tool_calls[0].function.arguments == CALL.arguments


def test_what_the_client_sends_back_is_understood() -> None:
    """Its own message of an earlier answer, put among the messages of the next request."""
    sent: list[bytes] = []
    body = whole("chat", Choice(index=0, text="", finish="tool_calls", tool_calls=[CALL]))
    caller = client(body, sent=sent)
    message: Any = (
        caller.chat.completions.create(model="writer", messages=[{"role": "user", "content": "x"}]).choices[0].message
    )
    result: Any = {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}
    caller.chat.completions.create(model="writer", messages=[*MESSAGES, message, result])  # type: ignore[list-item]
    decoded = ask("chat", messages=msgspec.json.decode(sent[-1])["messages"])
    assert decoded.messages is not None
    assert decoded.messages[1]["tool_calls"][0]["function"] == {"name": "weather", "arguments": {"city": "Graz"}}
    assert decoded.messages[2] == {"role": "tool", "content": "sunny", "tool_call_id": "call_1"}


def test_what_an_engine_does_not_say_of_its_cache_is_not_said() -> None:
    assert usage_of(Usage(prompt=3, completion=2, cached=None))["prompt_tokens_details"] is None
    assert usage_of(Usage(prompt=3, completion=2, cached=0))["prompt_tokens_details"] == {"cached_tokens": 0}

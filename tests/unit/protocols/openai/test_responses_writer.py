"""Responses and their events, parsed strictly by the client's own types and put together by the client itself."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from openmaas.protocols.generation import Choice, Delta
from tests.unit.protocols.openai.asks import CALL, USAGE, ask, client, events, streamed, unknown_fields, whole

_event: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
FLAT = {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}, "strict": True}
OURS = ("store",)
MESSAGE = [
    "response.output_item.added", "response.content_part.added", "response.output_text.delta", "response.output_text.done",
    "response.content_part.done", "response.output_item.done",
]  # fmt: skip
FUNCTION = [
    "response.output_item.added", "response.function_call_arguments.delta", "response.function_call_arguments.done",
    "response.output_item.done",
]  # fmt: skip


def parsed(stream: bytes) -> list[Any]:
    """The events, whose names and numbers are checked."""
    found = events(stream)
    for number, (name, data) in enumerate(found):
        assert (data["type"], data["sequence_number"]) == (name, number)
    made = [_event.validate_json(msgspec.json.encode(data), strict=True) for _, data in found]
    assert not unknown_fields(made, allowed=OURS)
    return made


def test_the_events_of_a_text_and_a_call() -> None:
    made = parsed(streamed("responses", [Delta(text="é"), Delta(tool_calls=[CALL])], "tool_calls", tools=[FLAT]))
    assert [event.type for event in made] == [
        "response.created", "response.in_progress", *MESSAGE, *FUNCTION, "response.completed",
    ]  # fmt: skip
    assert [made[0].response.id, made[0].response.status, made[0].response.output] == ["resp_r1", "in_progress", []]
    assert (made[2].item.id, made[2].item.content, made[2].output_index) == ("msg_r1", [], 0)
    assert (made[8].item.id, made[8].item.call_id, made[8].item.arguments, made[8].output_index) == ("fc_r1_1", "call_1", "", 1)
    response = made[-1].response
    assert response.output_text == "é"
    assert [item.status for item in response.output] == ["completed", "completed"]
    assert (response.usage.input_tokens, response.usage.output_tokens, response.usage.total_tokens) == (7, 3, 10)
    assert response.usage.input_tokens_details.cached_tokens == USAGE.cached


def test_text_after_a_call_is_another_message() -> None:
    deltas = [Delta(tool_calls=[CALL]), Delta(text="a"), Delta(text="b"), Delta(tool_calls=[CALL])]
    made = parsed(streamed("responses", deltas, tools=[FLAT]))
    output = made[-1].response.output
    assert [item.type for item in output] == ["function_call", "message", "function_call"]
    assert len({item.id for item in output}) == 3
    assert [event.output_index for event in made if event.type == "response.output_text.delta"] == [1, 1]
    assert output[1].content[0].text == "ab"


def test_an_answer_that_was_cut_is_incomplete() -> None:
    last = parsed(streamed("responses", [Delta(text="a")], "length"))[-1]
    assert last.type == "response.incomplete"
    assert last.response.status == "incomplete"
    assert last.response.incomplete_details.reason == "max_output_tokens"
    assert last.response.output[0].status == "incomplete"


def test_an_empty_answer_is_an_empty_message() -> None:
    made = parsed(streamed("responses", []))
    assert [event.type for event in made if event.type in MESSAGE] == [kind for kind in MESSAGE if "delta" not in kind]
    assert made[-1].response.output_text == ""
    body = whole("responses", Choice(index=0, text="", finish="stop"))
    assert Response.model_validate_json(body, strict=True).output[0].type == "message"


@pytest.mark.parametrize("delta", [Delta(text="Hello"), Delta(text="Hello", tool_calls=[CALL]), Delta(tool_calls=[CALL])])
def test_whole_and_streamed_are_the_same_response(delta: Delta) -> None:
    choice = Choice(index=0, text=delta.text, tool_calls=delta.tool_calls, finish="length")
    body = whole("responses", choice, tools=[FLAT])
    response = Response.model_validate_json(body, strict=True)
    assert not unknown_fields(response, allowed=OURS)
    last = parsed(streamed("responses", [delta], "length", tools=[FLAT]))[-1].response
    for one in (*last.output, *response.output):
        if one.type == "function_call":
            one.id = ""
    assert last == response


def test_what_was_asked_is_said_again() -> None:
    form = {"type": "json_schema", "name": "n", "schema": {"type": "object"}}
    response = Response.model_validate_json(
        whole(
            "responses",
            Choice(index=0, text="{}", finish="stop"),
            instructions="Be brief.",
            temperature=0.5,
            max_output_tokens=9,
            metadata={"a": "b"},
            text={"format": form},
            tools=[FLAT],
            tool_choice={"type": "function", "name": "weather"},
        )
    )
    assert (response.instructions, response.temperature, response.max_output_tokens) == ("Be brief.", 0.5, 9)
    assert response.metadata == {"a": "b"}
    assert response.text is not None
    assert response.text.model_dump(by_alias=True, exclude_unset=True) == {"format": form}
    assert response.tools[0].model_dump(exclude_unset=True) == FLAT
    assert (response.model, response.created_at, response.truncation) == ("writer", 1_700_000_000, "disabled")


def test_the_client_puts_a_stream_together() -> None:
    stream = streamed("responses", [Delta(text="Hel"), Delta(text="lo"), Delta(tool_calls=[CALL])], tools=[FLAT])
    with client(stream).responses.stream(model="writer", input="x") as opened:
        texts = [event.delta for event in opened if event.type == "response.output_text.delta"]
        response = opened.get_final_response()
    assert texts == ["Hel", "lo"]
    assert response.output_text == "Hello"
    assert response.output[1].type == "function_call"


def test_what_the_client_sends_back_is_understood() -> None:
    sent: list[bytes] = []
    choice = Choice(index=0, text="One moment.", finish="tool_calls", tool_calls=[CALL])
    caller = client(whole("responses", choice, tools=[FLAT]), sent=sent)
    output: Any = caller.responses.create(model="writer", input="x").output
    result = {"type": "function_call_output", "call_id": "call_1", "output": "sunny"}
    caller.responses.create(model="writer", input=[{"role": "user", "content": "x"}, *output, result])
    decoded = ask("responses", input=msgspec.json.decode(sent[-1])["input"])
    assert decoded.messages == [
        {"role": "user", "content": "x"},
        {
            "role": "assistant",
            "content": "One moment.",
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Graz"}}}
            ],
        },
        {"role": "tool", "content": "sunny", "tool_call_id": "call_1"},
    ]

"""Messages, tools and forms of an answer: what becomes of them, and where each mistake is said to be."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from openmaas.protocols.openai import Limits, decode_ask
from tests.unit.protocols.openai.asks import MESSAGES, MINIMAL, WEATHER, ask, refused

USER = {"role": "user", "content": "x"}
CALLED = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Graz"}'}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALLED]}
FLAT_CALL = {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city": "Graz"}'}
FLAT_WEATHER = {"type": "function", "strict": None, **WEATHER["function"]}  # type: ignore[dict-item]
SCHEMA = {"type": "object", "properties": {"a": {"$ref": "#/$defs/n"}}, "$defs": {"n": {"type": "integer"}}}
IMAGE = {"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth - 1):
        value = {"a": value}
    return value


def test_messages_as_templates_take_them() -> None:
    made = ask(
        "chat",
        messages=[
            {"role": "developer", "content": "Be brief.", "name": "us"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            CALLING | {"refusal": None, "audio": None, "function_call": None, "annotations": []},
            {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "sunny"}]},
            {"role": "assistant", "content": ""},
        ],
    )
    assert made.messages == [
        {"role": "system", "content": "Be brief.", "name": "us"},
        {"role": "user", "content": "a\nb"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Graz"}}}],
        },
        {"role": "tool", "content": "sunny", "tool_call_id": "c1"},
        {"role": "assistant", "content": ""},
    ]
    assert list(made.prompts) == []


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([], "messages"),
        ("x", "messages"),
        ([USER] * 2049, "messages"),
        ([USER, {"role": "user"}], "messages[1]"),
        ([{"content": "x"}], "messages[0]"),
        ([{"role": "function", "name": "f", "content": "x"}], "messages[0].role"),
        ([{"role": "user", "content": None}], "messages[0].content"),
        ([{"role": "user", "content": 5}], "messages[0].content"),
        ([{"role": "user", "content": []}], "messages[0].content"),
        ([{"role": "user", "content": [{"type": "text", "text": "x"}, IMAGE]}], "messages[0].content[1].type"),
        ([{"role": "user", "content": [{"type": "text", "text": "x"}] * 257}], "messages[0].content"),
        ([{"role": "user", "content": "x", "extra": 1}], "messages[0]"),
        ([{"role": "assistant"}], "messages[0].content"),
        ([{"role": "assistant", "content": "x", "function_call": {"name": "f"}}], "messages[0].function_call"),
        ([{"role": "assistant", "content": "x", "annotations": [{}]}], "messages[0].annotations"),
        ([{"role": "tool", "tool_call_id": "c1", "content": "x"}, CALLING], "messages[0].tool_call_id"),
        ([{"role": "tool", "content": "x"}], "messages[0]"),
        ([CALLING | {"tool_calls": [CALLED | {"type": "custom"}]}], "messages[0].tool_calls[0].type"),
        ([CALLING | {"tool_calls": [CALLED] * 129}], "messages[0].tool_calls"),
    ],
)
def test_a_bad_message_is_found(messages: Any, param: str) -> None:
    assert refused(lambda: ask("chat", messages=messages)).param == param


@pytest.mark.parametrize("arguments", ["[1]", "{", "x", '{"a": NaN}', msgspec.json.encode(nested(33)).decode()])
def test_arguments_that_are_no_object(arguments: str) -> None:
    call = CALLED | {"function": {"name": "weather", "arguments": arguments}}
    error = refused(lambda: ask("chat", messages=[CALLING | {"tool_calls": [call]}]))
    assert (error.param or "").startswith("messages[0].tool_calls[0].function.arguments")


def test_empty_arguments_are_an_empty_object() -> None:
    call = CALLED | {"function": {"name": "now", "arguments": ""}}
    messages = ask("chat", messages=[CALLING | {"tool_calls": [call]}]).messages or []
    assert messages[0]["tool_calls"][0]["function"] == {"name": "now", "arguments": {}}


# ── responses ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_items_as_messages() -> None:
    made = ask(
        "responses",
        instructions="Be brief.",
        input=[
            {"role": "developer", "content": "x"},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}]},
            {
                "type": "message", "id": "msg_1", "status": "completed", "role": "assistant",
                "content": [{"type": "output_text", "text": "b", "annotations": [], "logprobs": []}],
            },
            FLAT_CALL | {"id": "fc_1", "status": "completed"},
            FLAT_CALL | {"call_id": "c2"},
            {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "rain"}]},
            {"type": "function_call_output", "call_id": "c1", "output": "sun"},
            FLAT_CALL | {"call_id": "c3"},
        ],
    )  # fmt: skip
    messages = made.messages or []
    assert [message["role"] for message in messages] == [
        "system", "system", "user", "assistant", "tool", "tool", "assistant",
    ]  # fmt: skip
    assert [message["content"] for message in messages] == ["Be brief.", "x", "a", "b", "rain", "sun", ""]
    assert [call["id"] for call in messages[3]["tool_calls"]] == ["c1", "c2"]
    assert messages[6]["tool_calls"][0]["function"]["arguments"] == {"city": "Graz"}


def test_a_text_is_the_user_s_message() -> None:
    assert ask("responses", input="x").messages == [{"role": "user", "content": "x"}]


@pytest.mark.parametrize(
    ("items", "param"),
    [
        ([], "input"),
        (5, "input"),
        ([{"role": "user", "content": "x"}] * 2049, "input"),
        (["x"], "input[0]"),
        ([{"role": "tool", "content": "x"}], "input[0].role"),
        ([{"role": "user", "content": []}], "input[0].content"),
        ([{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}], "input[0].content[0].type"),
        ([{"role": "user", "content": [{"type": "text", "text": "x"}]}], "input[0].content[0].type"),
        ([{"type": "item_reference", "id": "x"}], "input[0].type"),
        ([{"type": "reasoning", "id": "x", "summary": []}], "input[0].type"),
        ([{"type": "function_call_output", "call_id": "c1", "output": "x"}], "input[0].call_id"),
        ([FLAT_CALL | {"arguments": "{"}], "input[0].arguments"),
    ],
)
def test_a_bad_item_is_found(items: Any, param: str) -> None:
    assert refused(lambda: ask("responses", input=items)).param == param


# ── tools ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_tools_are_the_same_in_both_forms() -> None:
    assert ask("chat", tools=[WEATHER]).tools == [WEATHER]
    assert ask("responses", tools=[FLAT_WEATHER]).tools == [WEATHER]
    bare = {"type": "function", "function": {"name": "now", "strict": True}}
    empty = {"type": "object", "properties": {}}
    assert ask("chat", tools=[bare]).tools[0]["function"] == {"name": "now", "parameters": empty, "strict": True}
    assert ask("chat", tools=[]).tools == []


@pytest.mark.parametrize(
    ("tools", "param"),
    [
        ({}, "tools"),
        ([WEATHER] * 129, "tools"),
        ([WEATHER, WEATHER], "tools[1].function.name"),
        ([{"type": "custom", "custom": {"name": "x"}}], "tools[0].type"),
        ([{"type": "web_search"}], "tools[0].type"),
        ([{"type": "function"}], "tools[0]"),
        ([{"type": "function", "function": {"name": "a b"}}], "tools[0].function.name"),
        ([{"type": "function", "function": {"name": "x" * 65}}], "tools[0].function.name"),
        ([{"type": "function", "function": {"name": "x", "extra": 1}}], "tools[0].function"),
        ([{"type": "function", "function": {"name": "x", "parameters": []}}], "tools[0].function.parameters"),
        ([{"type": "function", "function": {"name": "x", "parameters": {"type": "string"}}}], "tools[0].function.parameters"),
        ([{"type": "function", "function": {"name": "x", "parameters": nested(33)}}], "tools[0].function.parameters"),
    ],
)
def test_a_bad_tool_is_found(tools: Any, param: str) -> None:
    assert refused(lambda: ask("chat", tools=tools)).param == param


def test_the_choice_among_tools() -> None:
    named = {"type": "function", "function": {"name": "weather"}}
    for word in ("auto", "none", "required"):
        assert ask("chat", tools=[WEATHER], tool_choice=word).tool_choice == word
    assert ask("chat", tools=[WEATHER]).tool_choice == "auto"
    assert ask("chat", tools=[WEATHER], tool_choice=named).tool_choice == "weather"
    flat = {"type": "function", "name": "weather"}
    assert ask("responses", tools=[FLAT_WEATHER], tool_choice=flat).tool_choice == "weather"


@pytest.mark.parametrize(
    "fields",
    [
        {"tool_choice": "required"},
        {"tool_choice": "weather", "tools": [WEATHER]},
        {"tool_choice": {"type": "function", "function": {"name": "other"}}, "tools": [WEATHER]},
        {"tool_choice": {"type": "function", "function": {"name": "weather"}}},
        {"tool_choice": {"type": "allowed_tools", "allowed_tools": {}}, "tools": [WEATHER]},
        {
            "tool_choice": {"type": "function", "function": {"name": "none"}},
            "tools": [{"type": "function", "function": {"name": "none"}}],
        },
    ],
)
def test_a_choice_that_cannot_be_made(fields: dict[str, Any]) -> None:
    assert (refused(lambda: ask("chat", **fields)).param or "").startswith("tool_choice")


# ── forms ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def schema_of(operation: str, form: Any) -> str | None:
    return ask(operation, **({"text": {"format": form}} if operation == "responses" else {"response_format": form})).schema


@pytest.mark.parametrize("operation", ["chat", "completions", "responses"])
def test_the_form_of_an_answer(operation: str) -> None:
    whole = {"name": "n", "schema": SCHEMA, "strict": True, "description": "d"}
    form = {"type": "json_schema", **whole} if operation == "responses" else {"type": "json_schema", "json_schema": whole}
    assert msgspec.json.decode(schema_of(operation, form) or "") == SCHEMA
    assert schema_of(operation, {"type": "json_object"}) == '{"type":"object"}'
    assert schema_of(operation, {"type": "text"}) is None
    assert schema_of(operation, None) is None


@pytest.mark.parametrize(
    ("schema", "code"),
    [
        ({"a": {"$ref": "http://169.254.169.254/"}}, "bad_ref"),
        ({"$ref": "file:///etc/passwd"}, "bad_ref"),
        ({"a": [{"$ref": "other.json"}]}, "bad_ref"),
        (nested(33), "too_deep"),
        ({"description": "x" * 65536}, "too_large"),
        ([], "invalid_parameter"),
        (True, "invalid_parameter"),
    ],
)
def test_a_bad_schema(schema: Any, code: str) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    error = refused(lambda: ask("chat", response_format=form))
    assert (error.param, error.code) == ("response_format.json_schema.schema", code)


def test_a_schema_at_its_bounds() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": nested(32)}}
    assert ask("chat", response_format=form).schema == msgspec.json.encode(nested(32)).decode()
    limits = Limits(max_depth=3)
    body = msgspec.json.encode(MINIMAL["chat"] | {"response_format": form})
    assert "3 deep" in refused(lambda: decode_ask("chat", body, limits)).message


@pytest.mark.parametrize("form", [{}, "json", {"type": "grammar"}, {"type": "json_schema"}, {"type": "text", "x": 1}])
def test_a_bad_form(form: Any) -> None:
    for fields in ({"response_format": form},):
        assert (refused(lambda: ask("chat", **fields)).param or "").startswith("response_format")  # noqa: B023
    assert (refused(lambda: ask("responses", text={"format": form})).param or "").startswith("text.format")


def test_text_of_responses() -> None:
    assert ask("responses", text={"verbosity": "medium"}).schema is None
    assert refused(lambda: ask("responses", text={"verbosity": "low"})).param == "text.verbosity"
    assert refused(lambda: ask("responses", text={"x": 1})).param == "text"
    assert ask("chat", messages=MESSAGES).schema is None

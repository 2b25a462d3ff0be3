"""Calls of tools within an answer, over any split: none lost, none made up, and text as soon as it can only be text."""

from __future__ import annotations

import json
import time
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openmaas.core.generation import ToolCall, ToolFormat
from openmaas.processing.generation.tools import ToolCallReader


def read(tool_format: ToolFormat, *parts: str) -> tuple[str, list[ToolCall]]:
    reader = ToolCallReader(tool_format)
    texts, calls = zip(*(reader.push(part) for part in parts), reader.end(), strict=True)
    return "".join(texts), [call for some in calls for call in some]


def named(calls: list[ToolCall]) -> list[tuple[str, Any]]:
    return [(call.name, json.loads(call.arguments)) for call in calls]


ANSWERS: list[tuple[ToolFormat, str, str, list[tuple[str, Any]]]] = [
    ("hermes", 'Let me look.<tool_call>\n{"name": "look", "arguments": {"at": "roof"}}\n</tool_call>', "Let me look.",
     [("look", {"at": "roof"})]),
    ("hermes",
     '\n<tool_call>\n{"name": "a", "arguments": {}}\n</tool_call>\n<tool_call>{"name":"b","arguments":{"x":[1]}}</tool_call>\n',
     "", [("a", {}), ("b", {"x": [1]})]),
    ("hermes", '<tool_call>{"name": "a", "arguments": {"x": "</tool_call> \\" } {"}}</tool_call> Done.', " Done.",
     [("a", {"x": '</tool_call> " } {'})]),
    ("hermes", '<tool_call>{"name": "a", "arguments": "{\\"x\\": 1}"}</tool_call>', "", [("a", {"x": 1})]),
    ("hermes", '<tool_call>{"name": "a"}', "", [("a", {})]),
    ("hermes", '<tool_call>{"name": "a"} ;', " ;", [("a", {})]),
    ("llama3", '{"name": "look", "parameters": {"at": "roof"}}', "", [("look", {"at": "roof"})]),
    ("llama3", ' {"type": "function", "name": "a", "parameters": {}}; {"name": "b", "parameters": {"x": 1}}', "",
     [("a", {}), ("b", {"x": 1})]),
    ("llama3", 'Well. <|python_tag|>{"name": "a", "parameters": {"x": "é🙂"}}', "Well. ", [("a", {"x": "é🙂"})]),
    ("llama3", '{"name": "a", "parameters": {}}\nDone.', "\nDone.", [("a", {})]),
    ("mistral", '[TOOL_CALLS][{"name": "a", "arguments": {"x": "[]]"}}, {"name": "b", "arguments": {}}]', "",
     [("a", {"x": "[]]"}), ("b", {})]),
    ("mistral", '[TOOL_CALLS] [{"name": "a", "arguments": {}, "id": "123456789"}]', "", [("a", {})]),
    ("mistral", '[TOOL_CALLS]look_up[ARGS]{"x": 1}[TOOL_CALLS]b{"y": {}}', "", [("look_up", {"x": 1}), ("b", {"y": {}})]),
]  # fmt: skip

TEXTS: list[tuple[ToolFormat, str]] = [
    ("", '<tool_call>{"name": "a", "arguments": {}}</tool_call>'),
    ("hermes", "a <tool_call and <tool_ call> no <"),
    ("hermes", "<tool_call>"),
    ("hermes", "  \n"),
    ("hermes", "\n<tool_call>\nnot JSON\n</tool_call>\n"),
    ("hermes", '<tool_call>{"name": "a", "arguments": {"x": 1}</tool_call> and more'),
    ("hermes", '<tool_call>{"name": "a, "arguments": {}}\n</tool_call> and more'),
    ("hermes", '<tool_call>{"name": "a", "arguments": [1]}</tool_call>'),
    ("hermes", '<tool_call>{"name": "", "arguments": {}}</tool_call>'),
    ("hermes", '<tool_call>{"nam": "a", "arguments": {}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "a", "arguments": "plain"}</tool_call>'),
    ("hermes", '<tool_call>["name"]</tool_call>'),
    ("llama3", ' {"result": {"name": "a"}} '),
    ("llama3", '{"name": "Ada", "age": 3, "parameters": 7}'),
    ("llama3", "Then {\"name\": \"a\", \"parameters\": {}} is text"),
    ("llama3", "<|python_tag|>print(1)"),
    ("llama3", "{}"),
    ("mistral", "[TOOL_CALLS][]"),
    ("mistral", "[TOOL_CALLS]what is this? {"),
    ("mistral", "[TOOL_CALLS]" + "long" * 100),
    ("mistral", "[TOOL_CALL]s"),
]  # fmt: skip


@pytest.mark.parametrize(("tool_format", "answer", "text", "calls"), ANSWERS)
def test_calls_and_the_text_around_them(tool_format: ToolFormat, answer: str, text: str, calls: list[Any]) -> None:
    for parts in ([answer], list(answer)):
        found, made = read(tool_format, *parts)
        assert (found, named(made)) == (text, calls)


@pytest.mark.parametrize(("tool_format", "answer"), TEXTS)
def test_what_is_no_call_is_text_unchanged(tool_format: ToolFormat, answer: str) -> None:
    for parts in ([answer], list(answer)):
        assert read(tool_format, *parts) == (answer, [])


@given(st.sampled_from(ANSWERS), st.lists(st.integers(1, 12), min_size=1))
@settings(deadline=None)
def test_over_any_split(answer: tuple[ToolFormat, str, str, list[Any]], sizes: list[int]) -> None:
    tool_format, whole, text, calls = answer
    parts, place = [], 0
    for size in sizes * len(whole):
        parts.append(whole[place : place + size])
        place += size
    found, made = read(tool_format, *parts)
    assert (found, named(made)) == (text, calls)


fragments = st.sampled_from([
    "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<|python_tag|>", '{"name": "a", "arguments": {}}',
    '{"name": "b", "parameters": {}}',
    "{", "}", "[", "]", '"', "\\", "\n", " ", ";", "x", "name", "[ARGS]", "<", "🙂",
])  # fmt: skip


@given(st.sampled_from(get_args(ToolFormat)), st.lists(fragments, max_size=15))
@settings(max_examples=300, deadline=None)
def test_nothing_is_lost_and_the_split_does_not_matter(tool_format: ToolFormat, parts: list[str]) -> None:
    whole = "".join(parts)
    text, calls = read(tool_format, whole)
    again, same = read(tool_format, *parts)
    assert (again, named(same)) == (text, named(calls))
    once, of_characters = read(tool_format, *whole)
    assert (once, named(of_characters)) == (text, named(calls))
    if not calls:
        assert text == whole


def test_text_goes_on_as_soon_as_it_cannot_be_a_call() -> None:
    reader = ToolCallReader("hermes")
    assert reader.push("One <tool") == ("One ", [])
    assert reader.push("s>") == ("<tools>", [])
    assert reader.push("<tool_call>") == ("", [])
    assert reader.push("no") == ("<tool_call>no", [])
    for part in ('{"name": "a, "arguments"', '{"name": "a\n', "{'", '{"a": [x', "{>", '{"a": \\', "{}"):
        assert reader.push("<tool_call>" + part) == ("<tool_call>" + part, [])
    reader = ToolCallReader("mistral")
    for part in ("why? {", "why " * 100, "[x", "[]"):
        assert reader.push("[TOOL_CALLS]" + part) == ("[TOOL_CALLS]" + part, [])
    reader = ToolCallReader("llama3")
    assert reader.push('{"n') == ("", [])
    assert reader.push('ote": ') == ('{"note": ', [])


def test_a_call_comes_with_its_last_brace() -> None:
    reader = ToolCallReader("hermes")
    assert reader.push('<tool_call>{"name": "a", "arguments": {"x": 1 }') == ("", [])
    text, (call,) = reader.push("}")
    assert (text, call.name, call.arguments) == ("", "a", '{"x": 1 }')
    assert reader.push("\n</tool_call>") == ("", [])
    assert reader.end() == ("", [])


def test_ids_are_told_apart_and_are_what_templates_take() -> None:
    many = '<tool_call>{"name": "a"}</tool_call>' * 50
    ids = {call.id for call in read("hermes", many)[1]}
    assert len(ids) == 50
    assert all(number.startswith("call_") and len(number) == 29 for number in ids)
    (call,) = read("mistral", '[TOOL_CALLS][{"name": "a"}]')[1]
    assert len(call.id) == 9
    assert call.id.isalnum()


def test_a_call_that_follows_a_broken_one_is_read() -> None:
    text, calls = read("hermes", '<tool_call>{"name": "a, <tool_call>{"name": "b", "arguments": {}}</tool_call>')
    assert named(calls) == [("b", {})]
    assert text == '<tool_call>{"name": "a, '


@pytest.mark.parametrize(
    ("tool_format", "part"),
    [
        ("hermes", '<tool_call>{"a": "'),
        ("hermes", '<tool_call>{"name": "a", "arguments": '),
        ("hermes", "<tool_call>{ "),
        ("mistral", "[TOOL_CALLS]["),
        ("mistral", '[TOOL_CALLS][{"'),
        ("llama3", '<|python_tag|>{"'),
    ],
)
def test_broken_calls_without_end_cost_little(tool_format: ToolFormat, part: str) -> None:
    reader = ToolCallReader(tool_format)
    began = time.process_time()
    text = "".join(reader.push(part)[0] for _ in range(20_000)) + reader.end()[0]
    assert text == part * 20_000
    assert time.process_time() - began < 4

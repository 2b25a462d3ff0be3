"""The generate extension: what is read, what is written, and what is refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from openmaas.protocols.generation import Choice, Delta
from openmaas.protocols.openai import decode_ask
from tests.unit.protocols.openai.asks import ask, events, refused, streamed, whole, writer

USAGE = {
    "prompt_tokens": 7,
    "completion_tokens": 3,
    "total_tokens": 10,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 0},
}


def test_a_text_and_its_parameters() -> None:
    parameters = {"max_tokens": 5, "temperature": 0, "top_k": 3, "seed": 7, "stop": ["\n"], "n": 2, "stream": False}
    made = ask("generate", id="7", parameters=parameters)
    assert (list(made.prompts), made.max_tokens, made.temperature, made.top_k) == (["Once"], 5, 0, 3)
    assert (made.seed, made.stop, made.n, made.stream) == (7, ("\n",), 2, False)
    assert {"text_input", "temperature", "id"} <= made.given


def test_one_text_is_answered_with_a_text() -> None:
    body = msgspec.json.decode(whole("generate", Choice(index=0, text="é", finish="stop"), id="7"))
    assert body == {
        "id": "7", "model_name": "writer", "model_version": "3", "text_output": "é", "finish_reason": "stop", "usage": USAGE,
    }  # fmt: skip


@pytest.mark.parametrize(
    "fields", [{"text_input": ["Once", "Twice"]}, {"parameters": {"n": 2}}], ids=["two texts", "two answers"]
)
def test_several_are_answered_with_lists(fields: dict[str, Any]) -> None:
    choices = [Choice(index=0, text="a", finish="stop"), Choice(index=1, text="b", finish="length")]
    body = msgspec.json.decode(whole("generate", *choices, **fields))
    assert (body["text_output"], body["finish_reason"]) == (["a", "b"], ["stop", "length"])
    assert "id" not in body


def test_a_list_of_one_text_is_answered_with_a_list() -> None:
    body = msgspec.json.decode(whole("generate", Choice(index=0, text="a", finish="stop"), text_input=["Once"]))
    assert body["text_output"] == ["a"]


def test_a_stream() -> None:
    head = {"id": "7", "model_name": "writer", "model_version": "3"}
    stream = streamed("generate_stream", [Delta(text="a"), Delta(), Delta(text="b")], "length", id="7")
    assert events(stream) == [
        ("", head | {"text_output": "a"}),
        ("", head | {"text_output": "b"}),
        ("", head | {"text_output": "", "finish_reason": "length"}),
        ("", head | {"text_output": "", "usage": USAGE}),
    ]
    assert b"[DONE]" not in stream


def test_pieces_of_several_answers_are_told_apart() -> None:
    made = writer("generate_stream", ask("generate_stream", text_input=["Once", "Twice"]))
    assert [data["index"] for _, data in events(made.delta(1, Delta(text="a")) + made.finish(0, "stop"))] == [1, 0]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "text_input"),
        ({"text_input": None}, "text_input"),
        ({"text_input": 5}, "text_input"),
        ({"text_input": []}, "text_input"),
        ({"text_input": ["x"] * 65}, "text_input"),
        ({"text_input": [1, 2]}, "text_input[0]"),
        ({"text_input": [["x"]]}, "text_input[0]"),
        ({"text_input": ["x"] * 20, "parameters": {"n": 16}}, "n"),
        ({"text_input": "x", "parameters": []}, "parameters"),
        ({"text_input": "x", "id": "7" * 513}, "id"),
        ({"text_input": "x", "id": 7}, "id"),
        ({"text_input": "x", "parameters": {"logprobs": 1}}, "logprobs"),
        ({"text_input": "x", "parameters": {"max_tokens": 0}}, "max_tokens"),
        ({"text_input": "x", "parameters": {"stream": True}}, "stream"),
        ({"text_input": "x", "temperature": 1}, "temperature"),
        ({"text_input": "x", "model": "writer"}, "model"),
    ],
)
def test_what_is_refused_is_named(body: dict[str, Any], param: str) -> None:
    assert refused(lambda: decode_ask("generate", msgspec.json.encode(body))).param == param


def test_the_stream_route_streams() -> None:
    assert ask("generate_stream", parameters={"stream": True}).stream
    assert refused(lambda: ask("generate_stream", parameters={"stream": False})).param == "stream"

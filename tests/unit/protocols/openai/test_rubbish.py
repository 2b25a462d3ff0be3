"""Whatever comes, a request is understood or refused with InvalidInput, soon."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openmaas.core.errors import InvalidInput
from openmaas.protocols.generation.parameters import ACCEPTED, REFUSED
from openmaas.protocols.openai import (
    LIMITS,
    decode_ask,
    decode_detokenize,
    decode_embeddings,
    decode_tokenize,
    model_of,
    open_writer,
)
from tests.unit.protocols.openai.asks import MINIMAL, WEATHER
from tests.unit.protocols.openai.test_parameters import NUMBERS

NAMES = [
    *(name for name, *_ in NUMBERS), *ACCEPTED, *REFUSED, "messages", "prompt", "input", "text_input", "parameters", "tools",
    "tool_choice", "response_format", "text", "stop", "n", "max_tokens", "max_output_tokens", "stream", "stream_options",
    "logprobs", "echo", "best_of", "chat_template_kwargs", "tokens", "dimensions", "encoding_format", "instructions",
]  # fmt: skip
WORDS = [
    "role", "content", "user", "assistant", "tool", "tool_calls", "function", "name", "arguments", "type", "text", "{}", "id",
    "json_schema", "schema", "$ref", "input_text", "function_call", "call_id", "auto", "required", "format", "parameters",
]  # fmt: skip
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(WORDS) | st.text(max_size=8)
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=4), inner, max_size=5)
    ),
    max_leaves=20,
)
CALLS: Any = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "tool", "system"])}, optional={
    "content": VALUES, "tool_calls": VALUES, "tool_call_id": SCALARS,
})  # fmt: skip
LIKELY = {
    "messages": st.lists(CALLS, max_size=3),
    "tools": st.lists(st.just(WEATHER) | VALUES, max_size=3),
    "input": st.lists(CALLS | VALUES, max_size=3),
}
PAIRS = st.sampled_from(NAMES).flatmap(lambda name: st.tuples(st.just(name), LIKELY.get(name, VALUES) | VALUES))
LEAST = st.sampled_from([*MINIMAL.values()])
quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def try_all(body: bytes) -> None:
    for operation in MINIMAL:
        with contextlib.suppress(InvalidInput):
            ask = decode_ask(operation, body)  # type: ignore[arg-type]
            assert ask.messages or ask.prompts
            assert len(ask.prompts) * ask.n <= LIMITS.max_answers
            open_writer(operation, ask, "r", "w", 1, 0).start()  # type: ignore[arg-type]
    for decode in (decode_embeddings, decode_tokenize, decode_detokenize, model_of):
        with contextlib.suppress(InvalidInput):
            decode(body)  # type: ignore[operator]


@quick
@given(LEAST, st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=4))
def test_values_of_any_kind(least: dict[str, Any], fields: dict[str, Any]) -> None:
    try_all(msgspec.json.encode(least | fields))


@quick
@given(LEAST, st.lists(PAIRS, max_size=4))
def test_values_that_are_nearly_right(least: dict[str, Any], pairs: list[tuple[str, Any]]) -> None:
    try_all(msgspec.json.encode(least | dict(pairs)))


@quick
@given(st.binary(max_size=64) | st.text(alphabet='{}[]":,0e-NI\\u', max_size=40).map(str.encode))
def test_bytes_of_any_kind(body: bytes) -> None:
    try_all(body)


@quick
@given(st.data())
def test_good_bodies_with_a_byte_changed(data: Any) -> None:
    body = bytearray(msgspec.json.encode(data.draw(LEAST)))
    body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try_all(bytes(body))


MEBIBYTE = 2**20
LARGE = {
    "a long text": b'{"messages":[{"role":"user","content":"%b"}],"x":1}' % (b"x" * MEBIBYTE),
    "many parameters": b"{%b}" % b",".join(b'"p%d":1' % number for number in range(90_000)),
    "one parameter many times": b"{%b}" % b",".join([b'"n":1'] * 170_000),
    "many messages": b'{"messages":[%b]}' % b",".join([b'{"role":"user","content":""}'] * 36_000),
    "many parts": b'{"messages":[{"role":"user","content":[%b]}]}' % b",".join([b'{"type":"text","text":""}'] * 40_000),
    "many tools": b'{"messages":[{"role":"user","content":"x"}],"tools":[%b]}' % b",".join([b"{}"] * 340_000),
    "many token ids": b'{"prompt":[%b]}' % b",".join([b"1"] * 500_000),
    "many prompts": b'{"prompt":[%b]}' % b",".join([b'""'] * 340_000),
    "many lists": b'{"prompt":[%b]}' % b",".join([b"[]"] * 340_000),
    "a long name": b'{"%b":1}' % (b"x" * MEBIBYTE),
    "a deep value": b'{"prompt":%b%b}' % (b"[" * 500_000, b"]" * 500_000),
    "a deep value that is accepted": b'{"prompt":"x","logit_bias":{"a":%b%b}}' % (b"[" * 900, b"]" * 900),
    "a wide schema": b'{"prompt":"x","response_format":{"type":"json_schema","json_schema":{"name":"n","schema":{"a":[%b]}}}}'
    % b",".join([b"[]"] * 20_000),
    "a long number": b'{"prompt":"x","n":%b}' % (b"9" * MEBIBYTE),
    "many stops": b'{"prompt":"x","stop":[%b]}' % b",".join([b'"x"'] * 250_000),
}


@pytest.mark.parametrize("body", LARGE.values(), ids=LARGE)
def test_a_megabyte_of_anything_takes_no_time(body: bytes) -> None:
    began = time.process_time()
    try_all(body)
    assert time.process_time() - began < 2  # of nine decoders together; a busy machine counts too


@pytest.mark.parametrize("depth", [30, 31, 32, 33, 100, 300, 500, 900, 1100])
def test_depths_and_lengths_of_numbers(depth: int) -> None:
    """Neither the interpreter's limit of recursion nor that of digits is ever seen."""
    nest, number = b"[" * depth + b"]" * depth, b"9" * (5 * depth)
    for value in (nest, number):
        try_all(b'{"prompt":"x","n":%b}' % value)
        try_all(b'{"prompt":"x","temperature":%b}' % value)
        try_all(b'{"prompt":"x","logit_bias":{"a":%b}}' % value)
        try_all(b'{"text_input":"x","parameters":{"n":%b}}' % value)
        function = b'{"name":"a","parameters":{"a":%b}}' % value
        try_all(b'{"messages":[{"role":"user","content":"x"}],"tools":[{"type":"function","function":%b}]}' % function)

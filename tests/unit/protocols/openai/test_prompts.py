"""Prompts of completions and embeddings: texts and token ids."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from openmaas.core.errors import InvalidInput
from openmaas.protocols.openai import Limits, decode_ask, decode_detokenize
from tests.unit.protocols.openai.asks import ask, refused


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("x", ["x"]),
        ("", [""]),
        ('["x"]', ['["x"]']),
        (["x", "y"], ["x", "y"]),
        ([1, 2], [[1, 2]]),
        ([[1], [2, 3]], [[1], [2, 3]]),
        ([0, 2**31 - 1], [[0, 2**31 - 1]]),
    ],
)
def test_the_four_forms(prompt: Any, expected: list[Any]) -> None:
    assert list(ask("completions", prompt=prompt).prompts) == expected


def test_space_within_lists() -> None:
    assert decode_ask("completions", b'{"prompt": [ \n [ 1 , 2 ] ]}').prompts == [[1, 2]]
    assert decode_ask("completions", b'{"prompt": [ \t "x" ]}').prompts == ["x"]


@pytest.mark.parametrize(
    "prompt", [5, True, {}, [], [[]], [["x"]], ["x", 1], [1, "x"], [1.5], [-1], [2**31], [[1], [-1]], ["x"] * 65, [[1]] * 65]
)
def test_what_is_no_prompt(prompt: Any) -> None:
    assert (refused(lambda: ask("completions", prompt=prompt)).param or "").startswith("prompt")


def test_answers_of_one_request_are_bounded() -> None:
    assert ask("completions", prompt=["x"] * 4, n=16).n == 16
    assert refused(lambda: ask("completions", prompt=["x"] * 5, n=16)).param == "n"
    body = msgspec.json.encode({"prompt": ["x"] * 3})
    assert refused(lambda: decode_ask("completions", body, Limits(max_answers=2))).param == "prompt"


@pytest.mark.parametrize("ids", ["[{}]", "[[1],[{}]]"])
def test_more_token_ids_than_any_context_has_are_not_read(ids: str) -> None:
    body = '{"model": "m", "prompt": ' + ids.format("1," * 2**20 + "1") + "}"
    with pytest.raises(InvalidInput, match="one of at most 1048576 token ids") as caught:
        decode_ask("completions", body.encode())
    assert caught.value.param == "prompt"
    with pytest.raises(InvalidInput, match="one of at most 1048576 token ids"):
        decode_detokenize(b'{"tokens": [' + b"1," * 2**20 + b"1]}")

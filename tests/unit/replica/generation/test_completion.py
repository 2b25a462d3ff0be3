"""One answer as it grows, token by token."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from openmaas.core.generation import GenerationRequest, Progress, Sampling, TokenLogprob
from openmaas.core.manifest import Manifest
from openmaas.processing.generation import StopStrings, TextModel, open_generation
from openmaas.protocols.generation import Ask, Delta
from openmaas.replica.generation.completion import Completion
from tests.unit.replica.generation.writer import SIGNATURE, generator, ids, write_files

END = 256
CALL = '<tool_call>{"name": "look", "arguments": {"at": "me"}}</tool_call>'


@cache
def model(tool_format: Any = "") -> TextModel:
    manifest = Manifest(
        format="dummy", engine="", entry="", signature=SIGNATURE, files=(), generator=generator(tool_format=tool_format)
    )
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder))
        return open_generation(manifest, Path(folder))


def completion(ask: Ask, text: TextModel | None = None, **options: Any) -> Completion:
    request = GenerationRequest(id=1, prompt=[1], max_tokens=99, end=(END,), sampling=Sampling(seed=0))
    stops = StopStrings(ask.stop) if ask.stop else None
    return Completion(0, request, text or model(), ask, stops=stops, **options)


def feed(one: Completion, text: str, size: int, finish: Any = "stop", logprobs: bool = False) -> list[Delta]:
    """All deltas of a text that comes in pieces of so many tokens."""
    tokens = ids(text) + ([END] if finish == "stop" else [])
    deltas = []
    for start in range(0, len(tokens), size):
        piece = tokens[start : start + size]
        last = start + size >= len(tokens)
        found = [TokenLogprob(-1.0) for _ in piece] if logprobs else None
        delta = one.push(Progress(1, piece, found, finish if last else ""))
        deltas += [delta] if delta is not None else []
        if one.finish:
            break
    return deltas


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_text_in_pieces_is_the_text(size: int) -> None:
    one = completion(Ask())
    deltas = feed(one, "naïve 好🙂", size)
    assert "".join(delta.text for delta in deltas) == one.choice.text == "naïve 好🙂"
    assert all(delta.text for delta in deltas)
    assert (one.finish, one.generated) == ("stop", len("naïve 好🙂".encode()) + 1)


@pytest.mark.parametrize("size", [1, 2, 3, 100])
@pytest.mark.parametrize(("stop", "read"), [("cd", "ab"), ("ab", ""), ("efg", "abcde"), ("e", "abcd")])
def test_a_stop_ends_it_wherever_the_pieces_part(size: int, stop: str, read: str) -> None:
    one = completion(Ask(stop=(stop, "efg!")))
    feed(one, "abcdef" if stop != "efg" else "abcde", size)
    assert (one.choice.text, one.finish) == (read, "stop")


def test_an_end_in_the_middle_of_a_character_or_of_a_stop_loses_nothing() -> None:
    one = completion(Ask(stop=("xyz",)))
    deltas = [one.push(Progress(1, ids("axy"))), one.push(Progress(1, ids("é")[:1], finish="length"))]
    assert [delta and delta.text for delta in deltas] == ["a", "xy\ufffd"]
    assert one.finish == "length"


@pytest.mark.parametrize("size", [1, 7, 200])
def test_calls_of_tools_come_whole(size: int) -> None:
    one = completion(Ask(), model("hermes"), tools=True)
    deltas = feed(one, f"Look: {CALL}{CALL}", size)
    calls = [(call.name, call.arguments) for delta in deltas for call in delta.tool_calls]
    assert calls == [("look", '{"at": "me"}')] * 2
    assert next(delta.first_tool for delta in deltas if delta.tool_calls) == 0
    assert sum(len(delta.tool_calls) for delta in deltas) == len(one.choice.tool_calls) == 2
    assert (one.finish, one.choice.text.strip()) == ("tool_calls", "Look:")


def test_a_call_that_is_cut_off_is_text_and_too_long() -> None:
    one = completion(Ask(), model("hermes"), tools=True)
    feed(one, CALL[:30], 4, finish="length")
    assert (one.choice.text, one.finish, one.choice.tool_calls) == (CALL[:30], "length", [])


def test_calls_are_text_where_nobody_offered_tools() -> None:
    one = completion(Ask(), model("hermes"))
    feed(one, CALL, 5)
    assert (one.choice.text, one.finish) == (CALL, "stop")


def test_logprobs_go_with_the_text_that_they_are_of() -> None:
    one = completion(Ask(logprobs=0))
    deltas = feed(one, "é!", 1, logprobs=True)
    assert [(delta.text, [token.data for token in delta.logprobs or ()]) for delta in deltas] == [
        ("é", ["é".encode()[:1], "é".encode()[1:]]),
        ("!", [b"!"]),
    ]
    assert len(one.choice.logprobs or ()) == 3


def test_logprobs_of_tokens_without_text_are_not_lost() -> None:
    one = completion(Ask(logprobs=0, stop=("ab",), stream=True))
    deltas = feed(one, "ab", 1, logprobs=True)
    assert [(delta.text, len(delta.logprobs or ())) for delta in deltas] == [("", 2)]


def test_a_stream_keeps_nothing() -> None:
    one = completion(Ask(stream=True))
    assert len(feed(one, "abc", 1)) == 3
    assert one.choice.text == ""

"""The first text that ends an answer, over any split, against a search that looks at the whole."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openmaas.core.errors import InvalidInput
from openmaas.processing.generation.stops import Matcher, StopStrings

texts = st.text("ab🙂", max_size=40)
stops = st.lists(st.text("ab🙂", min_size=1, max_size=6), max_size=4)


def cut(text: str, wanted: list[str]) -> tuple[str, str | None]:
    """As a reader would: character by character, until the end is one of `wanted`; the longest is cut off."""
    for end in range(1, len(text) + 1):
        if found := [stop for stop in wanted if text[:end].endswith(stop)]:
            return text[: end - max(map(len, found))], text[end:]
    return text, None


def split(text: str, sizes: list[int]) -> list[str]:
    parts, place = [], 0
    for size in [*sizes, len(text)]:
        parts.append(text[place : place + size])
        place += size
    return parts


@given(texts, stops, st.lists(st.integers(0, 5), max_size=40))
@settings(max_examples=300, deadline=None)
def test_as_one_who_sees_the_whole(text: str, wanted: list[str], sizes: list[int]) -> None:
    expected, _ = cut(text, wanted)
    reader, released, hit = StopStrings(wanted), "", False
    for part in split(text, sizes):
        more, hit = reader.push(part)
        released += more
    assert released + ("" if hit else reader.end()) == expected
    assert hit == (cut(text, wanted)[1] is not None)
    assert reader.end() == ""


@given(texts, stops)
@settings(max_examples=200, deadline=None)
def test_only_what_may_still_become_a_stop_is_held_back(text: str, wanted: list[str]) -> None:
    released, hit = StopStrings(wanted).push(text)
    if not hit:
        held = text[len(released) :]
        assert not held or any(stop.startswith(held) and stop != held for stop in wanted)


@given(texts, stops, st.lists(st.integers(0, 5), max_size=20))
@settings(max_examples=200, deadline=None)
def test_what_follows_a_find_is_given_and_the_matcher_is_as_new(text: str, wanted: list[str], sizes: list[int]) -> None:
    matcher, found = Matcher(wanted), 0
    out, reread, left = "", "", text
    while True:
        before, rest = cut(left, wanted)
        out += before
        if rest is None:
            break
        found, left = found + 1, rest
    for part in split(text, sizes):
        rest: str | None = part
        while rest is not None:
            more, rest = matcher.push(rest)
            reread += more
            found -= rest is not None
    assert reread + matcher.end() == out
    assert found == 0


def test_the_one_that_ends_first_and_then_the_longest() -> None:
    assert StopStrings(["abcdef", "cd"]).push("xabcdef") == ("xab", True)
    assert StopStrings(["b", "ab"]).push("xab") == ("x", True)
    assert StopStrings([]).push("anything") == ("anything", False)


def test_nothing_comes_after_the_end() -> None:
    reader = StopStrings(["\n\n"])
    assert reader.push("one\n") == ("one", False)
    assert reader.push("\ntwo") == ("", True)
    assert reader.push("three") == ("", True)
    assert reader.end() == ""


def test_an_empty_one_is_refused() -> None:
    with pytest.raises(InvalidInput, match="empty"):
        StopStrings(["a", ""])


def test_long_stops_cost_no_more_than_short_ones() -> None:
    """One that repeats itself, against a text of nothing else: the worst case of a plain search."""
    reader = StopStrings(["a" * 10_000 + "b"])
    began = time.process_time()
    for _ in range(20_000):
        reader.push("aaaa")
    assert time.process_time() - began < 3
    assert len(reader.end()) == 10_000


def test_many_answers_share_what_is_known_of_their_stops() -> None:
    first = StopStrings(["abc", "".join(chr(number) for number in range(300, 4000))])
    assert first.push("xab") == ("x", False)
    others = [first.anew() for _ in range(1000)]
    assert all(other._matcher._next is first._matcher._next for other in others)
    assert others[0].push("c") == ("c", False)
    assert others[1].push("abc!") == ("", True)
    assert others[1].anew().push("ab") == ("", False)
    assert first.push("c") == ("", True)

"""Texts that end an answer or begin something in it, found over any split of the answer (Aho and Corasick's automaton)."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Self

from openmaas.core.errors import InvalidInput


class Matcher:
    """Finds the first of several texts. Time and memory are linear in the text and in their lengths."""

    def __init__(self, wanted: Sequence[str]) -> None:
        """None of them empty."""
        self._next: list[dict[str, int]] = [{}]
        self._depth = [0]  # characters that a state stands for: the end of the text that is the beginning of one of `wanted`
        self._found = [0]  # of the longest of `wanted` that ends in a state
        for text in wanted:
            self._add(text)
        self._back = [0] * len(self._next)
        self._link()
        self._first = frozenset(self._next[0])
        self._state = 0
        self._held = ""

    def push(self, text: str) -> tuple[str, str | None]:
        """(text that is certainly none of them, None while none was found, else all that came after it.

        The one that ends first is found; of those that end together, the longest. The matcher is then as new."""
        if not self._state and self._first.isdisjoint(text):
            return text, None
        state = self._state
        for place, character in enumerate(text):
            while (following := self._next[state].get(character)) is None and state:
                state = self._back[state]
            state = following or 0
            if self._found[state]:
                seen = self._held + text[: place + 1]
                self._state, self._held = 0, ""
                return seen[: -self._found[state]], text[place + 1 :]
        self._state = state
        whole = self._held + text
        cut = len(whole) - self._depth[state]
        self._held = whole[cut:]
        return whole[:cut], None

    def end(self) -> str:
        """What was held back."""
        held, self._held, self._state = self._held, "", 0
        return held

    def anew(self) -> Self:
        """One for another text. Its tables, which can take a megabyte, are these."""
        twin = copy(self)
        twin.end()
        return twin

    def _add(self, text: str) -> None:
        state = 0
        for character in text:
            following = self._next[state].get(character)
            if following is None:
                following = self._next[state][character] = len(self._next)
                self._next.append({})
                self._depth.append(self._depth[state] + 1)
                self._found.append(0)
            state = following
        self._found[state] = len(text)

    def _link(self) -> None:
        """Where to go on from each state when the next character does not fit, the shallow ones first."""
        waiting = list(self._next[0].values())
        for state in waiting:
            for character, following in self._next[state].items():
                waiting.append(following)
                back = self._back[state]
                while character not in self._next[back] and back:
                    back = self._back[back]
                self._back[following] = self._next[back].get(character, 0)
                self._found[following] = self._found[following] or self._found[self._back[following]]


class StopStrings:
    """Cuts an answer off before the first of several texts. Of two, the one that ends first counts, as a reader would have seen
    it; of those that end together, the longest."""

    def __init__(self, stops: Sequence[str]) -> None:
        """Raises InvalidInput for an empty one, which would end every answer at once."""
        if not all(stops):
            raise InvalidInput("A text that ends the answer ('stop') is empty.", code="invalid_stop", param="stop")
        self._matcher = Matcher(stops)
        self._hit = False

    def push(self, text: str) -> tuple[str, bool]:
        """(text that may go out, whether the answer has ended). What may still become one of them is held back."""
        if self._hit:
            return "", True
        text, rest = self._matcher.push(text)
        self._hit = rest is not None
        return text, self._hit

    def end(self) -> str:
        """What was held back, where no stop came."""
        return self._matcher.end()

    def anew(self) -> Self:
        """The same for another answer, at next to no cost."""
        twin = copy(self)
        twin._matcher, twin._hit = self._matcher.anew(), False
        return twin

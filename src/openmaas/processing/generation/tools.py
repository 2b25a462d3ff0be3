"""Calls of tools, read from an answer while it is being written."""

from __future__ import annotations

from typing import Final, TypeAlias

from openmaas.core.generation import ToolCall, ToolFormat
from openmaas.processing.generation.stops import Matcher
from openmaas.processing.generation.tool_body import Body, NoCall

Read: TypeAlias = tuple[str, list[ToolCall]]

OPENING: Final[dict[ToolFormat, str]] = {"hermes": "<tool_call>", "mistral": "[TOOL_CALLS]", "llama3": "<|python_tag|>"}
"""What stands before a call. In Llama's format a call may begin the answer, or follow another, without it."""
CLOSING: Final[dict[ToolFormat, str]] = {"hermes": "</tool_call>"}

_BETWEEN: Final = " \t\r\n;"
"""What may part two calls in Llama's format."""


class ToolCallReader:
    """Tells calls from text. Text goes on as it comes, calls come whole, and what turns out to be no call is text after all.

    White space before the first call and around those that follow is dropped. One reader reads one answer.
    """

    def __init__(self, tool_format: ToolFormat) -> None:
        """Of no format: all is text."""
        self._format = tool_format
        self._tags = Matcher((OPENING[tool_format],)) if tool_format else None
        self._body: Body | None = None
        self._bare = tool_format == "llama3"  # a call may begin here without its tag
        self._closing = False  # a call's closing tag may follow
        self._pending = ""  # the little that was seen while one of these two is open
        self._edge = True  # at the beginning or behind a call, where nothing but blanks came since
        self._blank = ""  # these
        self._called = False

    def push(self, text: str) -> Read:
        """(text outside of calls, calls that are complete)."""
        texts: list[str] = []
        calls: list[ToolCall] = []
        while text:
            text = self._outside(text, texts) if self._body is None else self._inside(self._body, text, texts, calls)
        return "".join(texts), calls

    def end(self) -> Read:
        """What is left. A call that was cut off is text."""
        texts: list[str] = []
        calls: list[ToolCall] = []
        while self._body is not None:
            text, more = self.push(self._no_call(self._body, texts))
            texts.append(text)
            calls += more
        if not self._called:
            self._release(self._pending, texts)
        if self._tags is not None:
            self._release(self._tags.end(), texts)
        if not self._called:
            texts.append(self._blank)
        self._blank = self._pending = ""
        return "".join(texts), calls

    def _outside(self, text: str, texts: list[str]) -> str:
        """What follows the beginning of a call, empty where none begins."""
        if self._tags is None:
            self._release(text, texts)
            return ""
        if self._closing or self._bare:
            text, self._pending = self._pending + text, ""
            begun = text.lstrip(_BETWEEN if self._bare and self._called else None)
            closing = CLOSING[self._format] if self._closing else ""
            if closing.startswith(begun):
                self._pending = text
                return ""
            if closing and begun.startswith(closing):
                self._closing = False
                return begun[len(closing) :]
            bare = self._bare and begun[0] == "{"
            self._closing = self._bare = False
            if bare:
                self._open(text[: -len(begun)])
                return begun
        text, rest = self._tags.push(text)
        self._release(text, texts)
        if rest is not None:
            self._open(OPENING[self._format])
        return rest or ""

    def _inside(self, body: Body, text: str, texts: list[str], calls: list[ToolCall]) -> str:
        """What follows the call, empty while it goes on; all of it again where it is none."""
        rest: str | None = ""
        try:
            rest = body.push(text)
            if rest is None:
                return ""
            calls += body.calls()
        except NoCall:
            return self._no_call(body, texts) + (rest or "")
        self._body = None
        self._called = self._edge = True
        self._closing = self._format in CLOSING
        self._bare = self._format == "llama3"
        return rest

    def _open(self, opening: str) -> None:
        self._body = Body(self._format, self._blank + opening)
        self._blank = ""

    def _no_call(self, body: Body, texts: list[str]) -> str:
        """What followed the beginning and is to be read once more."""
        self._body = None
        self._release(body.opening, texts)
        return body.text

    def _release(self, text: str, texts: list[str]) -> None:
        if self._edge:
            text = self._blank + text
            self._edge = not text or text.isspace()
            self._blank = text if self._edge else ""
        if not self._edge:
            texts.append(text)

"""The JSON of one call of a tool (or of a list of them), followed character by character to where it ends."""

from __future__ import annotations

import re
import secrets
import string
from typing import Final

import msgspec

from openmaas.core.generation import ToolCall, ToolFormat

_WITHIN: Final = re.compile(r'["\n]|\\[\s\S]?')
"""What counts in a text of JSON: its end, an escape, and a line break, which none has."""
_OUTSIDE: Final = re.compile(r"[^ \t\r\n0-9:,.+\-eEtrufalsn]")
"""What counts elsewhere: all but blanks, numbers, true, false and null."""
_FIRST_KEY: Final = re.compile(r'\{\s{0,64}"(name|parameters|arguments|type)"')
_NO_KEY_YET: Final = re.compile(r'\{\s{0,64}("[a-z]{0,9})?')
_NAMED: Final = re.compile(r"\s*([\w.\-]+)\s*(?:\[CALL_ID\]\w*)?(?:\[ARGS\])?\s*")
_LONGEST_NAME: Final = 256
_LETTERS: Final = string.ascii_letters + string.digits


class NoCall(Exception):
    """What began like a call is text."""


class _Written(msgspec.Struct):
    """A call as a model writes it. Raw: its arguments stay as they are."""

    name: str
    arguments: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    parameters: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_ONE: Final = msgspec.json.Decoder(_Written)
_MANY: Final = msgspec.json.Decoder(list[_Written])


class Body:
    """What follows `opening`: an object, in Mistral's format a list of them, or a name and its arguments.

    Linear in the text, however it is split, and most of what is malformed is known for it at once."""

    def __init__(self, tool_format: ToolFormat, opening: str) -> None:
        self.opening = opening
        self._format = tool_format
        self._bare = not opening.strip(" \t\r\n;")  # it began without a tag
        self._head = ""  # all before the JSON
        self._parts: list[str] = []
        self._depth = 0
        self._quoted = False
        self._escaped = False

    def push(self, text: str) -> str | None:
        """None while the JSON goes on, else what follows it. Raises NoCall where it cannot be a call any more."""
        if not self._parts:
            self._head += text
            start = self._beginning(self._head)
            if start < 0:
                return None
            self._head, text = self._head[:start], self._head[start:]
        self._parts.append(text)
        end = self._end(text)
        if self._bare:
            self._require_first_key("".join(self._parts))
        if end < 0:
            return None
        self._parts[-1] = text[:end]
        return text[end:]

    @property
    def text(self) -> str:
        """All that came until now, without what follows the JSON."""
        return self._head + "".join(self._parts)

    def calls(self) -> list[ToolCall]:
        """After the end. Raises NoCall for what is not written as calls are."""
        data = "".join(self._parts)
        if name := self._head.strip():
            if not (match := _NAMED.fullmatch(name)):
                raise NoCall
            return [self._call(match[1], data)]
        try:
            written = _MANY.decode(data) if data.startswith("[") else [_ONE.decode(data)]
        except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
            raise NoCall from error
        if not written:
            raise NoCall
        return [self._call(call.name, _arguments(call)) for call in written]

    def _call(self, name: str, arguments: str) -> ToolCall:
        if not name:
            raise NoCall
        # Mistral's templates refuse a conversation in which a call is named otherwise.
        prefix, length = ("", 9) if self._format == "mistral" else ("call_", 24)
        letters = (secrets.choice(_LETTERS) for _ in range(length))
        return ToolCall(id=prefix + "".join(letters), name=name, arguments=arguments)

    def _beginning(self, head: str) -> int:
        """Where the JSON begins, -1 where that is not to be seen yet."""
        begun = head.lstrip()
        if not begun or begun[0] == "{" or (begun[0] == "[" and self._format == "mistral"):
            return len(head) - len(begun) if begun else -1
        brace = head.find("{")
        if self._format != "mistral" or (brace >= 0 and not _NAMED.fullmatch(head, 0, brace)) or len(head) > _LONGEST_NAME:
            raise NoCall
        return brace

    def _end(self, text: str) -> int:
        """Behind the end of the JSON in its next piece, -1 where it is not in there."""
        place, self._escaped = int(self._escaped), False
        while match := (_WITHIN if self._quoted else _OUTSIDE).search(text, place):
            mark, place = match[0], match.end()
            if mark == '"':
                self._quoted = not self._quoted
            elif self._quoted and mark[0] == "\\":
                self._escaped = len(mark) == 1  # what it escapes is in the next piece
            elif mark in "{[":
                self._depth += 1
            elif mark in "}]":
                self._depth -= 1
                if not self._depth:
                    return place
            else:
                raise NoCall
        return -1

    def _require_first_key(self, begun: str) -> None:
        """An answer that is some other JSON goes on as text after its first key."""
        if _FIRST_KEY.match(begun):
            self._bare = False
        elif not _NO_KEY_YET.fullmatch(begun):
            raise NoCall


def _arguments(call: _Written) -> str:
    """Text of an object. Some models write it as a text with JSON in it."""
    raw = call.arguments if call.arguments is not msgspec.UNSET else call.parameters
    text = bytes(raw).decode() if raw is not msgspec.UNSET else "{}"
    try:
        if text.startswith('"'):
            text = msgspec.json.decode(text, type=str)
            msgspec.json.decode(text, type=dict)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise NoCall from error
    if not text.lstrip().startswith("{"):
        raise NoCall
    return text

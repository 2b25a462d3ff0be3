"""Universal Binary JSON (ubjson.org, draft 12) as plain data: the part of it that xgboost writes, and nothing that runs."""

from __future__ import annotations

from typing import Any

import numpy as np

MAX_DEPTH = 32
_INTEGERS: dict[bytes, np.dtype[Any]] = {
    b"i": np.dtype(">i1"),
    b"U": np.dtype(">u1"),
    b"I": np.dtype(">i2"),
    b"l": np.dtype(">i4"),
    b"L": np.dtype(">i8"),
}
_FLOATS: dict[bytes, np.dtype[Any]] = {b"d": np.dtype(">f4"), b"D": np.dtype(">f8")}
_CONSTANTS = {b"Z": None, b"T": True, b"F": False}


class NotUbjson(ValueError):
    """The bytes are no such document, or end too early."""


def decode(data: bytes) -> Any:
    """Objects, lists, text and numbers. Raises NotUbjson; what follows the document counts as damage too."""
    reader = _Reader(data)
    value = reader.value(reader.take(1), 0)
    if reader.at != len(data):
        raise NotUbjson("there is more after the end of the document")
    return value


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        if count < 0 or self.at + count > len(self.data):
            raise NotUbjson(f"it ends at byte {len(self.data)} and declares {count} more after {self.at}")
        self.at += count
        return self.data[self.at - count : self.at]

    def value(self, marker: bytes, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise NotUbjson(f"it is nested more than {MAX_DEPTH} deep")
        if marker in _CONSTANTS:
            return _CONSTANTS[marker]
        if marker in _INTEGERS or marker in _FLOATS:
            return self._numbers(marker, 1)[0]
        if marker == b"S":
            return self._text()
        if marker == b"[":
            return self._list(depth)
        if marker == b"{":
            return self._object(depth)
        raise NotUbjson(f"byte {self.at - 1} is no type of a value")

    def _count(self) -> int:
        marker = self.take(1)
        if marker not in _INTEGERS:
            raise NotUbjson(f"the length at byte {self.at - 1} is no whole number")
        return int(self._numbers(marker, 1)[0])

    def _text(self) -> str:
        try:
            return self.take(self._count()).decode()
        except UnicodeDecodeError:
            raise NotUbjson("a text is not UTF-8") from None

    def _numbers(self, marker: bytes, count: int) -> list[Any]:
        """float32 as the shortest decimal that means it, as its JSON would be written."""
        dtype = _INTEGERS[marker] if marker in _INTEGERS else _FLOATS[marker]
        array = np.frombuffer(self.take(dtype.itemsize * count), dtype)
        if marker == b"d":
            array = array.astype(np.float32).astype("U32").astype(np.float64)
        plain: list[Any] = array.tolist()
        return plain

    def _list(self, depth: int) -> list[Any]:
        marker = self.take(1)
        if marker == b"$":
            kind = self.take(1)
            if self.take(1) != b"#" or (kind not in _INTEGERS and kind not in _FLOATS):
                raise NotUbjson("a list of one type is not of numbers, or has no length")
            return self._numbers(kind, self._count())
        if marker == b"#":
            count = self._count()
            if count > len(self.data) - self.at:
                raise NotUbjson(f"a list declares {count} items in {len(self.data) - self.at} bytes")
            return [self.value(self.take(1), depth + 1) for _ in range(count)]
        items = []
        while marker != b"]":
            items.append(self.value(marker, depth + 1))
            marker = self.take(1)
        return items

    def _object(self, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while self.data[self.at : self.at + 1] != b"}":
            name = self._text()
            if name in found:
                raise NotUbjson(f"the name {name[:40]!r} is given twice")
            found[name] = self.value(self.take(1), depth + 1)
        self.take(1)
        return found

"""The outermost layer of a protobuf file, read field by field without loading what the fields hold."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class Field(NamedTuple):
    """One field: its number, its wire type, and where its content ends (beyond `size` when the file is cut short)."""

    number: int
    kind: int
    end: int


class NotProtobuf(ValueError):
    """The bytes are not a protobuf message."""


def walk(path: Path, limit: int = 100_000) -> Iterator[Field]:
    """The top-level fields of a file. Raises NotProtobuf at the first byte that does not fit, or beyond `limit` fields."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        for _ in range(limit):
            if file.tell() >= size:
                return
            field = _field(file)
            yield field
            file.seek(min(field.end, size))
    raise NotProtobuf(f"more than {limit} fields")


def _field(file: BinaryIO) -> Field:
    tag = _varint(file)
    number, kind = tag >> 3, tag & 7
    if kind == VARINT:
        _varint(file)
        return Field(number, kind, file.tell())
    if kind == BYTES:
        length = _varint(file)
        return Field(number, kind, file.tell() + length)
    if kind in (FIXED64, FIXED32):
        return Field(number, kind, file.tell() + (8 if kind == FIXED64 else 4))
    raise NotProtobuf(f"wire type {kind}")


def _varint(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise NotProtobuf("the file ends inside a number")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise NotProtobuf("a number has more than ten bytes")

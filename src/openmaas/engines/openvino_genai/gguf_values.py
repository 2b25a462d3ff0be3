"""Single numbers from a GGUF file's head. The package's own reader takes seconds for a vocabulary, which is passed over here.

The file was held against its head when it was pushed.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _LIST = 8, 9
_LONGEST = 4096  # lists of numbers that are read: a vocabulary's scores are not


def read_values(path: Path) -> dict[str, object]:
    """Numbers, texts and short lists of numbers by key. Raises ValueError, KeyError or struct.error for what is none."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:4] != b"GGUF":
            raise ValueError("no GGUF file")
        (count,) = struct.unpack_from("<Q", data, 16)
        values: dict[str, object] = {}
        place = 24
        for _ in range(count):
            key, place = _text(data, place)
            (kind,) = struct.unpack_from("<I", data, place)
            values[key.decode()], place = _value(data, place + 4, kind)
        return values


def _value(data: mmap.mmap, place: int, kind: int) -> tuple[object, int]:
    if kind == _TEXT:
        return _text(data, place)
    if kind != _LIST:
        return struct.unpack_from(f"<{_NUMBERS[kind]}", data, place)[0], place + struct.calcsize(f"<{_NUMBERS[kind]}")
    inner, count = struct.unpack_from("<IQ", data, place)
    place += 12
    if inner == _TEXT:
        for _ in range(count):
            place += 8 + struct.unpack_from("<Q", data, place)[0]
        return None, place
    form = f"<{count}{_NUMBERS[inner]}"
    return (struct.unpack_from(form, data, place) if count <= _LONGEST else None), place + struct.calcsize(form)


def _text(data: mmap.mmap, place: int) -> tuple[bytes, int]:
    (length,) = struct.unpack_from("<Q", data, place)
    return data[place + 8 : place + 8 + length], place + 8 + length

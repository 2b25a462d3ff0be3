"""The head of a GGUF file, held against the file: what it declares is there, whole, and within bounds.

The format (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md): "GGUF", version, number of tensors, number of values;
the values by key; of each tensor name, axes (the fastest first), type and offset; and from the next multiple of the alignment
on, the tensors. Numbers are little-endian.
"""

from __future__ import annotations

import math
import mmap
import struct
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec

from openmaas.core.errors import Refused

MAGIC: Final = b"GGUF"
Value: TypeAlias = Any
"""A number, a truth, a text, or a list of one of them."""
_VERSIONS = (2, 3)
_MAX_VALUES = 4096
_MAX_TENSORS = 1 << 16
_MAX_ITEMS = 4 << 20
_MAX_TEXT = 1 << 20
_MAX_NAME = 1 << 10
_MAX_AXES = 4
_MAX_ELEMENTS = 1 << 48
_MAX_ALIGNMENT = 1 << 16
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _LIST = 8, 9
TYPES: Final = {
    0: ("f32", 1, 4), 1: ("f16", 1, 2), 2: ("q4_0", 32, 18), 3: ("q4_1", 32, 20), 6: ("q5_0", 32, 22), 7: ("q5_1", 32, 24),
    8: ("q8_0", 32, 34), 9: ("q8_1", 32, 40), 10: ("q2_k", 256, 84), 11: ("q3_k", 256, 110), 12: ("q4_k", 256, 144),
    13: ("q5_k", 256, 176), 14: ("q6_k", 256, 210), 15: ("q8_k", 256, 292), 30: ("bf16", 1, 2),
}  # fmt: skip
"""Name, elements of a block, bytes of a block, by number. There are more; no engine here reads them."""


class Tensor(msgspec.Struct, frozen=True):
    """axes: the fastest last, as numpy has them. size: bytes."""

    kind: str
    axes: tuple[int, ...]
    size: int

    @property
    def elements(self) -> int:
        return math.prod(self.axes)


class Head(msgspec.Struct, frozen=True):
    values: dict[str, Value]
    tensors: dict[str, Tensor]


def is_gguf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == MAGIC


def read_head(path: Path) -> Head:
    """Raises Refused where the head lies, or holds what no model has."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _Reader(path.name, data).read()


class _Reader:
    def __init__(self, name: str, data: mmap.mmap) -> None:
        self._name = name
        self._data = data
        self._place = 0

    def read(self) -> Head:
        if self._take(4, "the mark of its kind") != MAGIC:
            raise self._lying("it does not begin with 'GGUF'")
        (version,) = self._numbers("I", 1)
        if version not in _VERSIONS:
            raise self._lying(f"it says version {version}; {' and '.join(map(str, _VERSIONS))} are read, little-endian")
        tensors, values = self._numbers("Q", 2)
        for what, count, most in (("tensors", tensors, _MAX_TENSORS), ("values", values, _MAX_VALUES)):
            if count > most:
                raise self._lying(f"it declares {count} {what}; at most {most} are read")
        found = self._read_values(values)
        return Head(found, self._read_tensors(tensors, found.get("general.alignment", 32)))

    # values

    def _read_values(self, count: int) -> dict[str, Value]:
        values: dict[str, Value] = {}
        for _ in range(count):
            key = self._text(_MAX_NAME)
            if key in values:
                raise self._lying(f"it has the value {key[:120]!r} twice")
            values[key] = self._value(self._kind(), key)
        return values

    def _kind(self) -> int:
        return int(self._numbers("I", 1)[0])

    def _value(self, kind: int, key: str) -> Value:
        if kind == _TEXT:
            return self._text(_MAX_TEXT)
        if kind == _LIST:
            return self._list(key)
        return self._numbers(self._code(kind, key), 1)[0]

    def _list(self, key: str) -> list[Value]:
        kind = self._kind()
        (count,) = self._numbers("Q", 1)
        if kind == _LIST:
            raise self._lying(f"the value {key[:120]!r} is a list of lists")
        if count > _MAX_ITEMS:
            raise self._lying(f"the value {key[:120]!r} has {count} items; at most {_MAX_ITEMS} are read")
        if kind != _TEXT:
            return list(self._numbers(self._code(kind, key), count))
        self._require(8 * count, f"the {count} items of {key[:120]!r}")
        return [self._text(_MAX_TEXT) for _ in range(count)]

    def _code(self, kind: int, key: str) -> str:
        if kind not in _NUMBERS:
            raise self._lying(f"the value {key[:120]!r} has the type {kind}, which is not known")
        return _NUMBERS[kind]

    # tensors

    def _read_tensors(self, count: int, alignment: Value) -> dict[str, Tensor]:
        if not isinstance(alignment, int) or not 1 <= alignment <= _MAX_ALIGNMENT or alignment & (alignment - 1):
            raise self._lying(f"it says that tensors are aligned to {str(alignment)[:40]!r}")
        tensors: dict[str, Tensor] = {}
        offsets: dict[str, int] = {}
        for _ in range(count):
            name = self._text(_MAX_NAME)
            if name in tensors:
                raise self._lying(f"it has the tensor {name[:120]!r} twice")
            tensors[name], offsets[name] = self._tensor(name)
        self._check_spans(tensors, offsets, alignment)
        return tensors

    def _tensor(self, name: str) -> tuple[Tensor, int]:
        axes_count = self._kind()
        if not 1 <= axes_count <= _MAX_AXES:
            raise self._lying(f"the tensor {name[:120]!r} has {axes_count} axes")
        axes = self._numbers("Q", axes_count)
        kind = self._kind()
        (offset,) = self._numbers("Q", 1)
        if kind not in TYPES:
            raise self._lying(f"the tensor {name[:120]!r} has the type {kind}, which is not known here")
        label, block, size = TYPES[kind]
        if any(not 1 <= axis <= _MAX_ELEMENTS for axis in axes) or math.prod(axes) > _MAX_ELEMENTS or axes[0] % block:
            raise self._lying(f"the tensor {name[:120]!r}, {label} {list(axes)}, has an impossible shape")
        return Tensor(label, tuple(reversed(axes)), math.prod(axes) // block * size), offset

    def _check_spans(self, tensors: dict[str, Tensor], offsets: dict[str, int], alignment: int) -> None:
        """Each lies within the file, on an aligned place, and after the end of the one before it."""
        start = -(-self._place // alignment) * alignment
        room, end = len(self._data) - start, 0
        for name in sorted(offsets, key=lambda name: offsets[name]):
            offset = offsets[name]
            if offset % alignment or offset < end:
                raise self._lying(f"the tensor {name[:120]!r} at {offset} overlaps another, or is not aligned to {alignment}")
            end = offset + tensors[name].size
            if end > room:
                raise self._lying(f"the tensor {name[:120]!r} ends at byte {end} of {max(room, 0)}")

    # bytes

    def _text(self, most: int) -> str:
        (length,) = self._numbers("Q", 1)
        if length > most:
            raise self._lying(f"it has a text of {length} bytes where at most {most} are read")
        try:
            return self._take(length, "a text").decode()
        except UnicodeDecodeError:
            raise self._lying("it has a text that is not UTF-8") from None

    def _numbers(self, code: str, count: int) -> tuple[Any, ...]:
        form = struct.Struct(f"<{count}{code}")
        return form.unpack(self._take(form.size, f"{count} numbers"))

    def _take(self, count: int, what: str) -> bytes:
        self._require(count, what)
        taken = self._data[self._place : self._place + count]
        self._place += count
        return taken

    def _require(self, count: int, what: str) -> None:
        left = len(self._data) - self._place
        if count > left:
            raise self._lying(f"{what} would take {count} bytes of the {left} that are left")

    def _lying(self, what: str) -> Refused:
        return Refused(
            f"The GGUF file {self._name!r} is damaged: {what}.",
            code="damaged",
            next_step="Copy it again, and compare its size with the original's.",
        )

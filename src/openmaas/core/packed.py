"""Packed files (xz): an engine's library is given the plain bytes as a file that only this process has, in memory."""

from __future__ import annotations

import lzma
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

from openmaas.core.errors import InvalidInput

MOST_BYTES: Final = 2**31
"""Of the plain file: more than that, no protobuf file can have."""

_MAGIC = b"\xfd7zXZ\x00"
_TABLES = 128 << 20  # bytes that unpacking itself may take; the strongest preset takes 65 MiB
_PIECE = 1 << 20
_SAMPLE = 1 << 19  # bytes by which a setting is chosen and a size estimated
_PARTS = 8  # of the file, that these are of
_LEAST_DICTIONARY = 4096
_USUAL: Final = {"lc": 3, "lp": 0, "pb": 2}
_NUMBERS: Final = {"lc": 0, "lp": 2, "pb": 2}  # of four bytes: exponents are told from digits
_SETTINGS: Final[tuple[dict[str, int], ...]] = (
    _NUMBERS | {"mf": lzma.MF_HC3, "depth": 4, "nice_len": 64},  # up to 4 times as fast
    _NUMBERS,
    _USUAL,
)
"""Of LZMA, each besides the strongest preset."""
_NEAR: Final = 1.002  # times the smallest, which a faster setting is good enough with


def is_packed(path: Path) -> bool:
    """Whether the file begins as an xz file does."""
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def pack(data: bytes, told: Callable[[int, int], object] = lambda done, total: None) -> bytes:
    """As small as xz makes it; seconds for 10 MB. told: bytes that are packed, of how many; what it raises ends the work."""
    compressor = lzma.LZMACompressor(lzma.FORMAT_XZ, lzma.CHECK_CRC64, filters=_filters(_fitting(data), len(data)))
    parts = []
    for start in range(0, len(data), _PIECE):
        told(start, len(data))
        parts.append(compressor.compress(data[start : start + _PIECE]))
    return b"".join((*parts, compressor.flush()))


def estimated_size(data: bytes) -> tuple[int, int]:
    """Bytes that `pack` will make of it, from a sample: in a second or two, whatever its size; and how many were packed for
    that. What repeats far apart in a large file is not seen."""
    sample = _sample(data)
    tried = _tried(sample)
    return round(min(tried) * len(data) / max(1, len(sample))), len(tried) * len(sample)


def _fitting(data: bytes) -> dict[str, int]:
    tried = _tried(_sample(data))
    return next(setting for setting, size in zip(_SETTINGS, tried, strict=True) if size <= min(tried) * _NEAR)


def _tried(sample: bytes) -> list[int]:
    """Bytes of the sample in each setting."""
    return [
        len(lzma.compress(sample, lzma.FORMAT_XZ, lzma.CHECK_CRC64, filters=_filters(one, len(sample)))) for one in _SETTINGS
    ]


def _filters(setting: dict[str, int], size: int) -> list[dict[str, Any]]:
    dictionary = max(_LEAST_DICTIONARY, min(size, 64 << 20))  # a larger one than the data takes memory for nothing
    return [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": dictionary, **setting}]


def _sample(data: bytes) -> bytes:
    """Parts from all over it, each beginning where a number of four bytes would."""
    if len(data) <= _SAMPLE:
        return data
    size = _SAMPLE // _PARTS
    step = (len(data) - size) // (_PARTS - 1)
    return b"".join(data[start : start + size] for start in (number * step // 4 * 4 for number in range(_PARTS)))


@contextmanager
def plain_file(path: Path, most: int = MOST_BYTES) -> Iterator[Path]:
    """The path itself, or of a packed file one to its plain bytes, good while the context lasts.

    Raises InvalidInput for one that is damaged, cut short, or has more than `most` bytes when it is unpacked.
    """
    if not is_packed(path):
        yield path
        return
    with os.fdopen(os.memfd_create("openmaas-plain", os.MFD_CLOEXEC), "w+b") as plain, path.open("rb") as packed:
        _unpack(packed, plain, path.name, most)
        plain.flush()
        yield Path(f"/proc/self/fd/{plain.fileno()}")


def _unpack(packed: BinaryIO, plain: BinaryIO, name: str, most: int) -> None:
    decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_TABLES)
    try:
        while not decompressor.eof:
            given = packed.read(_PIECE) if decompressor.needs_input else b""
            if decompressor.needs_input and not given:
                raise InvalidInput(f"The packed file {name!r} is cut short.", code="truncated", next_step="Copy it again.")
            plain.write(decompressor.decompress(given, _PIECE))
            if plain.tell() > most:
                raise InvalidInput(
                    f"The packed file {name!r} has more than {most} bytes when it is unpacked.",
                    code="too_large_unpacked",
                    next_step="Push it unpacked, with its weights in files beside it.",
                )
    except lzma.LZMAError as error:
        raise InvalidInput(f"The packed file {name!r} is damaged: {error}.", code="damaged") from None
    if decompressor.unused_data or packed.read(1):
        raise InvalidInput(f"The packed file {name!r} goes on after its end.", code="damaged")

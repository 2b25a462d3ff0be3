"""Packed files (xz): an engine's library is given the plain bytes as a file that only this process has, in memory."""

from __future__ import annotations

import lzma
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from openmaas.core.errors import InvalidInput

MOST_BYTES: Final = 2**31
"""Of the plain file: more than that, no protobuf file can have."""

_MAGIC = b"\xfd7zXZ\x00"
_TABLES = 128 << 20  # bytes that unpacking itself may take; the strongest preset takes 65 MiB
_PIECE = 1 << 20


def is_packed(path: Path) -> bool:
    """Whether the file begins as an xz file does."""
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def pack(data: bytes) -> bytes:
    """As small as xz makes it."""
    return lzma.compress(data, lzma.FORMAT_XZ, lzma.CHECK_CRC64, preset=9 | lzma.PRESET_EXTREME)


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

"""Which files run code when they are loaded? Told by their content, whatever they are called or packed in. Nothing is loaded.

Looked into: pickle streams of every protocol, joblib's, compressed with zlib, gzip, bz2, lzma or xz, members of zip and tar
archives (PyTorch's data.pkl, .npz), and numpy's arrays of objects. Only the first MAX_LOOK bytes of each are read.
"""

from __future__ import annotations

import bz2
import contextlib
import io
import lzma
import pickletools
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

MAX_LOOK = 4 << 20
MAX_MEMBERS = 4096
MAX_DEPTH = 3
_PROTOCOL = 0x80  # the first byte of every pickle since protocol 2
_IMPORTS = frozenset({"GLOBAL", "STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"})
_CALLS = frozenset({"REDUCE", "OBJ", "NEWOBJ", "NEWOBJ_EX", "BUILD", "INST"})
_PACKED: tuple[tuple[bytes, Callable[[], object]], ...] = (
    (b"\x1f\x8b", lambda: zlib.decompressobj(31)),
    (b"BZh", bz2.BZ2Decompressor),
    (b"\xfd7zXZ", lzma.LZMADecompressor),
    (b"\x5d\x00\x00", lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE)),
    (b"\x78", zlib.decompressobj),
)


def find_pickle(path: Path) -> str | None:
    """What of the file would run code, in words, or None.

    Pickles of PyTorch's archives that name nothing but tensors and the archive's own classes are none: only PyTorch's reader
    without Python reads them, or nobody at all (see engines/torch). Raises Refused for such an archive that is not sound.
    """
    from openmaas.engines.torch.archive import kind_of
    from openmaas.engines.torch.members import inert_members

    inert = inert_members(path) if kind_of(path) in ("torchscript", "torch-export") else frozenset()
    with path.open("rb") as file:
        return _look(file, 0, inert)


def _look(file: BinaryIO, depth: int, inert: frozenset[str] = frozenset()) -> str | None:
    start = file.read(MAX_LOOK)
    if is_pickle(start):
        return "a pickle"
    if _is_object_array(start):
        return "a numpy array of objects, which is a pickle"
    if depth >= MAX_DEPTH:
        return None
    return _in_packed(start, depth) or _in_archive(file, start, depth, inert)


def is_pickle(start: bytes) -> bool:
    """Whether unpickling these bytes would come to an end, or as far as a call: any leading part of a file may be given."""
    imported = False
    stack: list[object] = []
    stream = io.BytesIO(start)
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            _step(stack, opcode)
            if opcode.name == "STOP":
                return start[0] == _PROTOCOL or stream.tell() == len(start)  # else text that only happens to begin like one
            if opcode.name in _IMPORTS:
                imported = imported or _names_something(argument)
            if imported and opcode.name in _CALLS:
                return True
    except Exception:
        return _cut_short(start, stream)
    return False


def _step(stack: list[object], opcode: pickletools.OpcodeInfo) -> None:
    """What the opcode does to the depth of the stack. Raises IndexError or ValueError where a pickle could not be."""
    before = opcode.stack_before
    if pickletools.markobject in before or (opcode.name == "POP" and stack[-1] is pickletools.markobject):
        while stack.pop() is not pickletools.markobject:
            pass
        before = before[: before.index(pickletools.markobject)] if pickletools.markobject in before else []
    if len(before) > len(stack):
        raise ValueError("the stack is empty")
    del stack[len(stack) - len(before) :]
    stack.extend(opcode.stack_after)


def _names_something(argument: object) -> bool:
    """Whether it could name a class or function; the second word of a text that only looks like a pickle rarely does."""
    return not isinstance(argument, str) or all(part.isidentifier() for name in argument.split(" ") for part in name.split("."))


def _cut_short(start: bytes, stream: io.BytesIO) -> bool:
    """A pickle whose end lies beyond what was read."""
    framed = len(start) > 2 and start[0] == _PROTOCOL and start[1] in range(2, 6)
    return framed and len(start) == MAX_LOOK and stream.tell() >= MAX_LOOK


def _is_object_array(start: bytes) -> bool:
    if not start.startswith(b"\x93NUMPY"):
        return False
    from numpy.lib import format as npy

    stream = io.BytesIO(start)
    try:
        major, _ = npy.read_magic(stream)
        read = npy.read_array_header_1_0 if major == 1 else npy.read_array_header_2_0
        return bool(read(stream)[2].hasobject)
    except Exception:
        return False


def _in_packed(start: bytes, depth: int) -> str | None:
    for magic, make in _PACKED:
        if start.startswith(magic):
            with contextlib.suppress(Exception):
                found = _look(io.BytesIO(_unpack(make(), start)), depth + 1)
                return f"{found} (compressed)" if found else None
    return None


def _unpack(decompressor: object, start: bytes) -> bytes:
    data: bytes = decompressor.decompress(start, MAX_LOOK)  # type: ignore[attr-defined]
    return data


def _in_archive(file: BinaryIO, start: bytes, depth: int, inert: frozenset[str]) -> str | None:
    if start.startswith(b"PK\x03\x04") or zipfile.is_zipfile(file):
        members = _zip_members(file)
    elif start[257:262] == b"ustar":
        members = _tar_members(file)
    else:
        return None
    with contextlib.suppress(Exception):
        for name, member in members:
            if name not in inert and (found := _look(member, depth + 1)):
                return f"{found} (member {name[:80]!r})"
    return None


def _zip_members(file: BinaryIO) -> Iterator[tuple[str, BinaryIO]]:
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist()[:MAX_MEMBERS]:
            with contextlib.suppress(zipfile.BadZipFile, NotImplementedError, RuntimeError), archive.open(member) as content:
                yield member.filename, io.BytesIO(content.read(MAX_LOOK))


def _tar_members(file: BinaryIO) -> Iterator[tuple[str, BinaryIO]]:
    file.seek(0)
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for _, member in zip(range(MAX_MEMBERS), archive, strict=False):
            content = archive.extractfile(member)
            if content is not None:
                yield member.name, io.BytesIO(content.read(MAX_LOOK))

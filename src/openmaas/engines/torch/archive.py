"""The zip archives that PyTorch writes, read strictly: what one reader sees in them is what every other reader sees.

Python's zipfile looks at them here and PyTorch's own reader loads them, so there must be one way to read a file: members that
lie one after the other from the first byte on, one directory that says of each what its own header says, and nothing behind it.
"""

from __future__ import annotations

import os
import stat
import struct
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal

from openmaas.core.errors import Refused

Kind = Literal["torchscript", "torch-export", "pickle"]

MAX_MEMBERS = 200_000
MAX_PACKED = 64 << 20
"""Bytes of one compressed member when unpacked. Weights are never compressed; code is, and is small."""
_LOCAL = struct.Struct("<4s5H3I2H")
_DESCRIPTOR = 24  # bytes at most between two members: sizes and checksum that were not known when the header was written
_END = 22
_END64 = 56 + 20  # zip64's own end record and its locator
_ENCRYPTED = 0x1


def kind_of(path: Path) -> Kind | None:
    """What PyTorch wrote into the file, told by the members of the archive; None when it is no such archive."""
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return None
        try:
            with zipfile.ZipFile(file) as archive:
                names = {name.partition("/")[2] for name in archive.namelist()}
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
            return None
    if "archive_format" in names and any(name.startswith("models/") for name in names):
        return "torch-export"
    if "data.pkl" not in names:
        return None
    return "torchscript" if "constants.pkl" in names else "pickle"


class Archive:
    """An open archive. `members` by their names below its one root folder. Close it, or use it with `with`."""

    def __init__(self, source: Path | BinaryIO) -> None:
        """Raises Refused (damaged_archive) for one that could be read in two ways, or that would unpack to too much."""
        self._file = source.open("rb") if isinstance(source, Path) else source
        try:
            self._zip = _open(self._file)
            self.members = _members(self._zip, self._file, self._file.seek(0, os.SEEK_END))
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._zip.close()
        self._file.close()

    def read(self, name: str) -> bytes:
        """A whole member. Raises Refused where it is missing or its checksum is wrong."""
        if name not in self.members:
            raise Refused(f"The archive lacks {name!r}.", code="damaged_archive", next_step="Save the model again.")
        try:
            return self._zip.read(self.members[name])
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError) as error:
            raise _damaged(f"{name[:80]!r} cannot be read ({' '.join(str(error).split())[:120]})") from None

    def size(self, name: str) -> int:
        """Bytes of a member, -1 when there is none."""
        return self.members[name].file_size if name in self.members else -1

    def open(self, name: str) -> zipfile.ZipExtFile:
        """A member to be read in pieces."""
        opened: zipfile.ZipExtFile = self._zip.open(self.members[name])  # type: ignore[assignment]
        return opened


def _open(file: BinaryIO) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise _damaged(" ".join(str(error).split())[:120]) from None


def _members(archive: zipfile.ZipFile, file: BinaryIO, size: int) -> dict[str, zipfile.ZipInfo]:
    infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
    if not 0 < len(infos) <= MAX_MEMBERS:
        raise _damaged(f"it has {len(infos)} members, 1 to {MAX_MEMBERS} are read")
    end = 0
    for info in infos:
        _check_member(info)
        if not end <= info.header_offset <= end + (_DESCRIPTOR if end else 0):
            raise _damaged(f"something lies before {info.filename[:80]!r}")
        end = _end_of(info, file)
    if not end <= archive.start_dir <= end + _DESCRIPTOR or archive.comment:
        raise _damaged("something lies before or behind its directory")
    _check_end(file, archive, size)
    names = [info.filename.partition("/")[2] for info in infos]
    if len({info.filename.partition("/")[0] for info in infos}) != 1 or len(set(names)) != len(names):
        raise _damaged("its members lie in several folders, or one name stands for two")
    return dict(zip(names, infos, strict=True))


def _check_member(info: zipfile.ZipInfo) -> None:
    name = info.filename
    parts = PurePosixPath(name).parts
    plain = name.isprintable() and not name.startswith("/") and "\\" not in name and len(parts) > 1 and ".." not in parts
    if not plain or "/".join(parts) != name:
        raise _damaged(f"{name[:80]!r} is no name of a member")
    if info.flag_bits & _ENCRYPTED or stat.S_ISLNK(info.external_attr >> 16):
        raise _damaged(f"{name[:80]!r} is a link, or encrypted")
    if info.compress_type == zipfile.ZIP_STORED:
        if info.file_size != info.compress_size:
            raise _damaged(f"{name[:80]!r} has two sizes")
    elif info.compress_type != zipfile.ZIP_DEFLATED or info.file_size > MAX_PACKED:
        raise _damaged(f"{name[:80]!r} is compressed and has {info.file_size} bytes, at most {MAX_PACKED} are unpacked")


def _end_of(info: zipfile.ZipInfo, file: BinaryIO) -> int:
    """Where a member's bytes end. Its own header must say what the directory says."""
    file.seek(info.header_offset)
    header = file.read(_LOCAL.size)
    if len(header) < _LOCAL.size:
        raise _damaged(f"{info.filename[:80]!r} is cut short")
    magic, _, flags, method, *_, name_length, extra_length = _LOCAL.unpack(header)
    name = file.read(name_length)
    if magic != b"PK\x03\x04" or method != info.compress_type or flags & _ENCRYPTED or name != info.filename.encode():
        raise _damaged(f"{info.filename[:80]!r} is one thing in the directory and another in its own header")
    return int(info.header_offset + _LOCAL.size + name_length + extra_length + info.compress_size)


def _check_end(file: BinaryIO, archive: zipfile.ZipFile, size: int) -> None:
    """The directory reaches up to the end records, and they up to the file's end."""
    directory = sum(46 + len(info.filename.encode()) + len(info.extra) + len(info.comment) for info in archive.infolist())
    left = size - archive.start_dir - directory
    file.seek(size - _END)
    if file.read(4) != b"PK\x05\x06" or left not in (_END, _END + _END64):
        raise _damaged("something lies before or behind its end")


def _damaged(what: str) -> Refused:
    return Refused(
        f"The archive is not as PyTorch writes it: {what}.",
        code="damaged_archive",
        next_step="Save the model again with torch.jit.save or torch.export.save.",
    )

"""safetensors files read as data: their headers are held against the files before any library loads them.

The format (https://github.com/huggingface/safetensors#format): eight bytes with the header's length, the header as a JSON
object of tensor names, and the tensors one after the other without gaps.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec

from openmaas.core.errors import InvalidInput, Refused

MAX_HEADER = 32 << 20
"""Bytes; a model of ten thousand tensors has one of about 1 MiB."""
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64, "C64": 64,
}  # fmt: skip
_MAX_AXES = 16
_MAX_ELEMENTS = 1 << 48


class Stored(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One tensor in a header. data_offsets: begin and end, counted from the end of the header."""

    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def is_safetensors(path: Path) -> bool:
    """Whether the file begins as one: a length that lies within the file, and a JSON object after it."""
    with path.open("rb") as file:
        start = file.read(9)
    length = int.from_bytes(start[:8], "little")
    return len(start) == 9 and start[8:] == b"{" and 2 <= length <= path.stat().st_size - 8


def weight_files(folder: Path) -> list[str]:
    """Names of the files that hold the weights, as transformers would choose them. Empty where there are none.

    Raises InvalidInput for an index that names files that are not there or not beside it.
    """
    if (folder / SINGLE).is_file():
        return [SINGLE]
    if not (folder / INDEX).is_file():
        return []
    index = read_json(folder / INDEX)
    named = index.get("weight_map")
    if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()) or not named:
        raise InvalidInput(f"{INDEX} has no 'weight_map' of tensor names to files.", code="damaged")
    names = sorted(set(named.values()))
    for name in names:
        if "/" in name or "\\" in name or name.startswith(".") or not (folder / name).is_file():
            raise InvalidInput(
                f"{INDEX} names the file {name[:120]!r}, which is not beside it.",
                code="file_missing",
                next_step="Push the folder with all of its weight files.",
            )
    return names


def read_weights(folder: Path, names: list[str]) -> dict[str, Stored]:
    """The tensors of all files by name. Holds every header against its file, and raises Refused where one lies."""
    tensors: dict[str, Stored] = {}
    for name in names:
        header = read_header(folder / name)
        if twice := sorted(tensors.keys() & header.keys()):
            raise Refused(f"The tensor {twice[0][:120]!r} is in two of the weight files.", code="damaged")
        tensors |= header
    if not tensors:
        raise Refused("The weight files hold no tensors.", code="damaged", next_step="Save the model again.")
    return tensors


def read_header(path: Path) -> dict[str, Stored]:
    """The tensors of one file by name. Raises Refused for a header that is not what the file holds."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 10 or not 2 <= length <= min(size - 8, MAX_HEADER):
            raise _lying(path, f"it declares a header of {length} bytes in a file of {size} (at most {MAX_HEADER} are read)")
        text = file.read(length)
    try:
        fields = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        msgspec.json.decode(fields.pop("__metadata__", msgspec.Raw(b"{}")), type=dict[str, str])
        header = {name: msgspec.json.decode(raw, type=Stored) for name, raw in fields.items()}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _lying(path, f"the header cannot be read: {str(error)[:200]}") from None
    _check_spans(path, header, size - 8 - length)
    return header


def _check_spans(path: Path, header: dict[str, Stored], room: int) -> None:
    """The tensors fill the rest of the file one after the other."""
    position = 0
    for name, tensor in sorted(header.items(), key=lambda item: item[1].data_offsets):
        begin, end = tensor.data_offsets
        if begin != position:
            how = "overlaps another" if begin < position else "leaves a gap before it"
            raise _lying(path, f"the tensor {name[:120]!r} at byte {begin} {how}")
        if end - begin != _bytes_of(path, name, tensor):
            raise _lying(path, f"the tensor {name[:120]!r}, {tensor.dtype} {tensor.shape}, has {end - begin} bytes")
        if end > room:
            raise _lying(path, f"the tensor {name[:120]!r} ends at byte {end} of {room}")
        position = end
    if position != room:
        raise _lying(path, f"its tensors end at byte {position} of {room}")


def _bytes_of(path: Path, name: str, tensor: Stored) -> int:
    if tensor.dtype not in _BITS:
        raise _lying(path, f"the tensor {name[:120]!r} has the type {tensor.dtype[:40]!r}, which is not known")
    if len(tensor.shape) > _MAX_AXES or any(not 0 <= axis <= _MAX_ELEMENTS for axis in tensor.shape):
        raise _lying(path, f"the tensor {name[:120]!r} has an impossible shape")
    return math.prod(tensor.shape) * _BITS[tensor.dtype] // 8


def _lying(path: Path, what: str) -> Refused:
    return Refused(
        f"The safetensors file {path.name!r} is damaged: {what}.",
        code="damaged",
        next_step="Copy it again, and compare its size with the original's.",
    )


# ── JSON files ───────────────────────────────────────────────────────────────────────────────────────────────────────

MAX_JSON = 16 << 20


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises InvalidInput for anything else, and beyond MAX_JSON bytes."""
    size = path.stat().st_size
    if size > MAX_JSON:
        raise InvalidInput(f"{path.name!r} has {size} bytes; at most {MAX_JSON} are read.", code="damaged")
    try:
        data: dict[str, Any] = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"{path.name!r} is not a JSON object: {str(error)[:200]}.", code="damaged") from None
    return data

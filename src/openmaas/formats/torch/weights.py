"""Weights without the class that computes with them: told apart from other pickles, summarised, and what to do instead."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from openmaas.core.errors import Refused
from openmaas.engines.torch.archive import Archive, kind_of
from openmaas.engines.torch.inert import NotInert, is_tensor, read_legacy, read_tensors, shape_of

_MAX_HEADER = 64 << 20
_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."  # how torch.save began before it wrote zip archives
_STEP = (
    "In Python, load them into the module and push that: client.push(module, name=…, sample=X); "
    "or save it with torch.export.save(torch.export.export(module, (X,)), 'model.pt2') and push the file."
)
PUSH_LIVE = (
    "In Python, push the live module with a sample: client.push(module, name=…, sample=X); "
    "or save it with torch.export.save(torch.export.export(module, (X,)), 'model.pt2') and push the file."
)


class Weight(NamedTuple):
    """One tensor: its name, its element type, its sizes."""

    name: str
    kind: str
    shape: tuple[int, ...]


def refuse_weights(folder: Path, file: str) -> None:
    """Raises Refused (weights_only) with a summary where the file holds tensors by name and nothing else."""
    weights = read_weights(folder / file)
    if weights is None:
        return
    first = ", ".join(f"{weight.name[:60]} {weight.kind} {list(weight.shape)}" for weight in weights[:4])
    more = f" and {len(weights) - 4} more" if len(weights) > 4 else ""
    total = sum(math.prod(weight.shape) for weight in weights)
    raise Refused(
        f"{file!r} holds weights alone, {len(weights)} tensors with {total:,} numbers ({first}{more}). "
        "The class that computes with them is missing.",
        code="weights_only",
        next_step=_STEP,
    )


def is_saved_by_torch(path: Path) -> bool:
    """Whether torch.save wrote it, in its present form or the old one."""
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC or kind_of(path) == "pickle"


def read_weights(path: Path) -> list[Weight] | None:
    """The tensors of a state dict or a safetensors file, without running or loading anything; None for any other file."""
    try:
        with path.open("rb") as file:
            start = file.read(len(_MAGIC))
        if start == _MAGIC:
            with path.open("rb") as file:
                return list(_found(read_legacy(file).value)) or None
        if kind_of(path) == "pickle":
            with Archive(path) as archive:
                return list(_found(read_tensors(archive.read("data.pkl")).value)) or None
        return _safetensors(path)
    except (NotInert, Refused):
        return None


def _found(value: Any, name: str = "") -> Iterator[Weight]:
    if is_tensor(value):
        kind, shape = shape_of(value)
        yield Weight(name, kind.lower(), shape)
    elif isinstance(value, Mapping | list | tuple):
        parts = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, part in parts:
            yield from _found(part, f"{name}.{key}" if name else str(key))


def _safetensors(path: Path) -> list[Weight] | None:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(_MAX_HEADER, size - 8) or file.read(1) != b"{":
            return None
        file.seek(8)
        try:
            header = json.loads(file.read(length))
            return [
                Weight(name, str(entry["dtype"]).lower(), tuple(int(axis) for axis in entry["shape"]))
                for name, entry in header.items()
                if name != "__metadata__" and entry["data_offsets"][1] <= size
            ] or None
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
            return None

"""A live object as files that can be pushed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from openmaas.core.errors import InvalidInput
from openmaas.formats.base import Exported, formats


def export(model: object, sample: Any, folder: Path) -> Exported:
    """Write a live object into `folder`, converted and compared here, where its class is.

    sample: rows that the model takes, an array [N, features] or a data frame; at most 256 of them are kept.
    Raises InvalidInput for a kind of object that no installed format understands.
    """
    installed = formats()
    for kind in installed.values():
        exported = kind.export(model, sample, folder)
        if exported is not None:
            return exported
    kinds = "; ".join(kind.kinds for kind in installed.values() if kind.kinds)
    raise InvalidInput(
        f"A {type(model).__module__}.{type(model).__qualname__} cannot be pushed as a live object. Understood are: {kinds}.",
        code="unknown_object",
        next_step="Save it as ONNX and push the file.",
    )

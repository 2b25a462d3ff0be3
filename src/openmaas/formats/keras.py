"""Keras 3 files (.keras, .h5) on the torch backend, without TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from openmaas.core.errors import InvalidInput
from openmaas.formats.base import Examined, Format, Task


class KerasFormat(Format):
    name = "keras"

    def find(self, folder: Path, files: Sequence[str]) -> list[str]:
        return []

    def examine(self, task: Task, entry: str) -> Examined:
        raise InvalidInput("Not yet.")

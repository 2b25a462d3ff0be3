"""PyTorch: TorchScript and exported programs; a live nn.Module from Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from openmaas.core.errors import InvalidInput
from openmaas.formats.base import Examined, Format, Task


class TorchFormat(Format):
    name = "torch"

    def find(self, folder: Path, files: Sequence[str]) -> list[str]:
        return []

    def examine(self, task: Task, entry: str) -> Examined:
        raise InvalidInput("Not yet.")

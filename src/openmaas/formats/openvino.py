"""OpenVINO IR: an .xml graph and its .bin weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from openmaas.core.errors import InvalidInput
from openmaas.formats.base import Examined, Format, Task


class OpenVinoFormat(Format):
    name = "openvino"

    def find(self, folder: Path, files: Sequence[str]) -> list[str]:
        return []

    def examine(self, task: Task, entry: str) -> Examined:
        raise InvalidInput("Not yet.")

"""GGUF: a generator as one file, with its tokenizer and chat template. Read as data, bounds before anything is made of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from openmaas.formats.base import Examined, Format, Task


class GgufFormat(Format):
    name = "gguf"

    def find(self, folder: Path, files: Sequence[str]) -> list[str]:
        from openmaas.formats.gguf.file import is_gguf

        return [file for file in files if is_gguf(folder / file)]

    def examine(self, task: Task, entry: str) -> Examined:
        from openmaas.formats.gguf.examination import examine

        return examine(task, entry)

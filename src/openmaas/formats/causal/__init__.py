"""Hugging Face folders of decoders, which generate text: safetensors, tokenizer.json, config. Read as data; no code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from openmaas.formats.base import Examined, Format, Task


class CausalFormat(Format):
    name = "causal"
    whole_folder = True

    def find(self, folder: Path, files: Sequence[str]) -> list[str]:
        from openmaas.formats.huggingface.folder import find_entries

        return find_entries(folder, files, decoders=True)

    def examine(self, task: Task, entry: str) -> Examined:
        from openmaas.formats.causal.examination import examine

        return examine(task, entry)

    def idle(self, folder: Path, entry: str, files: Sequence[str]) -> list[str]:
        from openmaas.formats.huggingface.beside import idle_files

        return idle_files(folder, entry, files)

"""OpenVINO GenAI folders: a generator's graph with its weights, and beside it what optimum-intel leaves of its source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from openmaas.formats.base import Examined, Format, Task


class GenAiFormat(Format):
    name = "openvino-genai"
    whole_folder = True

    def find(self, folder: Path, files: Sequence[str]) -> list[str]:
        from openmaas.formats.genai.folder import is_entry

        return [file for file in files if is_entry(folder, file)]

    def examine(self, task: Task, entry: str) -> Examined:
        from openmaas.formats.genai.examination import examine

        return examine(task, entry)

    def idle(self, folder: Path, entry: str, files: Sequence[str]) -> list[str]:
        from openmaas.formats.genai.folder import is_idle

        return [file for file in files if is_idle(file)]

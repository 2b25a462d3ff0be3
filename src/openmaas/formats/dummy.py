"""The dummy format: no model at all, only an openmaas.yaml that says how the dummy engine is to behave."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from openmaas.core.errors import InvalidInput
from openmaas.formats.base import Examined, Format, Task
from openmaas.formats.description import FILE_NAME, read_description


class DummyFormat(Format):
    name = "dummy"

    def find(self, folder: Path, files: Sequence[str]) -> list[str]:
        return [FILE_NAME] if FILE_NAME in files and read_description(folder).format == self.name else []

    def examine(self, task: Task, entry: str) -> Examined:
        description = task.description
        if description.signature is None:
            raise InvalidInput(f"A dummy needs its signature in {FILE_NAME}.", code="invalid_description")
        return Examined(
            format=self.name,
            engine="dummy",
            entry=entry,
            signature=description.signature,
            batchable=bool(description.batchable),
            batching=f"Declared in {FILE_NAME}.",
            options=description.options,
        )

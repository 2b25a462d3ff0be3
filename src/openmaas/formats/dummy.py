"""The dummy format: no model at all, only an openmaas.yaml that says how a dummy engine is to behave."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from openmaas.core.errors import InvalidInput
from openmaas.core.generation import TEXT_INPUT, TEXT_OUTPUT, Generator
from openmaas.core.manifest import Artifact
from openmaas.core.types import Signature, TensorSpec
from openmaas.formats.base import Examined, Format, Task
from openmaas.formats.description import FILE_NAME, read_description, refuse_unused
from openmaas.formats.files import file_inside


class DummyFormat(Format):
    name = "dummy"

    def find(self, folder: Path, files: Sequence[str]) -> list[str]:
        return [FILE_NAME] if FILE_NAME in files and read_description(folder).format == self.name else []

    def examine(self, task: Task, entry: str) -> Examined:
        description = task.description
        if description.generator is not None:
            return self._generator(task, description.generator)
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

    def _generator(self, task: Task, generator: Generator) -> Examined:
        """One that generates text: of a model it has the tokenizer, and the chat template where it names one."""
        refuse_unused(task.description, self.name, "signature", "batchable")
        for path in filter(None, (generator.tokenizer, generator.chat_template)):
            file_inside(task.folder, path, "The file")
        return Examined(
            format=self.name,
            engine="dummy-generator",
            entry=FILE_NAME,
            artifacts=(Artifact(kind="dummy-generator", entry=FILE_NAME, options=task.description.options),),
            signature=Signature(
                inputs=(TensorSpec(name=TEXT_INPUT, datatype="BYTES", shape=(1,)),),
                outputs=(TensorSpec(name=TEXT_OUTPUT, datatype="BYTES", shape=(1,)),),
            ),
            batching="It schedules its requests itself.",
            generator=generator,
            options=task.description.options,
        )

"""TensorFlow SavedModel folders: told and checked without TensorFlow, and converted to ONNX by a job that has it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from openmaas.core.errors import InvalidInput
from openmaas.core.manifest import Artifact
from openmaas.formats.base import Examined, Format, Task
from openmaas.formats.description import refuse_unused

_FILE = "saved_model.pb"


class SavedModelFormat(Format):
    name = "saved-model"
    whole_folder = True

    def find(self, folder: Path, files: Sequence[str]) -> list[str]:
        from openmaas.formats.saved_model.file import is_saved_model

        return [file for file in files if is_saved_model(folder / file)]

    def examine(self, task: Task, entry: str) -> Examined:
        from openmaas.formats.batching import static_reason
        from openmaas.formats.sample import fit, read_sample, split_expected
        from openmaas.formats.saved_model.file import read_endpoint

        refuse_unused(task.description, self.name, "signature", "options")
        if PurePosixPath(entry).name != _FILE:
            raise InvalidInput(
                f"{entry!r} is the graph of a SavedModel, which TensorFlow knows as {_FILE} only.",
                code="invalid_path",
                next_step=f"Push the folder as TensorFlow wrote it, with {_FILE} and variables/.",
            )
        endpoint = read_endpoint(task.folder / entry)
        if task.sample is not None:
            fit(split_expected(read_sample(task.folder / task.sample))[0], endpoint.signature.inputs)
        reason = "Declared as not batchable." if task.description.batchable is False else static_reason(endpoint.signature)
        return Examined(
            format=self.name,
            engine="",
            entry=entry,
            signature=endpoint.signature,
            artifacts=(Artifact(kind=self.name, entry=entry, options={"signature": endpoint.name}),),
            batchable=reason is None,
            batching=reason or "As the file declares; it is proved on what it is converted to.",
            sample=task.sample,
            convert_to="onnx",
            notes=("Nothing here runs a SavedModel as it is: it is converted to ONNX and compared with TensorFlow's answers.",),
        )

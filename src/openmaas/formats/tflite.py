"""TensorFlow Lite flatbuffers, run by LiteRT as they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from openmaas.core.manifest import Artifact
from openmaas.core.types import Signature, TensorSpec
from openmaas.formats.base import Examined, Format, Task
from openmaas.formats.description import refuse_unused


class TfliteFormat(Format):
    name = "tflite"

    def find(self, folder: Path, files: Sequence[str]) -> list[str]:
        from openmaas.engines.litert.file import is_tflite

        return [file for file in files if is_tflite(folder / file)]

    def examine(self, task: Task, entry: str) -> Examined:
        from openmaas.core.errors import OpenMaaSError
        from openmaas.engines.litert.model import LiteRtModel
        from openmaas.formats.proof import prove_answers

        refuse_unused(task.description, self.name, "signature", "options")
        model = LiteRtModel(task.folder / entry, threads=2)
        artifact = Artifact(kind="tflite", entry=entry)
        found = Examined(
            format=self.name, engine="litert", entry=entry, artifacts=(artifact,), signature=model.signature,
            notes=model.quantisation(),
        )  # fmt: skip
        free = _with_free_batch(model.signature)
        if free != model.signature:
            try:
                proved = prove_answers(task, model, _with(found, free), unknown=frozenset(), axes={})
            except OpenMaaSError:
                proved = found
            if proved.batchable:
                return proved
        return prove_answers(task, model, found, unknown=frozenset(), axes={})


def _with(found: Examined, signature: Signature) -> Examined:
    return msgspec.structs.replace(found, signature=signature)


def _with_free_batch(signature: Signature) -> Signature:
    """Axis 0 free everywhere, where the file declares exactly one row: converters do so unless they are told otherwise."""
    specs = (*signature.inputs, *signature.outputs)
    if not specs or not all(spec.shape[:1] in ((1,), (-1,)) for spec in specs):
        return signature
    return Signature(inputs=tuple(map(_freed, signature.inputs)), outputs=tuple(map(_freed, signature.outputs)))


def _freed(spec: TensorSpec) -> TensorSpec:
    return TensorSpec(name=spec.name, datatype=spec.datatype, shape=(-1, *spec.shape[1:]))

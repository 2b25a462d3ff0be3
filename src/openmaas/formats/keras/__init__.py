"""Keras: .keras and .h5 files, and live models. Served as ONNX where that gives the same answers, else by Keras itself."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from openmaas.core.errors import TooLarge
from openmaas.core.manifest import Artifact
from openmaas.formats.base import Examined, Exported, Format, Task
from openmaas.formats.description import refuse_unused
from openmaas.formats.files import free_name

if TYPE_CHECKING:
    from openmaas.engines.keras.model import KerasModel
    from openmaas.engines.onnxruntime.session import OnnxSession
    from openmaas.formats.trial import Trial


class KerasFormat(Format):
    name = "keras"
    kinds = "Keras models"

    def find(self, folder: Path, files: Sequence[str]) -> list[str]:
        from openmaas.engines.keras.file import kind_of

        return [file for file in files if kind_of(folder / file)]

    def examine(self, task: Task, entry: str) -> Examined:
        from openmaas.engines.keras.model import load_keras
        from openmaas.formats.proof import prove_answers

        refuse_unused(task.description, self.name, "signature", "options")
        model = load_keras(task.folder / entry)
        own = Artifact(kind="keras", entry=entry)
        found = Examined(format=self.name, engine="keras", entry=entry, signature=model.signature, artifacts=(own,))
        first = _tried(task, model)
        session, found = _converted(task, model, found, first) if first else (None, found)
        return prove_answers(task, session or model, found, unknown=frozenset(), axes={})

    def native(self, task: Task, entry: str) -> tuple[Artifact, ...]:
        from openmaas.engines.keras.model import load_keras

        load_keras(task.folder / entry)
        return (Artifact(kind="keras", entry=entry),)

    def export(self, model: object, sample: Any, folder: Path) -> Exported | None:
        if not _is_live(model):
            return None
        from openmaas.formats.keras.live import export_keras

        return export_keras(model, sample, folder)


def _is_live(model: object) -> bool:
    keras = sys.modules.get("keras")
    return keras is not None and isinstance(model, keras.Model)


def _tried(task: Task, model: KerasModel) -> Trial | None:
    """Keras' first answers; None where made-up input would be giant, and nothing can be compared."""
    from openmaas.formats import trial

    if task.sample is not None:
        return trial.try_given(model, model.signature, task.folder / task.sample)
    try:
        return trial.try_generated(model, model.signature, {})
    except TooLarge:
        return None


def _converted(task: Task, model: KerasModel, found: Examined, first: Trial) -> tuple[OnnxSession | None, Examined]:
    """The ONNX model and what serves with it; no session and Keras itself where it does not answer as Keras does."""
    from openmaas.formats.keras.conversion import convert

    added = free_name(task.folder, "model.onnx")
    parity, session = convert(model, first.inputs, first.origin, task.output / added)
    if session is None:
        note = f"Keras itself serves it: {parity.reason}"
        return None, msgspec.structs.replace(found, parity=parity, notes=(note,))
    artifacts = (Artifact(kind="onnx", entry=added), *found.artifacts)
    changed = {"engine": "onnxruntime", "entry": added, "artifacts": artifacts, "parity": parity, "added": (added,)}
    return session, msgspec.structs.replace(found, **changed)

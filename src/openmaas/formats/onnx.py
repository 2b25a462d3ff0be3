"""ONNX: a file, or a folder with external data. Read as data, then run in the child process to prove what is said of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from openmaas.core.errors import OpenMaaSError, Refused
from openmaas.core.manifest import Artifact
from openmaas.core.types import Signature
from openmaas.formats.base import Examined, Format, Task


class OnnxFormat(Format):
    name = "onnx"

    def find(self, folder: Path, files: Sequence[str]) -> list[str]:
        from openmaas.formats.graph import is_onnx

        return [file for file in files if is_onnx(folder / file)]

    def examine(self, task: Task, entry: str) -> Examined:
        from openmaas.formats import graph, zipmap

        path = task.folder / entry
        model = graph.read_model(path)
        graph.check_operators(model)
        external = graph.check_external_data(model, path, task.folder)
        found = Examined(
            format=self.name,
            engine="onnxruntime",
            entry=entry,
            signature=Signature(inputs=(), outputs=()),
            options=task.description.options,
        )
        if zipmap.has_zipmap(model):
            added, path = zipmap.write_without(model, task, external)
            found = msgspec.structs.replace(found, entry=added, added=(added,), notes=(zipmap.NOTE,))
        return _run(task, model, path, found)


def _run(task: Task, model: Any, path: Path, found: Examined) -> Examined:
    """Load the file as the engine will, and prove what only a run shows."""
    from openmaas.engines.onnx_session import OnnxSession
    from openmaas.formats import graph, overrides
    from openmaas.formats.proof import prove_answers

    unknown = graph.unknown_ranks(model)
    try:
        session = OnnxSession(path, threads=2)
    except OpenMaaSError as error:
        raise Refused(error.message, code="model_not_runnable", next_step="Check that onnxruntime loads the file.") from None
    graph.add_missing_types(model, {output.name: output.type for output in session.session.get_outputs()})
    signature = overrides.override(graph.read_signature(model), unknown, task.description.signature)
    session.bind(signature)
    artifacts = (Artifact(kind="onnx", entry=found.entry),)
    found = msgspec.structs.replace(found, artifacts=artifacts, signature=signature)
    return prove_answers(task, session, found, unknown=unknown, axes=graph.axis_names(model))

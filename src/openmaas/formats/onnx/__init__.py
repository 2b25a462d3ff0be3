"""ONNX: a file, or a folder with external data. Read as data, then run in the child process to prove what is said of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from openmaas.core.errors import OpenMaaSError, Refused
from openmaas.core.manifest import Artifact
from openmaas.core.types import Signature
from openmaas.formats.base import Examined, Format, Task

if TYPE_CHECKING:
    from openmaas.formats.onnx.rewritten import Rewritten


class OnnxFormat(Format):
    name = "onnx"

    def find(self, folder: Path, files: Sequence[str]) -> list[str]:
        from openmaas.formats.onnx.graph import is_onnx

        return [file for file in files if is_onnx(folder / file)]

    def examine(self, task: Task, entry: str) -> Examined:
        from openmaas.formats.onnx import graph, zipmap

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
        return _run(task, model, path, found, bool(external))


def _run(task: Task, model: Any, path: Path, found: Examined, external: bool) -> Examined:
    """Load the file as the engine will, and prove what only a run shows."""
    from openmaas.engines.onnxruntime.session import OnnxSession
    from openmaas.formats import overrides
    from openmaas.formats.onnx import graph, rewritten
    from openmaas.formats.proof import prove_answers

    try:
        session = OnnxSession(path, threads=2)
    except OpenMaaSError as error:
        newer = None if external else rewritten.with_newer_operators(task, model)
        if newer is None:
            step = "Check that onnxruntime loads the file."
            raise Refused(error.message, code="model_not_runnable", next_step=step) from None
        found, model, session = _in_place_of(found, newer), newer.model, newer.session
    unknown = graph.unknown_ranks(model)
    graph.add_missing_types(model, {output.name: output.type for output in session.session.get_outputs()})
    signature = overrides.override(graph.read_signature(model), unknown, task.description.signature)
    session.bind(signature)
    found = _with_notes(found, graph.left_out(model))
    if not external and task.description.signature is None and task.description.batchable is not False:
        free = rewritten.with_free_batch(task, model, session, signature)
        if free is not None:
            found, model, session, signature = _in_place_of(found, free), free.model, free.session, free.signature
    artifacts = (Artifact(kind="onnx", entry=found.entry),)
    found = msgspec.structs.replace(found, artifacts=artifacts, signature=signature)
    return prove_answers(task, session, found, unknown=unknown, axes=graph.axis_names(model))


def _in_place_of(found: Examined, other: Rewritten) -> Examined:
    """What was found, of the other form of the model; a form between the two is not kept."""
    added = (*(name for name in found.added if name != found.entry), other.name)
    notes = (*found.notes, other.note)
    return msgspec.structs.replace(found, entry=other.name, added=added, parity=other.parity, notes=notes)


def _with_notes(found: Examined, left_out: list[str]) -> Examined:
    if not left_out:
        return found
    note = f"Outputs that are no tensors are left out: {', '.join(map(repr, left_out[:12]))}."
    return msgspec.structs.replace(found, notes=(*found.notes, note))

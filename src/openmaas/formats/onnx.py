"""ONNX: a file, or a folder with external data. Read as data, then run in the child process to prove what is said of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from openmaas.core.errors import OpenMaaSError, Refused, TooLarge
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
    """What only a run shows: that it runs at all, the true shapes of its answers, and whether rows may share a batch."""
    from openmaas.engines.onnx_session import OnnxSession
    from openmaas.formats import graph, observed, overrides, trial
    from openmaas.formats.batching import as_declared
    from openmaas.formats.kept import keep_sample

    unknown, axes, notes = graph.unknown_ranks(model), graph.axis_names(model), list(found.notes)
    try:
        session = OnnxSession(path, threads=2)
    except OpenMaaSError as error:
        raise Refused(error.message, code="model_not_runnable", next_step="Check that onnxruntime loads the file.") from None
    graph.add_missing_types(model, {output.name: output.type for output in session.session.get_outputs()})
    signature = overrides.override(graph.read_signature(model), unknown, task.description.signature)
    session.bind(signature)
    if task.sample is not None:
        first = trial.try_given(session, signature, task.folder / task.sample)
    else:
        try:
            first = trial.try_generated(session, signature, axes)
        except TooLarge as error:
            why = f"Not measured: {error.message} {trial.SAMPLE_STEP}"
            artifacts = (Artifact(kind="onnx", entry=found.entry),)
            return msgspec.structs.replace(found, artifacts=artifacts, signature=signature, batching=why, notes=(*notes, why))
        notes.append("No sample was given: it was tried on generated input.")
    signature = observed.correct_outputs(signature, first.outputs, unknown, notes)
    verdict = trial.prove_batching(session, signature, first, axes)
    trial.check_expected(session, signature, first, verdict.batchable)
    if names := observed.not_finite(first.outputs):
        notes.append(f"On the {first.origin} sample, output {names} holds NaN or Infinity.")
    batchable, batching = as_declared(task.description.batchable, verdict)
    inputs, answers = trial.answered(session, signature, first, verdict.batchable)
    sample, kept = keep_sample(task, signature, inputs, answers)
    return msgspec.structs.replace(
        found,
        artifacts=(Artifact(kind="onnx", entry=found.entry),),
        signature=signature,
        batchable=batchable,
        batching=batching,
        sample=sample,
        notes=tuple(notes),
        added=(*found.added, *kept),
    )

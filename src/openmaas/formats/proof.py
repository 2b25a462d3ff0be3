"""What only a run shows: that a model runs at all, the true shapes of its answers, and whether rows may share a batch."""

from __future__ import annotations

import msgspec

from openmaas.core.errors import TooLarge
from openmaas.core.manifest import NO_SAMPLE
from openmaas.formats import observed, trial
from openmaas.formats.base import Examined, Task
from openmaas.formats.batching import as_declared
from openmaas.formats.kept import keep_sample
from openmaas.formats.padding import prove_declared


def prove_answers(task: Task, model: trial.Runner, found: Examined, *, unknown: frozenset[str], axes: trial.Axes) -> Examined:
    """Run a loaded model on the sample that was given, or on made-up input, and say what that shows.

    unknown: inputs and outputs whose shape the file does not give. axes: names of the inputs' axes, where it gives names.
    Raises Refused where it does not run, or not as its source did; InvalidInput where the sample does not fit.
    """
    notes, signature = list(found.notes), found.signature
    if task.sample is not None:
        first = trial.try_given(model, signature, task.folder / task.sample)
    else:
        try:
            first = trial.try_generated(model, signature, axes)
        except TooLarge as error:
            why = f"Not measured: {error.message} {trial.SAMPLE_STEP}"
            return msgspec.structs.replace(found, batching=why, notes=(*notes, why))
        notes.append(f"{NO_SAMPLE}: it was tried on generated input.")
    signature = observed.correct_outputs(signature, first.outputs, unknown, notes)
    verdict = trial.prove_batching(model, signature, first, axes)
    trial.check_expected(model, signature, first, verdict.batchable)
    if names := observed.not_finite(first.outputs):
        notes.append(f"On the {first.origin} sample, output {names} holds NaN or Infinity.")
    batchable, batching = as_declared(task.description.batchable, verdict)
    padding = prove_declared(task, model.run, signature, first, batchable, notes)
    inputs, answers = trial.answered(model, signature, first, verdict.batchable)
    sample, kept = keep_sample(task, signature, inputs, answers)
    return msgspec.structs.replace(
        found,
        signature=signature,
        batchable=batchable,
        batching=batching,
        padding=padding,
        sample=sample,
        notes=tuple(notes),
        added=(*found.added, *kept),
    )

"""A version answers many rows by the engine that serves it, in a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from openmaas.core.errors import EngineFailed, InvalidInput, Refused
from openmaas.core.hardware import usable_cores
from openmaas.core.manifest import EngineChoice, Manifest
from openmaas.core.measurement import Measurement
from openmaas.core.processing import Labels, TextInput
from openmaas.engines import engine_choices
from openmaas.processing import Processor, open_processing
from openmaas.tasks.base import Job
from openmaas.tasks.candidate import Candidate, Failed
from openmaas.tasks.examples import Examples
from openmaas.tasks.meanings import Arrays

BATCH = 32
_PATIENCE = 300.0  # seconds for one batch, or for loading

Progress = Callable[[float, float], object]
"""Rows that are done, and all of them."""


def serving_choice(job: Job, reference: str, manifest: Manifest, engine: str = "") -> EngineChoice:
    """How a version is served here: by the engine of that label, else the one that a deployment serves it by, else what the
    newest measurement on this processor found fastest, else its own. Its threads are those to run with.

    Of several deployments' engines it is the first by name; gates ask for each. Raises InvalidInput where nothing here runs it,
    or the engine that is asked for does not.
    """
    possible = engine_choices(manifest)
    version = job.client.show(reference)
    if not engine and version.serving:
        served = msgspec.convert(version.serving[0]["choice"], EngineChoice)
        return msgspec.structs.replace(served, threads=served.threads or usable_cores())
    found = version.measurement
    measurement = msgspec.convert(found, Measurement, strict=False) if found else None
    if measurement is not None and engine:
        measurement = msgspec.structs.replace(measurement, tried=measurement.named(engine))
    if measurement is not None and manifest.generator is None:
        there = tuple(one for one in measurement.tried if msgspec.structs.replace(one.choice, threads=0) in possible)
        best = msgspec.structs.replace(measurement, tried=there).best(usable_cores())
        if best is not None:
            return best.choice
    choice = next((one for one in possible if not engine or one.label == engine), None)
    if choice is None:
        raise InvalidInput(
            f"The engine {engine!r} does not run {reference} here." if engine else f"No engine here runs {reference} as it is.",
            code="engine_cannot_run" if engine else "not_runnable",
            next_step=f"These can: {', '.join(one.label for one in possible)}."
            if possible
            else f"openmaas convert {reference} --to onnx",
        )
    return msgspec.structs.replace(choice, threads=choice.threads or usable_cores())


def serving_note(job: Job, reference: str, choice: EngineChoice) -> str:
    """What a person should be told of how a version was run, where it is as a deployment serves it; else empty."""
    serving = job.client.show(reference).serving
    name = next((one["deployment"] for one in serving if one["engine"] == choice.label), "")
    if not name:
        return ""
    others = ", ".join(one["engine"] for one in serving if one["engine"] != choice.label)
    more = f" Others serve it by {others}: --engine measures these." if others else ""
    return f"{reference} was run by {choice.label}, by which the deployment {name!r} serves it.{more}"


def answer(
    candidate: Candidate,
    manifest: Manifest,
    folder: Path,
    examples: Examples,
    *,
    batch: int = BATCH,
    progress: Progress | None = None,
) -> Arrays:
    """The public outputs of all rows, on axis 0, in their order: as processing makes them of the engine's (pooled embeddings,
    labels and probabilities), or the engine's own where nothing is declared.

    batch: rows of one call; 1 where a version's rows may not share one. Texts are answered by length: padded to the longest of
    their batch where the version may be padded, else beside those of the same length only.

    Raises EngineFailed for an engine that dies, is late or cannot, and Refused for answers that are not finite.
    """
    processor = open_processing(manifest, folder)
    parts: list[Arrays] = []
    wrong: dict[str, int] = {}
    candidate.patience = _PATIENCE
    done = 0
    batches = _batches(manifest, examples, batch if manifest.batchable else 1)
    for rows, length in batches:
        if progress is not None:
            progress(done, examples.rows)
        inputs = {name: array[rows] for name, array in examples.inputs.items()}
        if length:
            inputs = {name: array[:, :length] if name in _sequences(manifest) else array for name, array in inputs.items()}
        part = _batch(candidate, processor, inputs, wrong)
        if part is not None:
            parts.append(part)
        done += len(rows)
    if wrong:
        name, count = max(wrong.items(), key=lambda one: one[1])
        raise Refused(
            f"{count} of {examples.rows} rows are answered with NaN or Infinity in the output {name!r} by "
            f"{candidate.choice.label}.",
            code="not_finite",
            next_step="Look into the input and the model, or try another engine with --engine.",
        )
    back = np.argsort(np.concatenate([rows for rows, _ in batches]), kind="stable")
    return {name: _joined(name, [part[name] for part in parts])[back] for name in parts[0]}


def _batch(candidate: Candidate, processor: Processor, inputs: Arrays, wrong: dict[str, int]) -> Arrays | None:
    """The public outputs of one batch; None where some are not finite, which are counted in `wrong`."""
    count = len(next(iter(inputs.values())))
    try:
        outputs = candidate.answer(inputs, 0)
    except Failed as failed:
        raise EngineFailed(
            f"{candidate.choice.label} cannot answer these rows: {failed.cause}",
            code=failed.state,
            next_step="Try another engine with --engine.",
        ) from None
    for name, array in outputs.items():
        if array.ndim == 0 or len(array) != count:
            raise EngineFailed(f"The output {name!r} has the shape {list(array.shape)} for {count} rows.", code="wrong_shape")
        if array.dtype.kind == "f" or array.dtype.name == "bfloat16":
            finite = np.isfinite(np.asarray(array, np.float64)).reshape(count, -1).all(axis=1)
            if not finite.all():
                wrong[name] = wrong.get(name, 0) + int((~finite).sum())
    return None if wrong else dict(processor.finish(dict(outputs), inputs, {}))


def _batches(manifest: Manifest, examples: Examples, batch: int) -> list[tuple[NDArray[np.intp], int]]:
    """Which rows share a call, and how long they are then; 0 leaves them as they are."""
    lengths = examples.lengths
    if lengths is None or (manifest.padding is not None and not _per_row(manifest)):
        return [(rows, 0) for rows in _pieces(np.arange(examples.rows), batch)]
    order = np.argsort(lengths, kind="stable")
    if manifest.padding is None:
        groups = np.split(order, np.flatnonzero(np.diff(lengths[order])) + 1)
        pieces = [rows for group in groups for rows in _pieces(group, batch)]
    else:
        pieces = _pieces(order, batch)
    return [(rows, int(lengths[rows].max())) for rows in pieces]


def _pieces(rows: NDArray[np.intp], batch: int) -> list[NDArray[np.intp]]:
    return [rows[start : start + batch] for start in range(0, len(rows), batch)]


def _per_row(manifest: Manifest) -> bool:
    """Whether what is made of the outputs no longer depends on how long the batch was."""
    declared = manifest.processing.output if manifest.processing is not None else None
    return declared is not None and not (isinstance(declared, Labels) and declared.tokens)


def _sequences(manifest: Manifest) -> frozenset[str]:
    """Engine inputs whose axis 1 is the length of a text."""
    declared = manifest.processing.input if manifest.processing is not None else None
    return frozenset(declared.tensors if isinstance(declared, TextInput) else manifest.padding.pad if manifest.padding else ())


def _joined(name: str, parts: list[NDArray[Any]]) -> NDArray[Any]:
    if len({part.shape[1:] for part in parts}) > 1:
        raise EngineFailed(f"The output {name!r} has rows of different shapes from one batch to the next.", code="wrong_shape")
    return np.concatenate(parts)

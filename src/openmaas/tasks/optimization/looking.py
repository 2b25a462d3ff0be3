"""Short looks at what something costs to run: enough to choose by while a search goes on, not to report."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

import msgspec

from openmaas.core.hardware import free_memory
from openmaas.core.manifest import EngineChoice, Manifest
from openmaas.engines import engine_choices
from openmaas.formats.agreement import hold_against
from openmaas.tasks.base import Job
from openmaas.tasks.candidate import Candidate, Failed
from openmaas.tasks.measure import first_row
from openmaas.tasks.optimization.base import Arrays
from openmaas.tasks.optimization.portfolio import Target
from openmaas.tasks.side_by_side import row_turns

_BATCH: Final = 32
_SECONDS: Final = 0.2
_PATIENCE: Final = 60.0
_REDUCED: Final = "openvino:bf16"
"""Often the fastest, and tried of what is not the parent's."""


def look(candidate: Candidate, manifest: Manifest, inputs: Arrays, target: Target) -> float:
    """Seconds of a row, in a call of one for the target latency, else of 32; bytes for the targets size and memory. inputs:
    engine inputs, rows on axis 0. Raises Failed."""
    if target in ("size", "memory"):
        return float(candidate.memory)
    batch = _BATCH if target == "throughput" and manifest.batchable else 1
    times, _ = row_turns(manifest, inputs, 0)(candidate, batch, 0, _SECONDS)
    return statistics.median(times) / batch


def quickest(
    job: Job, manifest: Manifest, folder: Path, inputs: Arrays, target: Target, labels: Sequence[str], threads: int
) -> EngineChoice:
    """Of a version's own engine and of those with these labels, the one that costs least in a short look and answers a few rows
    as its own does, within the tolerance of the job's settings. Raises Failed where its own engine does not run it."""
    choices = [msgspec.structs.replace(one, threads=threads) for one in _choices(manifest, labels)]
    best, least, expected = choices[0], 0.0, None
    for number, choice in enumerate(choices):
        scratch = job.scratch / f"look-{len(list(job.scratch.iterdir()))}"
        scratch.mkdir()
        candidate = Candidate(choice, manifest, folder, scratch, memory=free_memory() * 4 // 5)
        candidate.patience = _PATIENCE
        with closing(candidate):
            try:
                given = _few(candidate, manifest, inputs)
                if expected is not None and _wrong(job, manifest, choice, given, expected):
                    continue
                cost = look(candidate, manifest, inputs, target)
            except Failed:
                if number == 0:
                    raise
                continue
        if expected is None:
            best, least, expected = choice, cost, given
        elif cost < least:
            best, least = choice, cost
    return best


def _choices(manifest: Manifest, labels: Sequence[str]) -> list[EngineChoice]:
    """The version's own first, each once."""
    own, *others = engine_choices(manifest)
    named = [one for one in others if one.label in (*labels, _REDUCED) and one.label != own.label]
    return [own, *{one.label: one for one in named}.values()]


def _few(candidate: Candidate, manifest: Manifest, inputs: Arrays) -> Arrays:
    if not manifest.batchable:
        return candidate.answer(first_row(inputs, manifest.signature.inputs), 0)
    return candidate.answer({name: array[:_BATCH] for name, array in inputs.items()}, 0)


def _wrong(job: Job, manifest: Manifest, choice: EngineChoice, given: Arrays, expected: Arrays) -> str | None:
    processing = manifest.processing
    return hold_against(
        _BATCH, given, expected, precision=choice.precision, least_cosine=job.settings.engine_cosine,
        declared=processing.output if processing else None,
    )[1]  # fmt: skip

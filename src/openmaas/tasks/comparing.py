"""Run a version by one of its engines on a sample, and hold two engines' answers against each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from openmaas.core.errors import InvalidInput
from openmaas.core.made_up import make_up
from openmaas.core.manifest import Comparison, EngineChoice, Manifest
from openmaas.engines import EngineSpec, create_engine
from openmaas.formats.agreement import hold_against
from openmaas.formats.compare import rows, stack
from openmaas.formats.sample import fit, read_sample, split_expected, stretch

Arrays = dict[str, NDArray[Any]]
Run = Callable[[Arrays], Arrays]
BATCHES = (1, 2, 7)
_ROWS = 32
"""Rows that a sample is cut to: enough to show a difference, few enough for a slow engine."""


def sample_of(manifest: Manifest, folder: Path) -> tuple[Arrays, Arrays, str]:
    """Engine inputs, the source's answers to them (may be empty), and whether the pusher gave them: "given" or "generated"."""
    if manifest.sample is not None:
        arrays, expected = split_expected(read_sample(folder / manifest.sample))
        return fit(arrays, manifest.signature.inputs), expected, manifest.sample_origin
    return make_up(manifest.signature.inputs, _ROWS), {}, "generated"


def opened(manifest: Manifest, folder: Path, choice: EngineChoice, threads: int) -> Run:
    """The engine's own batch call, loaded and warm. Raises EngineFailed."""
    engine = create_engine(choice.engine)
    engine.load(EngineSpec(folder=folder, manifest=manifest, threads=threads, choice=choice))
    engine.warm()
    return engine.run


def answers(run: Run, inputs: Arrays, batch: int) -> Arrays:
    """Answers to all rows, so many at once."""
    count = len(next(iter(inputs.values())))
    return stack([run(rows(inputs, start, start + batch)) for start in range(0, count, batch)])


def hold(
    run: Run, inputs: Arrays, expected: Mapping[str, NDArray[Any]], manifest: Manifest, precision: str, least_cosine: float
) -> tuple[tuple[Comparison, ...], str | None]:
    """An engine's answers against the expected ones at each batch size: what to store, and what is wrong (None: nothing).

    precision: what the engine computes in, empty for full; it decides how far apart the answers may be (formats/agreement.py).
    """
    comparisons, reason = [], None
    declared = manifest.processing.output if manifest.processing is not None else None
    for batch in BATCHES if manifest.batchable else BATCHES[:1]:
        count = max(batch, min(len(next(iter(inputs.values()))), _ROWS) // batch * batch)
        given = answers(run, stretch(inputs, count), batch)
        comparison, wrong = hold_against(
            batch, given, stretch(expected, count), precision=precision, least_cosine=least_cosine, declared=declared
        )
        comparisons.append(comparison)
        reason = reason or wrong
    return tuple(comparisons), f"{reason}." if reason else None


def require_rows(inputs: Arrays) -> None:
    """Raises InvalidInput for a sample without rows."""
    if not inputs or not all(len(array) for array in inputs.values()):
        raise InvalidInput("The sample has no rows.", code="invalid_sample", next_step="Give at least one row.")

"""One batch on its way through the engine: joined, run, split again; halved where it fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from openmaas.core.errors import DeadlineExceeded, EngineFailed, OpenMaaSError, Unavailable, without_paths
from openmaas.core.processing import Padding
from openmaas.replica.sequences import Sequences
from openmaas.replica.waiting import Limits
from openmaas.replica.work import Tensors, Work

Run: TypeAlias = Callable[[Tensors], Tensors]


class Batch:
    """The works that run together, and what became of them.

    size: as pace.Pace counts. calls: rows and seconds of each call of the engine. tokens, padded: of sequences, without and
    with their padding. model and took: seconds in the engine, and in all.
    """

    __slots__ = ("answers", "calls", "failed", "limits", "model", "padded", "size", "started", "tokens", "took", "works")

    def __init__(self, works: list[Work], limits: Limits, size: int = 0) -> None:
        self.works = works
        self.limits = limits
        self.size = size
        self.answers: list[Tensors | OpenMaaSError] = []
        self.started = time.monotonic()
        self.calls: list[tuple[int, float]] = []
        self.tokens = 0
        self.padded = 0
        self.failed = False
        self.model = 0.0
        self.took = 0.0


class Runner:
    """Runs batches, one at a time, in whichever thread it is called."""

    def __init__(self, run: Run, *, batchable: bool, padding: Padding | None) -> None:
        self._run = run
        self._batchable = batchable
        self._padding = padding

    def execute(self, batch: Batch) -> Batch:
        """Fill in the answers, in the order of the works. Never raises."""
        batch.started = time.monotonic()
        self._run_group(batch.works, batch)
        batch.took = time.monotonic() - batch.started
        return batch

    def _run_group(self, works: Sequence[Work], batch: Batch) -> None:
        """A failing group is halved, so that only the culprit keeps its error."""
        try:
            answers = self._run_together(works, batch)
        except BaseException as error:  # also what libraries written in other languages throw, as a panic in Rust
            batch.failed = True
            if len(works) == 1:
                batch.answers.append(engine_error(error))
                return
            middle = len(works) // 2
            self._run_group(works[:middle], batch)
            self._run_group(works[middle:], batch)
        else:
            batch.answers += answers

    def _run_together(self, works: Sequence[Work], batch: Batch) -> list[Tensors]:
        first = works[0]
        if first.length and self._padding is not None:
            return self._run_sequences(works, self._padding, batch)
        if len(works) == 1:
            if first.rows > batch.limits.rows and self._batchable:
                return [self._run_in_slices(first, batch)]
            return [self._call(first.inputs, first.rows, batch)]
        joined = {name: np.concatenate([work.inputs[name] for work in works]) for name in first.inputs}
        rows = sum([work.rows for work in works])
        return _split(self._call(joined, rows, batch), [work.rows for work in works], rows)

    def _run_sequences(self, works: Sequence[Work], padding: Padding, batch: Batch) -> list[Tensors]:
        joined = Sequences(works, padding, batch.limits)
        for number, call in enumerate(joined.calls()):
            if number and len(works) == 1:
                _check_wanted(works[0])
            joined.give(call, self._call(call.inputs, call.rows, batch))
            batch.tokens += call.tokens
            batch.padded += call.padded
        return joined.answers

    def _run_in_slices(self, work: Work, batch: Batch) -> Tensors:
        """A request with more rows than a batch may have. It is given up between two calls when nobody needs it any more."""
        parts: list[Tensors] = []
        most = batch.limits.rows
        for start in range(0, work.rows, most):
            _check_wanted(work)
            piece = {name: array[start : start + most] for name, array in work.inputs.items()}
            rows = min(most, work.rows - start)
            parts += _split(self._call(piece, rows, batch), [rows], rows)
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _call(self, inputs: Tensors, rows: int, batch: Batch) -> Tensors:
        begun = time.monotonic()
        try:
            return self._run(inputs)
        finally:
            seconds = time.monotonic() - begun
            batch.model += seconds
            batch.calls.append((rows, seconds))


def _check_wanted(work: Work) -> None:
    if work.cancelled or work.deadline <= time.monotonic():
        raise late()


def _split(outputs: Tensors, rows: Sequence[int], total: int) -> list[Tensors]:
    """Each request's own rows. Raises EngineFailed when an output does not have the batch's rows: it cannot be told apart."""
    for name, array in outputs.items():
        if array.ndim == 0 or len(array) != total:
            raise EngineFailed(
                f"Output {name!r} has shape {list(array.shape)} for a batch of {total} rows.", code="output_not_batched"
            )
    parts: list[Tensors] = []
    start = 0
    for count in rows:
        parts.append({name: array[start : start + count] for name, array in outputs.items()})
        start += count
    return parts


def late() -> DeadlineExceeded:
    return DeadlineExceeded(
        "The request's time was over before the model was through with it.",
        next_step="Allow it more time, or deploy with more --replicas.",
    )


def engine_error(error: BaseException, what: str = "The model failed on this input") -> OpenMaaSError:
    """What an engine or a library raised, as an error of ours."""
    if isinstance(error, OpenMaaSError):
        return error
    if isinstance(error, MemoryError):
        return Unavailable(
            "The model ran out of memory on this input.",
            code="out_of_memory",
            retry_after=1.0,
            next_step="Send fewer rows a request, or deploy with more --memory.",
        )
    text = without_paths(" ".join(str(error).split())[:500])
    return EngineFailed(f"{what}: {type(error).__name__}: {text}.")

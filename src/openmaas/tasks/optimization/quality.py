"""What a variant loses against its parent on rows that nothing was trained on, and how training sets are split for that."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from openmaas.core.errors import Refused
from openmaas.core.evaluations import Estimate
from openmaas.core.manifest import Manifest
from openmaas.core.metrics import BY_TASK, Answered, loss, require_metric
from openmaas.formats.agreement import agree
from openmaas.tasks.comparison import agreement_loss
from openmaas.tasks.examples import Examples, rows_digest
from openmaas.tasks.meanings import predicted
from openmaas.tasks.optimization.base import Arrays

HELD_OUT: Final = 0.2
"""Share of a training set that a search trains nothing on: what it chooses by."""

_MOST_HELD_OUT: Final = 2000
_LEAST_ROWS: Final = 20  # fewer are not split: nothing could be told of a fifth of them


def split(examples: Examples, seed: int) -> tuple[Examples, Examples]:
    """What is trained on, and what variants are chosen by: HELD_OUT of the rows, drawn by the seed. Too few rows are both."""
    per_truth = examples.rows // len(examples.truth) if examples.truth is not None else 1
    count = examples.rows // per_truth
    if count < _LEAST_ROWS:
        return examples, examples
    order = np.random.default_rng(seed).permutation(count)
    held = min(_MOST_HELD_OUT, max(1, round(count * HELD_OUT)))
    return _taken(examples, np.sort(order[held:]), per_truth), _taken(examples, np.sort(order[:held]), per_truth)


def _taken(examples: Examples, chosen: NDArray[np.int64], per_truth: int) -> Examples:
    rows = (chosen[:, None] * per_truth + np.arange(per_truth)).reshape(-1)
    return replace(
        examples,
        inputs={name: array[rows] for name, array in examples.inputs.items()},
        truth=None if examples.truth is None else examples.truth[chosen],
        lengths=None if examples.lengths is None or not len(examples.lengths) else examples.lengths[rows],
        index=examples.index[chosen] if len(examples.index) == examples.rows // per_truth else examples.index[rows],
        digest=rows_digest(examples.digest, chosen),
    )


class Judge:
    """Holds answers to `examples` against the parent's: by the metric where there is a truth, else by agreement.

    manifest: the parent's, whose meaning every variant keeps. outputs: the parent's public ones, as serving.answer gives them.
    metric: empty is the usual one. Raises InvalidInput for a metric of another task.
    """

    def __init__(self, manifest: Manifest, examples: Examples, outputs: Arrays, metric: str, seed: int) -> None:
        self._manifest = manifest
        self._examples = examples
        self._seed = seed
        self._expected = outputs
        self.metric = ""
        if examples.task != "agreement":
            require_metric(metric, examples.task)
            self.metric = metric or BY_TASK[examples.task][0]
            self._before = self._answered(outputs)

    def loss(self, outputs: Arrays) -> Estimate:
        """Raises Refused where the rows do not define one."""
        if self.metric:
            return loss(self.metric, self._before, self._answered(outputs), self._seed)
        processing = self._manifest.processing
        rows = agree(outputs, self._expected, processing.output if processing else None)
        found = agreement_loss(rows, self._seed)[1] if rows is not None else None
        if found is None:
            raise Refused("Its answers cannot be compared with the parent's.", code="not_comparable")
        return found

    def _answered(self, outputs: Arrays) -> Answered:
        examples = self._examples
        assert examples.truth is not None
        given = predicted(self._manifest, outputs, examples.classes, examples.task)
        return Answered("classes" if examples.task == "classification" else "values", examples.truth, given, examples.digest)

"""One request as the batcher sees it."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from openmaas.core.contracts import Timing
from openmaas.core.errors import OpenMaaSError

Tensors: TypeAlias = dict[str, NDArray[np.generic]]


class Work(ABC):
    """One request on its way through the batcher.

    rows: along the batch axis. key: what must be equal to share a batch. timeout: seconds that it may wait and run.
    length: of its longest row where rows are sequences that may be padded, else 0; the batcher finds it out.
    lengths: of each row without its padding, where the caller knows them: what lies behind need not be computed, and outputs
    along the sequence are filled with 0 there.
    """

    __slots__ = ("arrived", "cancelled", "deadline", "inputs", "key", "length", "lengths", "rows")

    def __init__(self, inputs: Tensors, rows: int, timeout: float) -> None:
        self.inputs = inputs
        self.rows = rows
        self.key: Hashable = tuple([array.shape[1:] for array in inputs.values()])
        self.length = 0
        self.lengths: Sequence[int] | NDArray[np.intp] | None = None
        self.arrived = time.monotonic()
        self.deadline = self.arrived + timeout
        self.cancelled = False

    @abstractmethod
    def done(self, result: Tensors | OpenMaaSError, timing: Timing) -> None:
        """Called exactly once, unless it was cancelled before: the outputs or the error, and where the time went."""

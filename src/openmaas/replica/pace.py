"""How large a batch should be: learned from the engine's own calls, since the largest is not always the fastest a row."""

from __future__ import annotations

import math
from collections import deque
from statistics import median
from typing import Final

# Seconds below which a largest batch is never made smaller: what surrounds a call would cost more than a better size spares.
_SHORT: Final = 0.004
_SIZES: Final = 4
# Full batches before anything is tried, and then between two tries of a neighbouring size: what is known of it may be outdated.
_FIRST: Final = 8
_EVERY: Final = 64
# Batches by which a size is judged: at least, and the last so many.
_ENOUGH: Final = 3
_SAMPLES: Final = 5
# A smaller size must be this much faster than a larger one.
_BETTER: Final = 0.97


class Pace:
    """Sizes of a batch, each half of the one before it, and what a unit of work (a row, a token) took at each.

    Only full batches tell something of a size, so nothing is tried before there were some of the largest size, which is 0.
    most: rows in the largest batch.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._seconds = [deque[float](maxlen=_SAMPLES) for _ in range(max(1, min(_SIZES, most.bit_length() - 1)))]
        self._best = 0
        self._full = 0

    @staticmethod
    def limit(most: int, size: int) -> int:
        """What of a limit is left at a size."""
        return max(1, most >> size)

    def choose(self, waiting: int) -> int:
        """The size for the next batch. waiting: rows that could be in it."""
        if self._full < _FIRST:
            return 0
        possible = [size for size in range(len(self._seconds)) if self.limit(self._most, size) <= waiting]
        untried = [size for size in possible if len(self._seconds[size]) < _ENOUGH]
        if untried:
            return min(untried, key=lambda size: len(self._seconds[size]))
        turn, rest = divmod(self._full, _EVERY)
        neighbour = self._best + (1 if turn % 2 else -1)
        return neighbour if rest == 0 and neighbour in possible else self._best

    def learn(self, size: int, units: int, seconds: float) -> None:
        """One full batch and the seconds that it took."""
        if size == 0 and seconds < _SHORT:
            self._full = 0
            return
        self._full += 1
        self._seconds[size].append(seconds / units)
        self._best, least = 0, math.inf
        for tried, known in enumerate(self._seconds):
            if len(known) >= _ENOUGH and median(known) < _BETTER * least:
                self._best, least = tried, median(known)

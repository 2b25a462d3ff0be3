"""Python runs this at its start wherever this folder is on its path: replicas then batch sequences in the order of arrival."""

from __future__ import annotations

import sys


def _unsorted() -> None:
    import numpy as np

    from openmaas.replica import sequences, waiting
    from openmaas.replica.work import Work

    class Arrivals(waiting.Shelf):
        """The oldest and those that came after it, padded to the longest of them, within the same limits of a batch."""

        def _pop_near(self, oldest: object, limits: waiting.Limits) -> list[Work]:
            batch: list[Work] = []
            rows = longest = 0
            for work in self:
                rows, longest = rows + work.rows, max(longest, work.length)
                if batch and (rows > limits.rows or rows * longest > limits.tokens):
                    break
                batch.append(work)
            for work in batch:
                self.remove(work)
            return batch

    waiting.Shelf = Arrivals  # type: ignore[misc]
    sequences.slices = lambda lengths, limits: [np.arange(len(lengths))]


if "replica" in sys.orig_argv:
    _unsorted()

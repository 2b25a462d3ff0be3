"""What a replica counts: since its start, in whole numbers, read as Triton's statistics or as metrics."""

from __future__ import annotations

import time
from typing import Any

from openmaas.core.contracts import Timing


class _Span:
    """A count and the seconds that belong to it."""

    __slots__ = ("count", "seconds")

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.0

    def add(self, seconds: float, count: int = 1) -> None:
        self.count += count
        self.seconds += seconds

    def as_wire(self) -> dict[str, int]:
        return {"count": self.count, "ns": int(self.seconds * 1e9)}


class Statistics:
    """Counts of one replica. `success` and `fail` are requests; an execution is one call of the engine."""

    def __init__(self) -> None:
        self.success = _Span()
        self.fail = _Span()
        self.cancelled = 0
        self.rejected = 0
        self.rows = 0
        self.executions = 0
        self.last_inference = 0.0
        self.tokens = 0
        self.padding_tokens = 0
        self._queue = _Span()
        self._batch = _Span()
        self._model = _Span()
        self._by_size: dict[int, _Span] = {}

    def executed(self, rows: int, seconds: float) -> None:
        """One call of the engine over `rows` rows."""
        self.executions += 1
        span = self._by_size.get(rows)
        if span is None:
            span = self._by_size[rows] = _Span()
        span.add(seconds)

    def padded(self, tokens: int, padding: int) -> None:
        """Sequences that ran: their own tokens, and those that filled them up to the longest of their batch."""
        self.tokens += tokens
        self.padding_tokens += padding

    def answered(self, timing: Timing, seconds: float) -> None:
        """One request answered, `seconds` after it arrived here."""
        self.success.add(seconds)
        self.rows += timing.rows
        self._queue.add(timing.queue)
        self._batch.add(timing.batch)
        self._model.add(timing.model)

    def failed(self, seconds: float) -> None:
        self.fail.add(seconds)

    def as_wire(self, name: str, version: int) -> dict[str, Any]:
        """One entry of `model_stats` as in Triton's statistics extension; times in nanoseconds, last_inference in milliseconds.

        Beyond Triton's: cancelled, rejected, and where rows are sequences their tokens and the tokens that were padding.
        compute_input is the making of the batch and the splitting of its answers; compute_output is part of it, so always 0.
        """
        return {
            "name": name,
            "version": str(version),
            "last_inference": int(self.last_inference * 1000),
            "inference_count": self.rows,
            "execution_count": self.executions,
            "inference_stats": {
                "success": self.success.as_wire(),
                "fail": self.fail.as_wire(),
                "queue": self._queue.as_wire(),
                "compute_input": self._batch.as_wire(),
                "compute_infer": self._model.as_wire(),
                "compute_output": {"count": self.success.count, "ns": 0},
                "cache_hit": {"count": 0, "ns": 0},
                "cache_miss": {"count": 0, "ns": 0},
            },
            "batch_stats": [
                {
                    "batch_size": size,
                    "compute_input": {"count": span.count, "ns": 0},
                    "compute_infer": span.as_wire(),
                    "compute_output": {"count": span.count, "ns": 0},
                }
                for size, span in sorted(self._by_size.items())
            ],
            "cancelled": self.cancelled,
            "rejected": self.rejected,
            "tokens": self.tokens,
            "padding_tokens": self.padding_tokens,
        }

    def touch(self) -> None:
        self.last_inference = time.time()

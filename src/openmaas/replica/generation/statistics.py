"""What a replica that generates counts: since its start, in vLLM's shapes, so that its dashboards fit."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, Final, Literal, TypeAlias

from openmaas.core.generation import EngineLoad

Ending: TypeAlias = Literal["stop", "length", "tool_calls", "cancelled", "error"]
_FIRST_TOKEN: Final = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0,
)  # fmt: skip
_BETWEEN_TOKENS: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
)  # fmt: skip
_WHOLE: Final = (
    0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0,
)  # fmt: skip


class Histogram:
    """Counts of values in buckets. bounds: the largest value of each but the last, which takes what is above."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float, count: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += count
        self.sum += value * count

    def as_wire(self) -> dict[str, Any]:
        return {"bounds": self.bounds, "counts": self.counts, "sum": self.sum}


class GenerationStatistics:
    """Tokens, answers by how they ended (each of a request's n), and times in seconds.

    prompt_tokens: of each prompt once, when its first answer begins; cached_tokens: of these, from a cached prefix.
    generation_tokens: all that the engine gave, also for callers who had left.
    """

    def __init__(self) -> None:
        self.prompt_tokens = 0
        self.generation_tokens = 0
        self.cached_tokens = 0
        self.finished: dict[Ending, int] = {"stop": 0, "length": 0, "tool_calls": 0, "cancelled": 0, "error": 0}
        self.first_token = Histogram(_FIRST_TOKEN)
        self.between_tokens = Histogram(_BETWEEN_TOKENS)
        self.whole = Histogram(_WHOLE)
        self.queue = Histogram(_FIRST_TOKEN)

    def as_wire(self, running: int, waiting: int, load: EngineLoad) -> dict[str, Any]:
        """running and waiting: answers, here; what waits inside the engine is counted as waiting."""
        inside = min(load.waiting, running)
        return {
            "running": running - inside,
            "waiting": waiting + inside,
            "cache_usage": load.cache,
            "prompt_tokens": self.prompt_tokens,
            "generation_tokens": self.generation_tokens,
            "cached_tokens": self.cached_tokens,
            "finished": self.finished,
            "time_to_first_token_seconds": self.first_token.as_wire(),
            "inter_token_latency_seconds": self.between_tokens.as_wire(),
            "e2e_request_latency_seconds": self.whole.as_wire(),
            "request_queue_time_seconds": self.queue.as_wire(),
        }

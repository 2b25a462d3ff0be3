"""What a measurement of engines found, and which of them it recommends. Pure data and pure functions."""

from __future__ import annotations

import math
from typing import Any, Literal

import msgspec

from openmaas.core.hardware import Processor
from openmaas.core.manifest import Comparison, EngineChoice

TriedState = Literal[
    "fit", "load_failed", "run_failed", "crashed", "timed_out", "memory_limit", "wrong_type", "wrong_shape", "not_finite",
    "outside_tolerance", "not_compared", "not_timed",
]  # fmt: skip


NOISE = 0.03
"""Two rates closer than this are the same: figures of one machine differ by as much from one measurement to the next."""


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """One way to run a version, tried.

    choice: with the threads that it was tried with. state: fit, or what is wrong with it; `cause` says it in a sentence.
    comparisons: its answers held against the reference at each batch size. rates: rows a second by batch size; of what
    generates text, tokens a second by the number of streams. memory: the most resident bytes of its process. load: seconds
    until it was loaded and warm. library: name and version. perplexity and size (bytes of the files): of what generates text.
    """

    choice: EngineChoice
    state: TriedState
    cause: str = ""
    comparisons: tuple[Comparison, ...] = ()
    rates: dict[int, float] = {}
    memory: int = 0
    load: float = 0.0
    library: str = ""
    perplexity: float | None = None
    size: int = 0

    @property
    def rate(self) -> float:
        """The geometric mean of the rates, so that a batch size that is twice as fast counts the same for each; 0 without."""
        return math.exp(sum(map(math.log, self.rates.values())) / len(self.rates)) if self.rates else 0.0


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """All ways that were tried on one processor, the version's own first.

    sample: "given", "generated" or "built-in". reference: whose answers the others were held against; perplexity: its own,
    where it generates text. seconds: how long it took.
    """

    processor: Processor
    sample: str
    reference: str
    tried: tuple[Tried, ...]
    seconds: float = 0.0
    perplexity: float | None = None

    def best(self, threads: int) -> Tried | None:
        """The fastest that fits into so many threads; None where none does.

        Among those that a measurement cannot tell apart, the one that leaves more cores to others, then the plainest.
        """
        fitting = [one for one in self.tried if one.state == "fit" and one.choice.threads <= threads]
        fastest = max((one.rate for one in fitting), default=0.0)
        equal = [one for one in fitting if one.rate >= fastest * (1 - NOISE)]
        return min(equal, key=lambda one: one.choice.threads, default=None)

    def named(self, label: str) -> tuple[Tried, ...]:
        """What was tried under a name as people write it, such as openvino:bf16."""
        return tuple(one for one in self.tried if one.choice.label == label)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, with the index of what is best for each number of threads that was tried."""
        budgets = sorted({one.choice.threads for one in self.tried})
        best = {str(budget): self.best(budget) for budget in budgets}
        chosen = {budget: self.tried.index(one) for budget, one in best.items() if one is not None}
        return {**msgspec.to_builtins(self, str_keys=True), "chosen": chosen}

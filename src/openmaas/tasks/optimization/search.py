"""The search behind --auto: which recipes are tried, in which order, and when it is enough. What a trial is, is the bench's.

try       the portfolio, cheap recipes first: made, and its loss taken. What loses more than allowed is dropped here, before
          anything is timed; what does not apply is noted with its reason
time      all that are left in one alternating run
refine    around the best for the target while time is left: bisection on its knob between what was good enough and what was
          not; layers kept in float where int8 just fails

Every phase has its share of the time, and nothing is begun that is not expected to end within it; a trial that does all the
same is ended by the bench. All but the figures of time depends on the seed alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

import msgspec

from openmaas.core.errors import Cancelled, OpenMaaSError
from openmaas.core.evaluations import Estimate, Figures
from openmaas.core.measurement import NOISE
from openmaas.core.recipes import Quantize
from openmaas.tasks.optimization.portfolio import Candidate, Target
from openmaas.tasks.optimization.runner import OutOfTime

MAKING: Final = 0.5
"""Share of the time after which no more of the portfolio is begun; then until the other two are over."""
TIMING: Final = 0.62
REFINING: Final = 0.75
_KEPT: Final = (0.1, 0.3)
_JUST: Final = 3.0
"""Times the allowed loss: an int8 model that loses more is not saved by a few layers in float."""
_RESCUED: Final = 3
_FIRST: Final = 0.5  # of the finalists, that are simply the first
_FINEST: Final = 0.03  # of a knob


@dataclass
class Trial:
    """A candidate and what came of it. reason: why it is out of the running, empty while it is in. made: the bench's."""

    candidate: Candidate
    made: Any = None
    reason: str = ""
    loss: Estimate | None = None
    size: int = 0
    figures: Figures | None = None
    seconds: float = 0.0

    @property
    def label(self) -> str:
        return self.candidate.label

    @property
    def fits(self) -> bool:
        return self.made is not None and not self.reason


class Workbench(Protocol):
    """What the search works with."""

    def make(self, candidate: Candidate, deadline: float) -> Any:
        """Raises OpenMaaSError for a recipe that does not apply, OutOfTime after the deadline."""

    def loss(self, made: Any) -> Estimate:
        """Of quality against the parent, on rows that nothing was trained on. Raises OpenMaaSError."""

    def size(self, made: Any) -> int:
        """Bytes that an engine loads."""

    def time(self, made: Sequence[Any], seconds: float) -> list[Figures | str]:
        """Figures of each, in one alternating run beside the parent; a sentence for one that cannot be run."""

    def expected_seconds(self, candidate: Candidate) -> float:
        """That making it will take."""


class Search:
    """seconds: of all, measuring the finalists included, from `start` on. tell: a stage, how many were tried, of how many."""

    def __init__(
        self,
        bench: Workbench,
        target: Target,
        max_loss: float,
        seconds: float,
        *,
        tell: Callable[[str, int, int], object],
        clock: Callable[[], float] = time.monotonic,
        start: float | None = None,
    ) -> None:
        self._bench = bench
        self._target = target
        self._max_loss = max_loss
        self._seconds = seconds
        self._tell = tell
        self._clock = clock
        self._start = clock() if start is None else start
        self.trials: list[Trial] = []
        self._total = 0

    def run(self, candidates: Sequence[Candidate]) -> list[Trial]:
        """All trials in the order in which they were made. Raises Cancelled."""
        self._total = len(candidates)
        for candidate in candidates:
            self._try(candidate, MAKING)
        self._time()
        self._keep_worst()
        self._refine()
        return self.trials

    def finalists(self, most: int) -> list[Trial]:
        """At most so many: the first for the target; the gentlest of the same kind and the first of every other, for the case
        that the evaluation set thinks otherwise of the first; then the next."""
        ranked = sorted((one for one in self.trials if one.fits), key=self._rank)
        found = ranked[: max(1, round(most * _FIRST))]
        gentle = [one for one in ranked if one.candidate.knob and _way(one) == _way(ranked[0]) and one not in found]
        found += sorted(gentle, key=lambda one: one.candidate.amount)[:1]
        for trial in ranked:
            if not any(_way(one) == _way(trial) for one in found):
                found.append(trial)
        return [*found, *(one for one in ranked if one not in found)][:most]

    @property
    def best(self) -> Trial | None:
        return min((one for one in self.trials if one.fits), key=self._rank, default=None)

    # try

    def _try(self, candidate: Candidate, share: float) -> Trial:
        trial = Trial(candidate=candidate)
        self.trials.append(trial)
        began, deadline = self._clock(), self._start + self._seconds * share
        trial.reason = self._not_begun(candidate, deadline - began)
        if trial.reason:
            return trial
        best = self.best
        told = f"tried {len(self.trials) - 1} of {max(self._total, len(self.trials))}"
        self._tell(f"{told}, best so far {best.label}" if best else told, len(self.trials) - 1, self._total)
        try:
            trial.made = self._bench.make(candidate, deadline)
            trial.size = self._bench.size(trial.made)
            trial.loss = self._bench.loss(trial.made)
        except OutOfTime as error:
            trial.reason = error.message
        except Cancelled:
            raise
        except OpenMaaSError as error:
            trial.reason = error.message
        else:
            if trial.loss.value > self._max_loss:
                trial.reason = f"It loses {trial.loss.value:.2%}, more than {self._max_loss:.2%}."
        trial.seconds = self._clock() - began
        return trial

    def _not_begun(self, candidate: Candidate, left: float) -> str:
        if candidate.after and not any(one.fits and one.label == candidate.after for one in self.trials):
            lost = any(_lost(one) and one.label == candidate.after for one in self.trials)
            return f"Not tried: {candidate.after} alone {'is not good enough' if lost else 'was not made'}."
        if candidate.instead and not any(_lost(one) and one.label == candidate.instead for one in self.trials):
            return f"Not tried: it is for where {candidate.instead} is too much."
        expected = self._bench.expected_seconds(candidate)
        if expected > left:
            return f"Not tried: it would take about {expected:.0f} s, and {max(0.0, left):.0f} s are left for it."
        return ""

    # time

    def _time(self) -> None:
        fitting = [one for one in self.trials if one.fits]
        left = self._start + self._seconds * TIMING - self._clock()
        if not fitting or left <= 0 or self._target == "size":
            return
        self._tell(f"timing {len(fitting)} variants", len(self.trials), len(self.trials))
        for trial, figures in zip(fitting, self._bench.time([one.made for one in fitting], left), strict=True):
            if isinstance(figures, str):
                trial.reason = figures
            else:
                trial.figures = figures

    # refine

    def _keep_worst(self) -> None:
        """Of the smallest int8 models that just fail, the worst layers in float."""
        just = [one for one in self.trials if _int8(one) is not None and self._just_lost(one)]
        for trial in sorted(just, key=lambda one: one.size)[:_RESCUED]:
            steps, number = trial.candidate.recipe.steps, _int8(trial)
            assert number is not None
            for share in _KEPT:
                kept = msgspec.structs.replace(steps[number], keep_worst=share)
                recipe = msgspec.structs.replace(trial.candidate.recipe, steps=(*steps[:number], kept, *steps[number + 1 :]))
                if self._try(replace(trial.candidate, recipe=recipe, after="", instead=""), REFINING).fits:
                    break

    def _just_lost(self, trial: Trial) -> bool:
        return trial.loss is not None and self._max_loss < trial.loss.value <= _JUST * self._max_loss

    def _refine(self) -> None:
        """Bisection: the knob's largest amount that is good enough."""
        best = self.best
        if best is None or best.candidate.knob is None:
            return
        knob = best.candidate.knob
        family = [
            one for one in self.trials if one.candidate.family == best.candidate.family and one.candidate.knob is not None
        ]
        good = best.candidate.amount
        bad = min((one.candidate.amount for one in family if _lost(one) and one.candidate.amount > good), default=knob.most)
        whole = isinstance(getattr(best.candidate.recipe.steps[knob.step], knob.field), int)
        while bad - good > (1 if whole else _FINEST):
            middle = (good + bad) / 2
            trial = self._try(best.candidate.at(round(middle) if whole else middle), REFINING)
            if trial.fits:
                good = trial.candidate.amount
            elif _lost(trial):
                bad = trial.candidate.amount
            else:
                return

    # ranking

    def _rank(self, trial: Trial) -> tuple[float, float]:
        """Less is better; of those that a measurement cannot tell apart, the one that loses less."""
        cost, loss = self._cost(trial), trial.loss.value if trial.loss else 0.0
        return (cost, loss)

    def _cost(self, trial: Trial) -> float:
        if self._target == "size":
            return float(trial.size)
        if trial.figures is None:  # made after the timing run: judged by the knob that it was refined by
            return self._guessed(trial)
        return cost_of(trial.figures, self._target)

    def _guessed(self, trial: Trial) -> float:
        """Of a smaller sibling of one that was timed: its sibling's, by the size."""
        siblings = [
            one
            for one in self.trials
            if one.figures is not None and one.candidate.family == trial.candidate.family and one.size
        ]
        if not siblings:
            return float("inf")
        nearest = min(siblings, key=lambda one: abs(one.size - trial.size))
        assert nearest.figures is not None
        return cost_of(nearest.figures, self._target) * (1 - NOISE * (nearest.size > trial.size))


def cost_of(figures: Figures, target: Target) -> float:
    """What the target makes small."""
    match target:
        case "latency":
            return figures.speeds[0].p50
        case "throughput":
            return 1 / max(figures.best.rate, 1e-9)
        case "size":
            return float(figures.size)
        case "memory":
            return float(figures.memory)


def _int8(trial: Trial) -> int | None:
    """Which of its steps scales activations to int8."""
    found = (
        number
        for number, step in enumerate(trial.candidate.recipe.steps)
        if isinstance(step, Quantize) and step.method in ("static", "dynamic")
    )
    return next(found, None)


def _lost(trial: Trial) -> bool:
    """Whether it was made and is not good enough."""
    return trial.made is not None and trial.loss is not None and bool(trial.reason)


def _way(trial: Trial) -> str:
    return trial.candidate.family.partition(" ")[0]

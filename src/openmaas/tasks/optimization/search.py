"""The search behind --auto: which recipes are tried, in which order, and when it is enough. What a trial is, is the bench's.

try       the portfolio in its order: made, its loss taken on rows that nothing was trained on, and a short look at its cost.
          What loses more than allowed is dropped here; what does not apply is noted with its reason
time      the most promising of every kind in one alternating run
refine    around the best for the target while time is left: bisection on its knob between what was good enough and what was
          not; layers kept in float where int8 just fails

Every phase has its share of the time that proving the finalists leaves, and nothing is begun that is not expected to end within
it; a trial that does all the same is ended by the bench. All but the figures of time depends on the seed alone.

Few rows let lucky ones through, and the more are tried, the luckier the best of them. So a trial is worth the logarithm of its
gain times the probability that it keeps within the loss, taking the loss on these rows as normal with the spread that its
interval shows; and the finalists are those from which the most can be expected together.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any, Final, Protocol

import msgspec

from openmaas.core.errors import Cancelled, OpenMaaSError
from openmaas.core.evaluations import Estimate, Figures
from openmaas.core.recipes import Pass, Quantize, Training
from openmaas.tasks.optimization.portfolio import Candidate, Target
from openmaas.tasks.optimization.runner import OutOfTime

MAKING: Final = 0.75
"""Share of the search after which no more of the portfolio is begun; of size, which needs no timing, until REFINING begins."""
TIMING: Final = 0.88
MAKING_FOR_SIZE: Final = 0.85
MOST_FINALISTS: Final = 8
_PROVING: Final = 0.5
"""Share of all the time that may be kept for the finalists, unless even two of them take more."""
_LEAST_PROVED: Final = 2
_SEARCHING: Final = 0.4  # share of the time that is left at the beginning, that is searched in however long proving takes
_TIMED: Final = 16
_CONSIDERED: Final = 40  # for finalists
_LEAST_ADDED: Final = 0.01  # to the logarithm of the gain, by a further finalist
_OWN: Final = 0.85
"""Of what is made of one trained model, or of none: that it holds where that does. Rows that are few do not show every loss of
fewer bits."""
_KEPT: Final = (0.1, 0.3)
_JUST: Final = 3.0
"""Times the allowed loss: an int8 model that loses more is not saved by a few layers in float."""
_RESCUED: Final = 3
_FINEST: Final = 0.03  # of a knob
_SPREAD: Final = 1.96  # standard deviations from the middle to the end of a 95% interval


@dataclass
class Trial:
    """A candidate and what came of it. reason: why it is out of the running, empty while it is in. made: the bench's.
    look: what it costs by the target, roughly; less is better."""

    candidate: Candidate
    made: Any = None
    reason: str = ""
    loss: Estimate | None = None
    size: int = 0
    look: float = math.inf
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

    def judge(self, made: Any) -> tuple[Estimate, float]:
        """Its loss of quality against the parent, on rows that nothing was trained on, and a short look at what it costs by the
        target, less is better. Raises OpenMaaSError."""

    def size(self, made: Any) -> int:
        """Bytes that an engine loads."""

    def timeable(self, seconds: float) -> int:
        """How many can be timed beside each other in so many seconds."""

    def time(self, made: Sequence[Any], seconds: float) -> list[Figures | str]:
        """Figures of each, in one alternating run beside the parent; a sentence for one that cannot be run."""

    def parent(self) -> float:
        """What the parent costs by the target: by its figures in the alternating run once there was one, before by a look."""

    def expected_seconds(self, candidate: Candidate) -> float:
        """That making it will take."""

    def proving_seconds(self, finalists: int) -> float:
        """That examining, measuring and registering so many will take."""


class Search:
    """seconds: of all, proving the finalists included, from `start` on. tell: a stage, how many were tried, of how many."""

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
        self._tell = tell
        self._clock = clock
        self._start = clock() if start is None else start
        self.proved = _proved(bench, seconds)
        """Finalists that there will be time for."""
        begun = clock() - self._start
        self._seconds = max(begun + (seconds - begun) * _SEARCHING, seconds - bench.proving_seconds(self.proved))
        self.trials: list[Trial] = []
        self._total = 0
        self._begun = False

    def run(self, candidates: Sequence[Candidate]) -> list[Trial]:
        """All trials in the order in which they were made. Raises Cancelled."""
        self._total = len(candidates)
        for candidate in candidates:
            self._try(candidate, MAKING_FOR_SIZE if self._target == "size" else MAKING)
        self._time()
        self._keep_worst()
        self._refine()
        return self.trials

    def finalists(self, most: int) -> list[Trial]:
        """At most so many, in the order in which they are worth proving: each the one that adds most to the gain that can be
        expected of the best of those that hold. So there are gentler ones, if the first does not; none that add nothing."""
        pool = sorted((one for one in self.trials if one.fits), key=self._rank)[:_CONSIDERED]
        shared: dict[Any, float] = {}
        for one in pool:
            shared[_student(one)] = max(shared.get(_student(one), 0.0), self._holds(one))
        chances = [
            Chance(gain=self._gain(one), student=_student(one), shared=shared[_student(one)], own=_OWN * self._holds(one))
            for one in pool
        ]
        chosen: list[int] = []
        expected = 0.0
        while len(chosen) < min(most, len(pool)):
            with_each = {
                number: expected_gain([chances[one] for one in (*chosen, number)])
                for number in range(len(pool))
                if number not in chosen
            }
            best = max(with_each, key=lambda number: with_each[number])
            if with_each[best] - expected < _LEAST_ADDED and len(chosen) >= _LEAST_PROVED:
                break
            expected = with_each[best]
            chosen.append(best)
        return [pool[number] for number in chosen]

    @property
    def best(self) -> Trial | None:
        return min((one for one in self.trials if one.fits), key=self._rank, default=None)

    def cost(self, trial: Trial) -> float:
        """By the target, less is better: as timed; of one that was not, by its look and how far that of others was off."""
        if self._target == "size":
            return float(trial.size)
        if trial.figures is not None:
            return cost_of(trial.figures, self._target)
        timed = [one for one in self.trials if one.figures is not None and one.look > 0]
        akin = [one for one in timed if one.candidate.family == trial.candidate.family] or timed
        if not akin:
            return trial.look
        nearest = min(akin, key=lambda one: abs(math.log(max(one.look, 1e-12) / max(trial.look, 1e-12))))
        assert nearest.figures is not None
        return trial.look * cost_of(nearest.figures, self._target) / nearest.look

    # try

    def _try(self, candidate: Candidate, share: float) -> Trial:
        trial = Trial(candidate=candidate)
        self.trials.append(trial)
        began, deadline = self._clock(), self._start + self._seconds * share
        trial.reason = self._not_begun(candidate, deadline - began)
        if trial.reason:
            return trial
        self._begun = True
        best = self.best
        told = f"tried {len(self.trials) - 1} of {max(self._total, len(self.trials))}"
        self._tell(f"{told}, best so far {best.label}" if best else told, len(self.trials) - 1, self._total)
        try:
            trial.made = self._bench.make(candidate, deadline)
            trial.size = self._bench.size(trial.made)
            trial.loss, trial.look = self._bench.judge(trial.made)
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
        if expected > left and self._begun:  # the first is begun whatever is guessed of it, and tells how long others take
            return f"Not tried: it would take about {expected:.0f} s, and {max(0.0, left):.0f} s are left for it."
        return ""

    # time

    def _time(self) -> None:
        """Not where all that could be timed now are proved, and so timed, all the same."""
        left = self._start + self._seconds * TIMING - self._clock()
        most = min(_TIMED, self._bench.timeable(left))
        if self._target == "size" or most <= self.proved:
            return
        chosen = self.finalists(most)
        self._tell(f"timing {len(chosen)} variants", len(self.trials), len(self.trials))
        for trial, figures in zip(chosen, self._bench.time([one.made for one in chosen], left), strict=True):
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
                if self._try(replace(trial.candidate, recipe=recipe, after="", instead=""), 1.0).fits:
                    break

    def _just_lost(self, trial: Trial) -> bool:
        return trial.loss is not None and self._max_loss < trial.loss.value <= _JUST * self._max_loss

    def _refine(self) -> None:
        """Bisection: the knob's largest amount that is good enough."""
        best = self.best
        if best is None or best.candidate.knob is None:
            return
        knob = best.candidate.knob
        akin = [one for one in self.trials if one.candidate.knob == knob and _way(one) == _way(best)]
        good = max(one.candidate.amount for one in akin if one.fits)
        bad = min((one.candidate.amount for one in akin if _lost(one) and one.candidate.amount > good), default=knob.most)
        whole = isinstance(getattr(best.candidate.recipe.steps[knob.step], knob.field), int)
        while bad - good > (1 if whole else _FINEST):
            middle = (good + bad) / 2
            trial = self._try(best.candidate.at(round(middle) if whole else middle), 1.0)
            if trial.fits:
                good = trial.candidate.amount
            elif _lost(trial):
                bad = trial.candidate.amount
            else:
                return

    # ranking

    def _rank(self, trial: Trial) -> tuple[float, float]:
        """Less is better: what it is worth, the other way round; of equals, the one that loses less."""
        return (-self._worth(trial), trial.loss.value if trial.loss else 0.0)

    def _worth(self, trial: Trial) -> float:
        gain = self._gain(trial)
        return gain * self._holds(trial) if gain > 0 else gain

    def _gain(self, trial: Trial) -> float:
        """The logarithm of how many times it is as good as the parent."""
        cost = self.cost(trial)
        return math.log(max(self._bench.parent(), 1e-12) / max(cost, 1e-12)) if math.isfinite(cost) else -math.inf

    def _holds(self, trial: Trial) -> float:
        return 0.0 if trial.loss is None else probably_within(trial.loss, self._max_loss)


@dataclass(frozen=True, kw_only=True)
class Chance:
    """gain: a logarithm. student: what was trained; it holds with the probability `shared`, and then, with `own / shared`, what
    was made of it."""

    gain: float
    student: Any
    shared: float
    own: float


def expected_gain(chances: Sequence[Chance]) -> float:
    """Of the best of those that hold, as a logarithm; 0 where none does.

    What was trained holds or does not for all that is made of it; each of these then by itself. So with gains in falling order
    the expectation is the sum over them of the step down to the next, times the probability that one so far holds.
    """
    ordered = sorted(chances, key=lambda one: one.gain, reverse=True)
    gains = [max(0.0, one.gain) for one in ordered] + [0.0]
    shared: dict[Any, float] = {}
    failed: dict[Any, float] = {}
    total = 0.0
    for number, one in enumerate(ordered):
        shared[one.student] = one.shared
        own = one.own / one.shared if one.shared else 0.0
        failed[one.student] = failed.get(one.student, 1.0) * (1 - own)
        none = math.prod(1 - shared[student] * (1 - rest) for student, rest in failed.items())
        total += (gains[number] - gains[number + 1]) * (1 - none)
    return total


def probably_within(loss: Estimate, most: float) -> float:
    """The probability that a loss is no more than `most`: normal, with the spread that the upper half of its interval shows."""
    spread = 0.0 if loss.high is None else (loss.high - loss.value) / _SPREAD
    if spread <= 0:
        return float(loss.value <= most)
    return NormalDist(loss.value, spread).cdf(most)


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


def _proved(bench: Workbench, seconds: float) -> int:
    """How many finalists are worth their time: as many as take no more than _PROVING of all."""
    fitting = (count for count in range(MOST_FINALISTS, 0, -1) if bench.proving_seconds(count) <= _PROVING * seconds)
    return max(_LEAST_PROVED, next(fitting, 1))


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


def _student(trial: Trial) -> tuple[Pass, ...] | str:
    """What was trained; the label of what was not."""
    trained = tuple(one for one in trial.candidate.recipe.steps if isinstance(one, Training) and one.epochs)
    return trained or trial.label

"""What is better of versions that were measured beside each other. Pure functions.

Five axes: quality, size, memory, latency (the median call at batch 1) and throughput (at the best batch). Two figures of time,
throughput or memory that are closer than NOISE are the same, as figures of one machine differ by as much from one measurement
to the next; sizes are exact. Quality is that of the baseline unless the 95% interval of the loss, paired over rows, lies on one
side of 0: so nothing is called worse for a difference that the rows do not show.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Literal

from openmaas.core.evaluations import Axis, Entrant, VersionComparison
from openmaas.core.measurement import NOISE

Target = Literal["latency", "throughput", "size", "memory"]

AXES: Final[tuple[Axis, ...]] = ("quality", "size", "memory", "latency", "throughput")
FRONT_AXES: Final[tuple[Axis, ...]] = ("quality", "size", "latency")

_NOUNS: Final[dict[Target, str]] = {
    "latency": "latency", "throughput": "throughput", "size": "size", "memory": "peak memory",
}  # fmt: skip


def figure(entrant: Entrant, axis: Axis) -> float:
    """On an axis, so that less is better: the loss of quality (∞ where none was found), bytes, seconds, seconds a row."""
    figures = entrant.figures
    if axis == "quality":
        return math.inf if entrant.loss is None else entrant.loss.value
    if axis == "size":
        return float(figures.size)
    if axis == "memory":
        return float(figures.memory)
    if axis == "latency":
        return figures.speeds[0].p50
    return 1 / max(figures.best.rate, 1e-12)


def change(entrant: Entrant, baseline: Entrant, axis: Axis) -> int:
    """-1 where the entrant is better than its baseline on an axis, 1 where it is worse, 0 where nobody can tell."""
    if axis == "quality":
        if entrant.loss is None:
            return 0
        low, high = _interval(entrant)
        return 1 if low > 0 else -1 if high < 0 else 0
    ours, theirs = figure(entrant, axis), figure(baseline, axis)
    return 1 if ours > theirs * _beyond_noise(axis) else -1 if ours < theirs / _beyond_noise(axis) else 0


def _beyond_noise(axis: Axis) -> float:
    """Two figures whose ratio is no more than this are the same."""
    return 1.0 if axis == "size" else 1 + NOISE


def dominated(entrant: Entrant, baseline: Entrant) -> bool:
    """Whether it is of no use beside its baseline: better on no axis, and worse on one at least, as `change` tells."""
    changes = [change(entrant, baseline, axis) for axis in AXES]
    return 1 in changes and -1 not in changes


def front(entrants: Sequence[Entrant], axes: Sequence[Axis] = FRONT_AXES) -> list[bool]:
    """Of each, whether no other is as good on all axes and better on one, by the figures as they are (a Pareto front)."""
    points = [[figure(one, axis) for axis in axes] for one in entrants]
    return [not any(_beats(other, point) for other in points) for point in points]


def _beats(one: Sequence[float], other: Sequence[float]) -> bool:
    return one != other and all(ours <= theirs for ours, theirs in zip(one, other, strict=True))


def recommend(entrants: Sequence[Entrant], target: Target, max_loss: float, metric: str = "quality") -> tuple[str, str]:
    """The best of the target among those whose loss is within max_loss by its upper bound, and why, in a sentence.

    The first entrant is the baseline, which is recommended where nothing is better by more than the noise. A dominated one
    never is. Of those whose targets differ by less than the noise, the one that loses least; of those that lose the same, the
    smallest, then the one with the better target, so that nothing within the limit is better than it without being worse.
    """
    baseline, others = entrants[0], entrants[1:]
    useful = [one for one in others if not one.dominated and not dominated(one, baseline)]
    better = [one for one in useful if change(one, baseline, target) < 0]
    within = [one for one in better if one.loss is not None and _interval(one)[1] <= max_loss]
    limit, noun = f"{told_loss(max_loss, metric)} of {metric}", _NOUNS[target]
    if not within:
        return baseline.version, f"{_nothing(better, noun, limit, metric)} {baseline.version} stays the best."
    least = min(figure(one, target) for one in within)
    equal = [one for one in within if figure(one, target) <= least * _beyond_noise(target)]
    best = min(equal, key=lambda one: [figure(one, axis) for axis in ("quality", "size", target, *AXES)])
    assert best.loss is not None
    times = figure(baseline, target) / figure(best, target)
    why = (
        f"Its {noun} is {times:.2f} times as good as {baseline.version}'s, the best of those that lose no more than {limit}: "
        f"it loses {told_loss(best.loss.value, metric)}, with 95% confidence no more than "
        f"{told_loss(max(0.0, _interval(best)[1]), metric)}."
    )
    beyond = [one for one in better if one not in within and figure(one, target) < figure(best, target) / _beyond_noise(target)]
    return best.version, f"{why} {_beyond(beyond, noun, metric)}".strip()


def _nothing(better: Sequence[Entrant], noun: str, limit: str, metric: str) -> str:
    if not better:
        return f"None has a better {noun}."
    return f"None with a better {noun} surely loses no more than {limit}. {_beyond(better, noun, metric)}".strip()


def _beyond(entrants: Sequence[Entrant], noun: str, metric: str) -> str:
    """Of the one that came nearest."""
    known = [one for one in entrants if one.loss is not None]
    if not known:
        return ""
    one = min(known, key=lambda entrant: _interval(entrant)[1])
    assert one.loss is not None
    return (
        f"{one.version} has a better {noun} and loses {told_loss(one.loss.value, metric)}, but it may be "
        f"{told_loss(_interval(one)[1], metric)}."
    )


def judged(comparison: VersionComparison, max_loss: float | None) -> VersionComparison:
    """With the verdicts on each entrant, and with a recommendation where it is said how much quality may be lost."""
    import msgspec

    replace = msgspec.structs.replace
    baseline = comparison.entrants[0]
    entrants = tuple(
        replace(one, dominated=number > 0 and dominated(one, baseline), on_front=on_front)
        for number, (one, on_front) in enumerate(zip(comparison.entrants, front(comparison.entrants), strict=True))
    )
    version, why = ("", "") if max_loss is None else recommend(entrants, comparison.target, max_loss, comparison.metric)
    return replace(comparison, entrants=entrants, max_loss=max_loss, recommended=version, why=why)


def told_loss(value: float, metric: str) -> str:
    """A loss as people say it: points (hundredths) of metrics up to 1, percents of an error's own size."""
    from openmaas.core.metrics import METRICS

    relative = metric in METRICS and not METRICS[metric].share
    digits = f"{100 * value:.3g}" if abs(value) < 0.1 else f"{100 * value:.1f}"
    return f"{digits}%" if relative else f"{digits} {'point' if digits == '1' else 'points'}"


def _interval(entrant: Entrant) -> tuple[float, float]:
    assert entrant.loss is not None
    loss = entrant.loss
    return (loss.value if loss.low is None else loss.low, loss.value if loss.high is None else loss.high)

"""What two versions differ by on the same rows, and what is lost of quality."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from openmaas.core.errors import Refused
from openmaas.core.evaluations import Estimate, Outcomes
from openmaas.core.metrics.catalogue import find_metric
from openmaas.core.metrics.classification import wrong
from openmaas.core.metrics.metric import Metric, Statistic
from openmaas.core.metrics.outcomes import Answered, Array, grouped, require_answered
from openmaas.core.metrics.resampling import (
    RESAMPLES,
    Z,
    collapsed,
    continuous_draws,
    draws,
    once,
    percentiles,
    require_defined,
    unseen_of_classes,
    unseen_share,
)  # fmt: skip

_FEW: Final = 30  # rows, of which resamples show too little spread


def paired_difference(
    metric: str, before: Outcomes | Answered, after: Outcomes | Answered, seed: int = 0, resamples: int = RESAMPLES
) -> Estimate:
    """How much better `after` is, above 0 is better: in the metric's own unit, whichever way that counts.

    Raises Refused for outcomes of different rows.
    """
    return _paired(metric, before, after, seed, resamples, relative=False)


def loss(
    metric: str, before: Outcomes | Answered, after: Outcomes | Answered, seed: int = 0, resamples: int = RESAMPLES
) -> Estimate:
    """What of quality is lost, above 0 is worse: the absolute drop of metrics up to 1, the share of the baseline's for errors.

    `high` is the bound that gates hold against their limit. Raises Refused for outcomes of different rows, and for a share of a
    baseline without any error.
    """
    gained = _paired(metric, before, after, seed, resamples, relative=not find_metric(metric).share)
    assert gained.low is not None
    assert gained.high is not None
    return Estimate(value=0.0 - gained.value, low=0.0 - gained.high, high=0.0 - gained.low)


def _paired(
    metric: str, before: Outcomes | Answered, after: Outcomes | Answered, seed: int, resamples: int, *, relative: bool
) -> Estimate:
    one, first, second = find_metric(metric), require_answered(before), require_answered(after)
    if first.rows != second.rows or len(first) != len(second) or not np.array_equal(first.truth, second.truth):
        raise Refused(
            f"The versions were evaluated on different rows ({len(first)} and {len(second)}), so that they cannot be compared "
            "row by row.",
            code="different_rows",
            next_step="Evaluate both on the same version of the dataset, with the same rows and seed.",
        )
    groups = second.groups if first.groups is None else first.groups
    first, second = grouped(first, groups), grouped(second, groups)
    columns, counts = collapsed(one, first, second.answers)
    statistics = one.prepare(columns[0], columns[1]), one.prepare(columns[0], columns[2])

    def gained(weights: Array) -> Array:
        old, new = statistics[0](weights), statistics[1](weights)
        better: Array = new - old if one.higher else old - new
        if not relative:
            return better
        return np.asarray(np.divide(better, old, out=np.where(better == 0, 0.0, np.nan), where=old > 0))

    value = once(gained, counts)
    if relative and math.isnan(value):
        raise Refused(
            f"The baseline's {metric} is 0, of which no share can be lost.",
            code="no_baseline_error",
            next_step="Choose another metric.",
        )
    require_defined(one, value, columns)
    if one.name == "accuracy":
        low, high = percentiles(draws(counts, seed, resamples, gained), value)
        bounds = _bonett_price(first, second)
        bound = unseen_share(len(first)) if np.array_equal(first.answers, second.answers) else 0.0
        low, high = min(low, bounds[0], value - bound), max(high, bounds[1], value + bound)
    elif one.kind == "classes":
        low, high = _of_classes(columns, counts, gained, value, seed, resamples)
    else:
        bound = _unseen_difference(one, columns, relative=relative)
        low, high = _of_numbers(_worse(one, columns), bound, gained, value, seed, resamples)
    return Estimate(value=value, low=min(low, value), high=max(high, value))


def _of_classes(
    columns: Sequence[Array], counts: Array, gained: Statistic, value: float, seed: int, resamples: int
) -> tuple[float, float]:
    """Resamples with one more of the few rows that got worse, for the bound on that side, and likewise of the better."""
    low, high = percentiles(draws(counts, seed, resamples, gained), value)
    truth, before, after = columns
    worse = wrong(truth, after) - wrong(truth, before)
    lost, won = (np.where(side > 0, counts, 0) for side in (worse, -worse))
    for rows, others, worsens in ((lost, won, True), (won, lost, False)):
        seen = int(rows.sum())
        if 0 < seen <= _FEW:
            bounds = percentiles(draws(counts, seed, resamples, gained, more=rows), value)
        elif seen == 0 and others.sum() <= _FEW:
            bound = unseen_of_classes(np.repeat(truth, counts), seed)
            bounds = value - bound, value + bound
        else:
            continue
        low, high = (min(low, bounds[0]), high) if worsens else (low, max(high, bounds[1]))
    return low, high


def _of_numbers(worse: Array, unseen: float, gained: Statistic, value: float, seed: int, resamples: int) -> tuple[float, float]:
    """The Bayesian bootstrap with one observation besides, of the largest change that there may be; a side at a time.

    It is Gaffke's bound of a mean (2005; Learned-Miller & Thomas, A New Confidence Interval for the Mean of a Bounded Random
    Variable, 2019), which for zeros and ones is that of Clopper & Pearson. How large a change may be is not known. It is taken
    to be twice the largest that is seen, and more by as much as that lies above the second: the spacing tells how heavy the
    tail is (Robson & Whitlock, Estimation of a Truncation Point, 1964). Where few rows change, it is `unseen` at the least.

    worse: of each row, as `_worse`. unseen: what is lost if the rows that may not have been seen are like the worst one.
    """
    rows, share = len(worse), unseen_share(len(worse))
    unseen *= max(0.0, 1 - _effective(worse) / min(_FEW, rows / 2))

    def reach(places: Array, side: int) -> float:
        """What the unseen share of rows takes (side -1) or brings (1), if they change as much as may be."""
        first, second = 0.0, 0.0
        for place in places:
            weights = np.full(rows, 1 - share)
            weights[place] += share * rows
            moved = side * (once(gained, weights) - value)
            first, second = sorted((first, second, moved if math.isfinite(moved) else 0.0), reverse=True)[:2]
        return max(unseen, 3 * first - second)

    ascending = np.argsort(worse, kind="stable")
    lost, won = reach(ascending[-2:], -1), reach(ascending[:2], 1)
    drawn = [
        (gained(weights), one / (weights.sum(axis=1) + one) / share) for weights, one in continuous_draws(rows, seed, resamples)
    ]
    figures, shares = (np.concatenate(part) for part in zip(*drawn, strict=True))
    return percentiles(figures - lost * shares, value)[0], percentiles(figures + won * shares, value)[1]


def _worse(metric: Metric, columns: Sequence[Array]) -> Array:
    """Of each row of truth, answers before and after: how much worse it is answered than before, below 0 where better."""
    truth, before, after = columns
    return np.where(before == after, 0.0, metric.badness(truth, after) - metric.badness(truth, before))


def _effective(changes: Array) -> float:
    """How many rows the changes come from: those of equal size are counted, and ones that are tiny beside others hardly
    (Kish's effective size of a weighted sample, 1965)."""
    sizes = np.abs(changes)
    return float(sizes.sum() ** 2 / np.square(sizes).sum()) if sizes.any() else 0.0


def _bonett_price(before: Answered, after: Answered) -> tuple[float, float]:
    old, new, rows = before.truth == before.answers, after.truth == after.answers, len(before)
    lost, won = (int((old & ~new).sum()) + 1) / (rows + 2), (int((new & ~old).sum()) + 1) / (rows + 2)
    half = Z * math.sqrt((lost + won - (won - lost) ** 2) / (rows + 2))
    return max(-1.0, won - lost - half), min(1.0, won - lost + half)


def _unseen_difference(metric: Metric, columns: Sequence[Array], *, relative: bool) -> float:
    """What may have changed although no row shows it: as if the unseen share of rows were like the worst that was seen.

    Where none is worse than the others, they are lost for a metric up to 1, and for an error are twice as bad.
    """
    truth, before, after = columns
    rows, share = len(truth), unseen_share(len(truth))
    answers = max(before, after, key=lambda one: float(metric.badness(truth, one).max()))
    statistic, weights, badness = metric.prepare(truth, answers), np.ones(rows), metric.badness(truth, answers)
    value = once(statistic, weights)
    weights *= 1 - share
    weights[int(badness.argmax())] += share * rows
    gap = abs(once(statistic, weights) - value)
    if not math.isfinite(gap) or np.ptp(badness) <= 1e-9 * np.abs(badness).max():
        gap = share if metric.share else share * value
    return (gap / value if value else share) if relative else gap

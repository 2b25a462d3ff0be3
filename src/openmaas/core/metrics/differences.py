"""What two versions differ by on the same rows, and what is lost of quality."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from openmaas.core.errors import Refused
from openmaas.core.evaluations import Estimate, Outcomes
from openmaas.core.metrics.catalogue import find_metric
from openmaas.core.metrics.metric import Metric
from openmaas.core.metrics.outcomes import Answered, Array, require_answered
from openmaas.core.metrics.resampling import (
    RESAMPLES,
    Z,
    collapsed,
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
    low, high = percentiles(draws(counts, seed, resamples, gained), require_defined(one, value))
    if one.name == "accuracy":
        bounds = _bonett_price(first, second)
        bound = (
            _unseen_difference(one, first, seed, relative=relative) if np.array_equal(first.answers, second.answers) else 0.0
        )
        return Estimate(value=value, low=min(low, bounds[0], value - bound), high=max(high, bounds[1], value + bound))
    worse = _worse(one, columns)
    lost, won = (np.where(side > 0, counts, 0) for side in (worse, -worse))
    for rows, others, worsens in ((lost, won, True), (won, lost, False)):
        seen = int(rows.sum())
        if 0 < seen <= _FEW:
            bounds = percentiles(draws(counts, seed, resamples, gained, more=rows), value)
        elif seen == 0 and others.sum() <= _FEW:
            bound = _unseen_difference(one, first, seed, relative=relative)
            bounds = value - bound, value + bound
        else:
            continue
        low, high = (min(low, bounds[0]), high) if worsens else (low, max(high, bounds[1]))
    return Estimate(value=value, low=min(low, value), high=max(high, value))


def _worse(metric: Metric, columns: Sequence[Array]) -> Array:
    """Of each column of truth, answers before and after: above 0 where it is answered worse than before, below where better."""
    truth, before, after = columns
    if metric.kind == "losses":
        return np.asarray(np.sign(truth * (after - before)))
    return np.asarray(np.sign(np.abs(_error(metric, truth, after)) - np.abs(_error(metric, truth, before))))


def _error(metric: Metric, truth: Array, answers: Array) -> Array:
    return (truth != answers).astype(np.float64) if metric.kind == "classes" else truth - answers


def _bonett_price(before: Answered, after: Answered) -> tuple[float, float]:
    old, new, rows = before.truth == before.answers, after.truth == after.answers, len(before)
    lost, won = (int((old & ~new).sum()) + 1) / (rows + 2), (int((new & ~old).sum()) + 1) / (rows + 2)
    half = Z * math.sqrt((lost + won - (won - lost) ** 2) / (rows + 2))
    return max(-1.0, won - lost - half), min(1.0, won - lost + half)


def _unseen_difference(metric: Metric, before: Answered, seed: int, *, relative: bool) -> float:
    """What may have changed although no row shows it."""
    share = unseen_share(len(before))
    if metric.kind == "classes":
        return share if metric.name == "accuracy" else unseen_of_classes(before.truth, seed)
    weights = np.ones(len(before))
    statistic = metric.prepare(before.truth, before.answers)
    badness = before.answers if metric.kind == "losses" else np.abs(before.truth - before.answers)
    value = once(statistic, weights)
    weights *= 1 - share
    weights[int(badness.argmax())] += share * len(before)
    changed = once(statistic, weights)
    gap = abs(changed - value) if math.isfinite(changed) else share
    gap = max(gap, share) if metric.share else gap
    return (gap / value if value else share) if relative else gap

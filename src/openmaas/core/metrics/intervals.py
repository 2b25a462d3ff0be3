"""A figure and its interval."""

from __future__ import annotations

import math

from openmaas.core.evaluations import Estimate, Outcomes
from openmaas.core.metrics.catalogue import find_metric
from openmaas.core.metrics.outcomes import Answered, grouped, require_answered
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


def estimate(metric: str, outcomes: Outcomes | Answered, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """The figure and its interval; an interval that cannot be told (one row of numbers) is None.

    Raises InvalidInput for a metric of another kind of outcomes, Refused where the rows do not define it.
    """
    one, known = find_metric(metric), require_answered(outcomes)
    known = grouped(known, known.groups)
    (columns, counts), truth = collapsed(one, known), known.truth
    statistic = one.prepare(*columns)
    value = require_defined(one, once(statistic, counts), columns)
    drawn = draws(counts, seed, resamples, statistic)
    low, high = percentiles(drawn)
    if one.name == "accuracy":
        bounds = _wilson(value, len(known))
        return Estimate(value=value, low=min(low, bounds[0]), high=max(high, bounds[1]))
    if one.kind == "classes" and bool((truth == known.answers).all()):
        return Estimate(value=value, low=min(low, 1 - unseen_of_classes(truth, seed)), high=1.0)
    if high > low:
        return Estimate(value=value, low=min(low, value), high=max(high, value))
    return (
        Estimate(value=value, low=value - unseen_share(len(known)), high=value)
        if one.share and value == 1
        else Estimate(value=value)
    )


def _wilson(share: float, rows: int) -> tuple[float, float]:
    middle = (share + Z**2 / (2 * rows)) / (1 + Z**2 / rows)
    half = Z / (1 + Z**2 / rows) * math.sqrt(share * (1 - share) / rows + Z**2 / (4 * rows**2))
    return max(0.0, middle - half), min(1.0, middle + half)

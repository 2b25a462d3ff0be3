"""Which of a search's finalists is recommended, so that the evaluation set is looked at no more often than is said.

The finalists are in an order that was fixed before, by rows of the training set: the best for the target first. In this order
each is held against the evaluation set, and the first whose loss is within what is allowed by its upper bound is taken; where
none is, the first that is within it by the loss itself, and it is said that these rows prove no more. Those after it were not
needed for the choice, though their figures are told too.

An upper bound of a 95% interval is too low once in forty times. Whoever looks k times, and stops at the first that passes, has
taken one whose loss is more than its bound with a probability of at most k / 40 (Bonferroni), so that the bound of the one
taken holds with a confidence of 1 - k / 40: 95% for two looks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from openmaas.core.evaluations import Entrant, VersionComparison
from openmaas.core.pareto import change, figure, told_loss

_MISSED: Final = 0.025
_NOUNS: Final = {"memory": "peak memory"}
_ORDINALS: Final = {1: "first", 2: "second", 3: "third"}


def recommend_in_order(
    comparison: VersionComparison, order: Sequence[str], max_loss: float, *, apart: bool
) -> VersionComparison:
    """With the first of `order` that keeps within the loss recommended, and why. apart: the order was found on other rows than
    those that the loss is of."""
    baseline, *others = comparison.entrants
    named = {one.version: one for one in others}
    useful = [named[name] for name in order if name in named and _is_useful(named[name], comparison)]
    for looks, one in enumerate(useful, 1):
        assert one.loss is not None
        if _bound(one) <= max_loss:
            confidence = 100 * (1 - _MISSED * max(2, looks))
            place = f"this was the {_ORDINALS.get(looks, f'{looks}th')} of {len(useful)}"
            why = (
                f"{_gain(comparison, one)} It loses {_points(comparison, one.loss.value)}, with {confidence:g}% confidence no "
                f"more than {_points(comparison, max(0.0, _bound(one)))}.{_told(comparison, apart, place)}"
            )
            return msgspec.structs.replace(comparison, recommended=one.version, why=why)
    for one in useful:
        assert one.loss is not None
        if one.loss.value <= max_loss:
            none = f"none of the {len(useful)} is within the loss by its upper bound"
            why = f"{_by_value(comparison, one, max_loss)}{_told(comparison, apart, none)}"
            return msgspec.structs.replace(comparison, recommended=one.version, why=why)
    return msgspec.structs.replace(comparison, recommended=baseline.version)


def recommend_by_value(comparison: VersionComparison, max_loss: float) -> VersionComparison:
    """Where no variant keeps within the loss by its upper bound, the best of those that do by the loss itself: few rows prove
    little, and what they leave open is said."""
    baseline = comparison.entrants[0]
    if comparison.recommended not in ("", baseline.version):
        return comparison
    useful = [one for one in comparison.entrants[1:] if _is_useful(one, comparison)]
    within = [one for one in useful if one.loss is not None and one.loss.value <= max_loss]
    if not within:
        return comparison
    best = min(within, key=lambda one: (figure(one, comparison.target), figure(one, "quality")))
    return msgspec.structs.replace(comparison, recommended=best.version, why=_by_value(comparison, best, max_loss))


def _is_useful(one: Entrant, comparison: VersionComparison) -> bool:
    return one.loss is not None and not one.dominated and change(one, comparison.entrants[0], comparison.target) < 0


def _bound(one: Entrant) -> float:
    assert one.loss is not None
    return one.loss.value if one.loss.high is None else one.loss.high


def _points(comparison: VersionComparison, value: float) -> str:
    return told_loss(value, comparison.metric)


def _gain(comparison: VersionComparison, one: Entrant) -> str:
    baseline, target = comparison.entrants[0], comparison.target
    times = figure(baseline, target) / figure(one, target)
    return f"{one.version}: its {_NOUNS.get(target, target)} is {times:.2f} times as good as {baseline.version}'s."


def _by_value(comparison: VersionComparison, one: Entrant, max_loss: float) -> str:
    assert one.loss is not None
    return (
        f"{_gain(comparison, one)} It lost {_points(comparison, one.loss.value)} of {comparison.metric}, which is within "
        f"{_points(comparison, max_loss)}; these rows do not rule out a loss of "
        f"{_points(comparison, max(0.0, _bound(one)))}, so that a gate may want more of them."
    )


def _told(comparison: VersionComparison, apart: bool, came_to: str) -> str:
    """How often the evaluation set was looked at for this choice."""
    if not apart or not comparison.dataset:
        return ""
    return (
        f" Finalists were put in order by rows of the training set, and then held against {comparison.dataset} one after the "
        f"other: {came_to}."
    )

"""Figures as a report writes them. What is no finite number is a dash."""

from __future__ import annotations

import math

from openmaas.core.evaluations import Entrant, Estimate, VersionComparison
from openmaas.core.metrics import METRICS

DASH = "–"
AGREEMENT = frozenset({"agreement", "cosine"})
"""Metrics of tasks/comparison.py that are shares of 1 as well."""


def row(comparison: VersionComparison) -> str:
    """What speeds are counted in: text generators write tokens."""
    return "token" if comparison.task == "generation" else "row"


def batch(comparison: VersionComparison, number: int | None = None) -> str:
    """How many are computed at once: batch 8, or of text generators 8 streams; without a number the noun alone."""
    if comparison.task != "generation":
        return "batch" if number is None else f"batch {number}"
    return "streams" if number is None else f"{number} {'stream' if number == 1 else 'streams'}"


def size(number: float) -> str:
    """Bytes in decimal units: 1.2 MB."""
    if not math.isfinite(number):
        return DASH
    for unit in ("B", "kB", "MB", "GB"):
        if abs(number) < 999.5:
            return f"{number:.0f} {unit}" if unit == "B" or number >= 99.5 else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def duration(seconds: float) -> str:
    """12 µs, 0.42 ms, 1.3 s."""
    if not math.isfinite(seconds):
        return DASH
    for factor, unit in ((1.0, "s"), (1e3, "ms")):
        if seconds * factor >= 1:
            return f"{_short(seconds * factor)} {unit}"
    return f"{_short(seconds * 1e6)} µs" if seconds < 1e-4 else f"{seconds * 1e3:.2f} ms"


def rate(number: float) -> str:
    """Rows a second."""
    if not math.isfinite(number):
        return DASH
    return f"{number:,.0f}".replace(",", "\u2009") if number >= 100 else _short(number)


def times(ratio: float) -> str:
    return f"{_short(ratio)}×" if math.isfinite(ratio) else DASH


def _short(number: float) -> str:
    return f"{number:.0f}" if number >= 100 else f"{number:.1f}" if number >= 10 else f"{number:.2f}"


def is_share(metric: str) -> bool:
    """Whether its values are at most 1, and told in hundredths."""
    return METRICS[metric].share if metric in METRICS else True


def is_higher(metric: str) -> bool:
    """Whether more is better."""
    return METRICS[metric].higher if metric in METRICS else True


def value(metric: str, number: float) -> str:
    if not math.isfinite(number):
        return DASH
    if not is_share(metric):
        return f"{number:.4g}"
    if metric in ("cosine", "r2", "pearson", "spearman"):
        return f"{number:.5f}"
    return f"{100 * number:.2f}%"


def estimate(metric: str, one: Estimate | None) -> str:
    """97.22% (95.8 to 98.3)."""
    if one is None:
        return DASH
    if one.low is None or one.high is None or not is_share(metric):
        return value(metric, one.value) + (
            f" ({one.low:.4g} to {one.high:.4g})" if one.low is not None and one.high is not None else ""
        )
    if metric in ("cosine", "r2", "pearson", "spearman"):
        return f"{one.value:.5f} ({one.low:.5f} to {one.high:.5f})"
    return f"{value(metric, one.value)} ({100 * one.low:.1f} to {100 * one.high:.1f})"


def lost(metric: str, one: Estimate | None) -> str:
    """What is lost, and its upper bound with 95% confidence: 0.28 points, at most 0.91."""
    if one is None or not math.isfinite(one.value):
        return DASH
    unit = "points" if is_share(metric) else "%"
    bound = "" if one.high is None else f", at most {_points(one.high)}"
    return f"{_points(one.value)} {unit}{bound}" if unit == "points" else f"{_points(one.value)}{unit}{bound}"


def _points(number: float) -> str:
    hundredths = 100 * number
    text = f"{hundredths:.2f}" if abs(hundredths) >= 0.1 or hundredths == 0 else f"{hundredths:.2g}"
    return text.replace("-", "−")


def quality(entrant: Entrant, metric: str) -> Estimate | None:
    """The comparison's metric, with the interval of its paired difference to the baseline where there is one."""
    own = entrant.metrics.get(metric)
    if own is None or not math.isfinite(own.value):
        return None
    difference = entrant.difference.get(metric)
    if difference is None or difference.low is None or difference.high is None:
        return own
    sign = 1 if is_higher(metric) else -1
    baseline = own.value - sign * difference.value
    low, high = sorted((baseline + sign * difference.low, baseline + sign * difference.high))
    return Estimate(value=own.value, low=low, high=high)


def verdict(entrant: Entrant, comparison: VersionComparison) -> str:
    """One word or two of an entrant: baseline, recommended, dominated, on the front."""
    if entrant is comparison.entrants[0]:
        return "baseline"
    if entrant.version == comparison.recommended:
        return "recommended"
    if entrant.dominated:
        return "dominated"
    return "on the front" if entrant.on_front else ""

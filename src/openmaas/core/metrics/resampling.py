"""Resamples of rows, and what they cannot show."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from openmaas.core.errors import InvalidInput, Refused
from openmaas.core.metrics.catalogue import METRICS
from openmaas.core.metrics.metric import Metric, Statistic
from openmaas.core.metrics.outcomes import Answered, Array

RESAMPLES: Final = 2000
ALPHA: Final = 0.05
Z: Final = 1.959964  # of the normal distribution, for 95%

_MOST_DRAWN: Final = 20_000_000  # rows of all resamples together

_LEAST_RESAMPLES: Final = 500

_VALUES: Final = 1 << 17  # weights that are held at once


def collapsed(metric: Metric, known: Answered, *others: Array) -> tuple[tuple[Array, ...], Array]:
    """Distinct rows as columns (truth, answers, …), and how many of each there are. Raises InvalidInput for another kind."""
    if known.kind != metric.kind:
        raise InvalidInput(
            f"{metric.name} is of {metric.kind}, and these are outcomes of {known.kind}.",
            code="unfit_metric",
            next_step=f"Choose one of {', '.join(one.name for one in METRICS.values() if one.kind == known.kind)}.",
        )
    columns = (known.truth, known.answers, *others)
    if metric.kind != "classes":
        return columns, np.ones(len(known), np.int64)
    cells, counts = np.unique(np.stack(columns), axis=1, return_counts=True)
    return tuple(cells), counts


def once(statistic: Statistic, weights: Array) -> float:
    """Of the rows as they are."""
    return float(statistic(weights.astype(np.float64)[None])[0])


def draws(counts: Array, seed: int, resamples: int, statistic: Statistic, more: Array | None = None) -> Array:
    """The figure of each resample. more: rows (counts as `counts` has them) of which one more is drawn on average."""
    if more is None:
        return np.concatenate([statistic(weights) for weights in _resamples(counts, seed, resamples)])
    random, places, found = np.random.default_rng([seed, 1]), np.flatnonzero(more), []
    for weights in _resamples(counts, seed, resamples):
        weights[:, places] += random.multinomial(random.poisson(1.0, len(weights)), more[places] / more.sum())
        found.append(statistic(weights))
    return np.concatenate(found)


def continuous_draws(rows: int, seed: int, resamples: int) -> Iterator[tuple[Array, Array]]:
    """Weights of the Bayesian bootstrap (Rubin, 1981), some at a time: [resample, row], and of one row besides [resample].

    They are exponential, which is Dirichlet's distribution up to a factor that no figure depends on.
    """
    random = np.random.default_rng(seed)
    resamples = min(resamples, max(_LEAST_RESAMPLES, _MOST_DRAWN // rows))
    step = max(1, _VALUES // rows)
    for start in range(0, resamples, step):
        drawn = random.standard_exponential((min(step, resamples - start), rows + 1))
        yield drawn[:, :-1], drawn[:, -1]


def _resamples(counts: Array, seed: int, resamples: int) -> Iterator[Array]:
    """How often each row is drawn, some resamples at a time."""
    random, rows = np.random.default_rng(seed), int(counts.sum())
    if len(counts) == rows:
        resamples = min(resamples, max(_LEAST_RESAMPLES, _MOST_DRAWN // rows))
    step = max(1, _VALUES // len(counts))
    for start in range(0, resamples, step):
        some = min(step, resamples - start)
        if len(counts) < rows:
            yield random.multinomial(rows, counts / rows, size=some).astype(np.float64)
        else:
            drawn = (np.bincount(random.integers(0, rows, rows), minlength=rows) for _ in range(some))
            yield np.stack([one.astype(np.float64) for one in drawn])


def percentiles(drawn: Array, value: float | None = None) -> tuple[float, float]:
    """Of the resamples that define the figure; a figure that none defines has no spread."""
    kept = drawn[np.isfinite(drawn)]
    if not len(kept):
        return (value or 0.0, value or 0.0)
    low, high = np.percentile(kept, [100 * ALPHA / 2, 100 * (1 - ALPHA / 2)])
    return float(low), float(high)


def require_defined(metric: Metric, value: float, columns: Sequence[Array]) -> float:
    """columns: the truth, and the answers of one version or of two. Raises Refused for a figure that they do not define."""
    if math.isfinite(value):
        return value
    nouns = ("the truth", "the answers") if len(columns) == 2 else ("the truth", "the answers before", "the answers after")
    same = [noun for noun, column in zip(nouns, columns, strict=True) if np.ptp(column) == 0]
    raise Refused(
        f"{metric.name} is not defined on these rows: {' and '.join(same) or 'the truth or the answers'} "
        f"{'is' if same == ['the truth'] else 'are'} {'' if same else 'nearly '}the same in all of them.",
        code="undefined_metric",
        next_step="Choose another metric, or rows that differ.",
    )


def unseen_share(rows: int) -> float:
    """The largest share that n rows may well not have shown once."""
    return float(1 - (ALPHA / 2) ** (1 / rows))


def unseen_of_classes(truth: Array, seed: int) -> float:
    """The same of a mean over classes: the 97.5th percentile of Jeffreys posteriors, each of a class without an error."""
    rows = np.unique(truth, return_counts=True)[1]
    drawn = np.random.default_rng(seed).beta(0.5, rows + 0.5, size=(RESAMPLES, len(rows))).mean(axis=1)
    return max(unseen_share(len(truth)), float(np.percentile(drawn, 100 * (1 - ALPHA / 2))))

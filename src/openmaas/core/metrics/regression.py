"""How near numbers are to the truth, and whether they rise and fall with it."""

from __future__ import annotations

import numpy as np

from openmaas.core.metrics.metric import Statistic
from openmaas.core.metrics.outcomes import Array


def distances(truth: Array, answers: Array) -> Array:
    return np.asarray(np.abs(truth - answers))


def squares(truth: Array, answers: Array) -> Array:
    return np.asarray((truth - answers) ** 2)


def gaps(truth: Array, answers: Array) -> Array:
    """Squares between standardised values: their mean is 2 (1 - r) of Pearson's correlation r."""
    return squares(_standardised(truth), _standardised(answers))


def rank_gaps(truth: Array, answers: Array) -> Array:
    """The same of mid-ranks, whose correlation is Spearman's."""
    ones = np.ones((1, len(truth)))
    return gaps(_ranking(truth)(ones)[0], _ranking(answers)(ones)[0])


def _standardised(values: Array) -> Array:
    spread = values.std()
    return np.asarray((values - values.mean()) / (spread if spread > 0 else 1.0))


def mae(truth: Array, answers: Array) -> Statistic:
    errors = np.abs(truth - answers)
    return lambda weights: weights @ errors / weights.sum(axis=1)


def rmse(truth: Array, answers: Array) -> Statistic:
    squares = (truth - answers) ** 2
    return lambda weights: np.sqrt(weights @ squares / weights.sum(axis=1))


def r2(truth: Array, answers: Array) -> Statistic:
    centred = truth - truth.mean()
    squares, least = (truth - answers) ** 2, 1e-12 * float((centred**2).mean())

    def statistic(weights: Array) -> Array:
        total = weights.sum(axis=1)
        variance = weights @ centred**2 / total - (weights @ centred / total) ** 2
        found = np.full(len(weights), np.nan)
        return np.asarray(1 - np.divide(weights @ squares / total, variance, out=found, where=variance > least))

    return statistic


def pearson(truth: Array, answers: Array) -> Statistic:
    one, other = truth - truth.mean(), answers - answers.mean()

    def statistic(weights: Array) -> Array:
        return _correlation(weights, *((weights @ part) for part in (one, other, one**2, other**2, one * other)))

    return statistic


def spearman(truth: Array, answers: Array) -> Statistic:
    true, given = _ranking(truth), _ranking(answers)

    def statistic(weights: Array) -> Array:
        half = weights.sum(axis=1, keepdims=True) / 2  # the mean of all ranks
        one, other = true(weights) - half, given(weights) - half
        weighed = weights * one
        squares, products = np.einsum("rn,rn->r", weighed, one), np.einsum("rn,rn->r", weighed, other)
        others = np.einsum("rn,rn,rn->r", weights, other, other)
        return _correlation(weights, np.zeros(len(weights)), np.zeros(len(weights)), squares, others, products)

    return statistic


def _correlation(weights: Array, one: Array, other: Array, squares: Array, others: Array, products: Array) -> Array:
    """Of weighted sums of two values, of their squares and of their products; NaN where one of the two does not vary."""
    total = weights.sum(axis=1)
    spread = (squares / total - (one / total) ** 2) * (others / total - (other / total) ** 2)
    varies = spread > 1e-24 * (squares / total) * (others / total)
    found = np.full(len(total), np.nan)
    covariance = products / total - one * other / total**2
    return np.asarray(np.divide(covariance, np.sqrt(np.where(varies, spread, 1)), out=found, where=varies))


def _ranking(values: Array) -> Statistic:
    """Weights [resample, row] → the mid-rank of each row [resample, row]: the weight below it and half of that beside it."""
    order = np.argsort(values, kind="stable")
    ascending = values[order]
    below, through = (np.searchsorted(ascending, values, side) for side in ("left", "right"))

    def ranks(weights: Array) -> Array:
        sums = np.zeros((len(weights), len(values) + 1))
        np.cumsum(weights[:, order], axis=1, out=sums[:, 1:])
        return np.asarray((sums[:, below] + sums[:, through]) / 2)

    return ranks

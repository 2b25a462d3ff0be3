"""How near numbers are to the truth, and whether they rise and fall with it."""

from __future__ import annotations

import numpy as np

from openmaas.core.metrics.metric import Statistic
from openmaas.core.metrics.outcomes import Array


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
    true, given = _ties(truth), _ties(answers)

    def statistic(weights: Array) -> Array:
        return np.array([_rank_correlation(_ranks(true, row), _ranks(given, row), row) for row in weights])

    return statistic


def _rank_correlation(one: Array, other: Array, weights: Array) -> float:
    middle = weights.sum() / 2  # where the mean of all ranks lies
    first, second = one - middle, other - middle
    sums = [np.array([weights @ part]) for part in (first, second, first**2, second**2, first * second)]
    return float(_correlation(weights[None], *sums)[0])


def _correlation(weights: Array, one: Array, other: Array, squares: Array, others: Array, products: Array) -> Array:
    """Of weighted sums of two values, of their squares and of their products; NaN where one of the two does not vary."""
    total = weights.sum(axis=1)
    spread = (squares / total - (one / total) ** 2) * (others / total - (other / total) ** 2)
    varies = spread > 1e-24 * (squares / total) * (others / total)
    found = np.full(len(total), np.nan)
    covariance = products / total - one * other / total**2
    return np.asarray(np.divide(covariance, np.sqrt(np.where(varies, spread, 1)), out=found, where=varies))


def _ties(values: Array) -> Array:
    """Of each row, which of the ascending distinct values it has."""
    places: Array = np.unique(values, return_inverse=True)[1]
    return places


def _ranks(places: Array, weights: Array) -> Array:
    """Mid-ranks in a resample."""
    sizes = np.bincount(places, weights)
    ranks: Array = (np.cumsum(sizes) - sizes / 2)[places]
    return ranks

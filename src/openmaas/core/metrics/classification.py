"""How well classes are found."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from openmaas.core.evaluations import ClassFigures
from openmaas.core.metrics.metric import Statistic
from openmaas.core.metrics.outcomes import Array


def wrong(truth: Array, answers: Array) -> Array:
    return np.asarray(truth != answers, np.float64)


def accuracy(truth: Array, answers: Array) -> Statistic:
    right = (truth == answers).astype(np.float64)
    return lambda weights: weights @ right / weights.sum(axis=1)


def macro(figure: Callable[[Array, Array, Array], Array]) -> Callable[[Array, Array], Statistic]:
    """The mean over all classes that are in the truth or among the answers, as scikit-learn's `macro`.

    figure: (right, rows of the class, answers of the class), all [resample, class] → the same, NaN for what does not count.
    """

    def prepare(truth: Array, answers: Array) -> Statistic:
        names, places = np.unique(np.concatenate([truth, answers]), return_inverse=True)
        true, given, count = places[: len(truth)], places[len(truth) :], len(names)
        right = np.flatnonzero(true == given)
        hit, of_class, answered = _summed(true[right], count), _summed(true, count), _summed(given, count)

        def statistic(weights: Array) -> Array:
            hits, rows, named = hit(weights[:, right]), of_class(weights), answered(weights)
            figures = np.where(rows + named > 0, figure(hits, rows, named), np.nan)
            means: Array = np.nanmean(figures, axis=1)
            return means

        return statistic

    return prepare


def _summed(places: Array, count: int) -> Statistic:
    """Weights [resample, row] → their sum by place [resample, place]."""
    order = np.argsort(places, kind="stable")
    present, starts = np.unique(places[order], return_index=True)

    def total(weights: Array) -> Array:
        sums = np.zeros((len(weights), count))
        if len(starts):
            sums[:, present] = np.add.reduceat(weights[:, order], starts, axis=1)
        return sums

    return total


def ratio(part: Array, whole: Array) -> Array:
    """0 where there is no whole."""
    shares: Array = np.divide(part, whole, out=np.zeros(part.shape), where=whole > 0)
    return shares


def balanced(hits: Array, of_class: Array, _: Array) -> Array:
    shares: Array = np.divide(hits, of_class, out=np.full(hits.shape, np.nan), where=of_class > 0)
    return shares


def confusion(truth: Array, answers: Array, classes: int) -> NDArray[np.int64]:
    """[true class, answered class] → rows."""
    counts = np.bincount(truth.astype(np.int64) * classes + answers.astype(np.int64), minlength=classes * classes)
    return counts.reshape(classes, classes).astype(np.int64)


def class_figures(truth: Array, answers: Array, names: Sequence[str]) -> tuple[ClassFigures, ...]:
    """Of each class, 0 where its truth or its answers have no row."""
    count = len(names)
    right = truth == answers
    hits = np.bincount(truth[right], minlength=count).astype(np.float64)
    rows, given = np.bincount(truth, minlength=count), np.bincount(answers, minlength=count)
    columns = ratio(hits, given), ratio(hits, rows), ratio(2 * hits, rows + given)
    return tuple(
        ClassFigures(name=name, rows=int(of), precision=float(precision), recall=float(recall), f1=float(f1))
        for name, of, precision, recall, f1 in zip(names, rows, *columns, strict=True)
    )

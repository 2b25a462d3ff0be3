"""Which weights stay: boolean masks of arrays."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Weights = Mapping[str, NDArray[np.floating]]
Masks = dict[str, NDArray[np.bool_]]


def smallest_of_all(weights: Weights, amount: float) -> Masks:
    """Without the `amount` of smallest magnitude among all arrays together."""
    flat = np.concatenate([np.abs(array).ravel() for array in weights.values()])
    kept = _largest(flat, amount)
    parts = np.split(kept, np.cumsum([array.size for array in weights.values()])[:-1])
    return {name: part.reshape(weights[name].shape) for name, part in zip(weights, parts, strict=True)}


def lamp(array: NDArray[np.floating]) -> NDArray[np.float64]:
    """Each weight's square over the sum of squares of those of its array that are no smaller (Lee et al. 2021, arXiv
    2010.07611): what it is worth once all smaller ones are gone, whatever the scale of its layer. The largest has 1."""
    squares = np.square(array.astype(np.float64).ravel())
    order = np.argsort(squares, kind="stable")
    left = np.cumsum(squares[order][::-1])[::-1]
    scores = np.empty_like(squares)
    scores[order] = np.divide(squares[order], left, out=np.zeros_like(left), where=left > 0)
    return scores.reshape(array.shape)


def smallest_of_each(weights: Weights, amount: float) -> Masks:
    """Without the `amount` of smallest magnitude of each array."""
    return {name: _largest(np.abs(array).ravel(), amount).reshape(array.shape) for name, array in weights.items()}


def n_of_m(array: NDArray[np.floating], axis: int, n: int, m: int) -> NDArray[np.bool_]:
    """The n largest of each m neighbours along an axis; a last group of fewer than m stays whole."""
    rows = np.moveaxis(np.abs(array), axis, -1)
    whole = rows.shape[-1] // m * m
    groups = rows[..., :whole].reshape(*rows.shape[:-1], -1, m)
    ranks = np.argsort(np.argsort(-groups, axis=-1, kind="stable"), axis=-1, kind="stable")
    kept = np.ones(rows.shape, bool)
    kept[..., :whole] = (ranks < n).reshape(*rows.shape[:-1], whole)
    return np.moveaxis(kept, -1, axis)


def share_of_round(amount: float, number: int, rounds: int) -> float:
    """Of the whole amount after a round, from 1: fast at first, and slower the less is left (Zhu, Gupta 2017)."""
    return amount * (1 - (1 - number / rounds) ** 3)


def _largest(magnitudes: NDArray[np.floating], amount: float) -> NDArray[np.bool_]:
    # By rank and not by a threshold, so that equal weights do not make it more or less than was asked for.
    gone = round(amount * magnitudes.size)
    kept = np.ones(magnitudes.size, bool)
    if gone:
        kept[np.argpartition(magnitudes, gone - 1)[:gone]] = False
    return kept

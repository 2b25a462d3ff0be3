"""A booster's file as data, before the library that would follow it: what it says, and that it points nowhere outside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from openmaas.core.errors import Refused

Library = Literal["xgboost", "lightgbm"]
Answer = Literal["number", "binary", "multiclass", "multilabel", "decision"]
"""What the objective makes of the trees' sums: numbers, probabilities of two or more classes, or a bare decision."""

MAX_FEATURES = 1 << 20
MAX_OUTPUTS = 1 << 16


class Feature(NamedTuple):
    """One column. categories: their values in the order of the codes, None where the file does not name them.

    low and high: of the thresholds that it is held against, both 0 where there is none.
    """

    name: str
    categorical: bool = False
    categories: tuple[str | int, ...] | None = None
    low: float = 0.0
    high: float = 0.0


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """A checked file.

    content: the model written anew from what was checked, so that the library reads nothing else. named: the features have
    names of their own. outputs: numbers a row. softmax: the objective gives the class alone, and its sums the probabilities.
    linear: no trees. iterations: rounds to use, None for all. obstacle: why ONNX cannot give the same answers, if it is known.
    """

    library: Library
    content: bytes
    objective: str
    answer: Answer
    outputs: int
    features: tuple[Feature, ...]
    named: bool
    softmax: bool = False
    linear: bool = False
    iterations: int | None = None
    obstacle: str | None = None

    @property
    def by_column(self) -> bool:
        """Whether each column is an input of its own, since some hold category names and others numbers."""
        return any(feature.categories is not None for feature in self.features)


CATEGORIES_SPLIT = "It splits by category, for which the converters have no faithful form."


def require(sound: bool, what: str) -> None:
    """Raises Refused for a file that points outside of itself or contradicts itself."""
    if not sound:
        raise Refused(f"The booster's file is damaged: {what}.", code="damaged", next_step="Save the model again.")


def whole_numbers(values: Any, what: str, *, low: int = -(2**31), high: int = 2**31 - 1) -> NDArray[np.int64]:
    """A list of whole numbers within bounds, as an array."""
    require(isinstance(values, list) and all(type(value) is int for value in values), f"{what} are not whole numbers")
    require(all(low <= value <= high for value in values), f"{what} are not within {low} and {high}")
    return np.array(values, np.int64)


def numbers(values: Any, what: str) -> NDArray[np.float64]:
    """A list of numbers as an array."""
    require(isinstance(values, list) and all(type(value) in (int, float) for value in values), f"{what} are not numbers")
    return np.array(values, np.float64)


def check_children(left: NDArray[np.int64], right: NDArray[np.int64], inner: NDArray[np.bool_], count: int) -> None:
    """Every inner node has two children that exist, and no node has two parents: then every path from the root ends.

    left, right: of all nodes. inner: which of them have children. A child below 0 is a leaf that lies elsewhere.
    """
    children = np.concatenate([left[inner], right[inner]])
    nodes = children[children >= 0]
    require(bool((nodes < count).all()), "a tree's node has a child that does not exist")
    require(bool((nodes != 0).all()), "a tree's root is somebody's child")
    require(len(np.unique(nodes)) == len(nodes), "a tree's node has two parents")


def spans(
    features: int, indices: Sequence[NDArray[np.int64]], thresholds: Sequence[NDArray[np.float64]]
) -> NDArray[np.float64]:
    """The least and the largest threshold of each feature [features, 2], 0 for those without."""
    found = np.tile(np.array([np.inf, -np.inf]), (features, 1))
    for index, threshold in zip(indices, thresholds, strict=True):
        finite = np.isfinite(threshold)
        np.minimum.at(found[:, 0], index[finite], threshold[finite])
        np.maximum.at(found[:, 1], index[finite], threshold[finite])
    return np.where(np.isfinite(found), found, 0.0)

"""A dataset bound to a version: its rows as that version's engine takes them, and the truth in its classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Examples:
    """inputs: engine inputs by name, rows on axis 0 (texts tokenised and padded to the longest).

    truth: int64 class indices in the order of the version's scores, float64 numbers, or float64 similarities; None where the
    dataset has none for this model. Of similarities, rows 2i and 2i + 1 of the inputs are pair i, so that there are twice as
    many as truths. lengths: tokens of each row, empty where rows have no length. index: which rows of the dataset these are.
    digest: of the dataset's and of `index`, the same for equal rows.
    """

    inputs: Arrays
    truth: NDArray[Any] | None
    task: Literal["classification", "regression", "similarity", "agreement"]
    classes: tuple[str, ...] = ()
    lengths: NDArray[Any] | None = None
    index: NDArray[Any]
    digest: str

    @property
    def rows(self) -> int:
        """Rows of the engine inputs."""
        return len(next(iter(self.inputs.values())))

"""How long the rows of a sequence are without the padding at their end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def real_lengths(inputs: Mapping[str, NDArray[Any]], pad: Mapping[str, int]) -> NDArray[np.intp]:
    """Of each row [N]; one that is nothing but padding is as long as it came.

    inputs: those that `pad` names count, [N, L, …]. pad: what each is filled up with.
    """
    arrays = [(inputs[name], value) for name, value in pad.items() if name in inputs]
    rows, length = arrays[0][0].shape[:2]
    real = np.zeros((rows, length), bool)
    for array, value in arrays:
        real |= (array != value).reshape(rows, length, -1).any(axis=2)
    lengths: NDArray[np.intp] = length - np.argmax(real[:, ::-1], axis=1)
    return lengths

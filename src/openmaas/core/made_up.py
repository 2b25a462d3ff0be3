"""Made-up inputs, where there is no sample: to prove that a model runs, and to warm an engine up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmaas.core.datatypes import numpy_dtype
from openmaas.core.errors import TooLarge
from openmaas.core.types import TensorSpec

MAX_ELEMENTS = 1 << 24
"""Elements of one made-up row of all inputs together."""

Arrays = dict[str, NDArray[Any]]


def make_up(
    inputs: Sequence[TensorSpec], rows: int, axes: Mapping[str, tuple[str, ...]] | None = None, length: int = 16
) -> Arrays:
    """Random inputs: `rows` along a dynamic axis 0, `length` along every other dynamic axis. The same each time.

    Numbers are normally distributed, integers 0 or 1 (good as token ids and as masks), text single letters.
    Raises TooLarge when one row would have more than MAX_ELEMENTS elements.
    """
    names = axes or {}
    batch = {name[0] for name in names.values() if name and name[0]}
    shapes = {spec.name: _lengths(spec.shape, names.get(spec.name, ()), batch, rows, length) for spec in inputs}
    total = sum(math.prod(shape) for shape in shapes.values())
    if total > MAX_ELEMENTS * rows:
        raise TooLarge(f"One row of made-up input would have {total // rows} elements; at most {MAX_ELEMENTS} are made.")
    random = np.random.default_rng(7)
    return {spec.name: _random(random, numpy_dtype(spec.datatype), shapes[spec.name]) for spec in inputs}


def _lengths(shape: Sequence[int], names: Sequence[str], batch: set[str], rows: int, length: int) -> tuple[int, ...]:
    """Each axis' length; one that bears the name of somebody's axis 0 is as long as that."""
    free = [rows if n == 0 or (n < len(names) and names[n] in batch) else length for n in range(len(shape))]
    return tuple(fixed if fixed >= 0 else chosen for fixed, chosen in zip(shape, free, strict=True))


def _random(random: np.random.Generator, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    if dtype.kind == "O":
        return np.array([b"a", b"b", b"c", b"d"], dtype=object)[random.integers(0, 4, shape)]
    if dtype.kind in "iub":
        return random.integers(0, 2, shape).astype(dtype)
    return random.standard_normal(shape).astype(dtype)

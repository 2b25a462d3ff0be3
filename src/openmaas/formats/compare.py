"""How far apart two answers are. Pure functions on arrays.

Equal means |actual - expected| <= atol · max(1, s) + rtol · |expected|, s being the largest finite |expected| of the output:
a float32 sum is as exact as its largest term, not as its own value. RTOL and ATOL are about 100 float32 roundings, room for
another order of summing and none for another computation. float16 and bfloat16 have 10 and 7 bits, and their own figures.
NaN equals NaN, an infinity equals itself, integers, booleans and text are labels and must be the same.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from openmaas.core.manifest import Comparison

RTOL = 1e-4
ATOL = 1e-5
UNBOUNDED = sys.float_info.max
"""The difference of what cannot be compared (a NaN with a number, two shapes). JSON has no Infinity."""
_LOW_PRECISION = {"float16": 1e-2, "bfloat16": 5e-2}

Array = NDArray[np.generic]


class Difference(NamedTuple):
    """The largest differences within one output. `reason` says what is wrong, None when it is within tolerance."""

    max_abs: float
    max_rel: float
    reason: str | None = None


def difference(actual: Array, expected: Array, *, rtol: float = RTOL, atol: float = ATOL) -> Difference:
    """Compare one output with what it should be."""
    if actual.shape != expected.shape:
        return Difference(UNBOUNDED, UNBOUNDED, f"shape {list(actual.shape)} instead of {list(expected.shape)}")
    if is_number(actual) != is_number(expected):
        return Difference(UNBOUNDED, UNBOUNDED, f"type {actual.dtype} instead of {expected.dtype}")
    return _numbers(actual, expected, rtol, atol) if is_number(expected) else _labels(actual, expected)


def is_number(array: Array) -> bool:
    """Whether it holds measured quantities, which may differ a little, and not labels."""
    return array.dtype.kind == "f" or array.dtype.name == "bfloat16"


def _labels(actual: Array, expected: Array) -> Difference:
    unequal = (
        np.count_nonzero(as_text(actual) != as_text(expected))
        if expected.dtype.kind in "OSU"
        else np.count_nonzero(actual != expected)
    )
    if not unequal:
        return Difference(0.0, 0.0)
    gap = UNBOUNDED if expected.dtype.kind in "OSU" else float(np.abs(actual.astype(float) - expected.astype(float)).max())
    return Difference(gap, gap, f"{unequal} of {expected.size} values are not the same")


def as_text(array: Array) -> NDArray[np.object_]:
    """Text of any kind as an object array of str."""
    flat = [item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item) for item in array.ravel().tolist()]
    return np.array(flat, dtype=object).reshape(array.shape)


def _numbers(actual: Array, expected: Array, rtol: float, atol: float) -> Difference:
    coarse = max(_LOW_PRECISION.get(array.dtype.name, 0.0) for array in (actual, expected))
    rtol, atol = max(rtol, coarse), max(atol, coarse)
    a, b = actual.astype(np.float64), expected.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if same.all():
        return Difference(0.0, 0.0)
    if not np.isfinite(a[~same]).all() or not np.isfinite(b[~same]).all():
        return Difference(UNBOUNDED, UNBOUNDED, "NaN or Infinity on one side only")
    magnitude = np.abs(np.where(np.isfinite(b), b, 0.0))
    with np.errstate(over="ignore", invalid="ignore"):
        gap = np.minimum(np.where(same, 0.0, np.abs(a - b)), UNBOUNDED)
        relative = float((gap / np.maximum(magnitude, atol)).max())
    outside = gap > atol * max(1.0, float(magnitude.max())) + rtol * magnitude
    largest = float(gap.max())
    return Difference(largest, min(relative, UNBOUNDED), f"differs by up to {largest:.3g}" if outside.any() else None)


def compare(
    batch: int, actual: Mapping[str, Array], expected: Mapping[str, Array], *, rtol: float = RTOL, atol: float = ATOL
) -> tuple[Comparison, str | None]:
    """All outputs at one batch size: the comparison to store, and what is wrong (None when all is within tolerance).

    `expected` says which outputs count; one that `actual` lacks is wrong.
    """
    found = {
        name: difference(actual[name], array, rtol=rtol, atol=atol)
        if name in actual
        else Difference(UNBOUNDED, UNBOUNDED, "is missing")
        for name, array in expected.items()
    }
    name, worst = max(found.items(), key=lambda item: (item[1].reason is not None, item[1].max_abs))
    wrong = [f"{output!r} {item.reason}" for output, item in found.items() if item.reason]
    labels = all(item.reason is None for output, item in found.items() if not is_number(expected[output]))
    comparison = Comparison(
        batch=batch, output=name, max_abs_diff=worst.max_abs, max_rel_diff=worst.max_rel, labels_equal=labels
    )
    return comparison, f"at batch {batch} output {'; output '.join(wrong)}" if wrong else None


def rows(tensors: Mapping[str, Array], start: int, stop: int) -> dict[str, Any]:
    """Rows start … stop-1 of each array."""
    return {name: array[start:stop] for name, array in tensors.items()}


def stack(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Batches one after the other as one."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

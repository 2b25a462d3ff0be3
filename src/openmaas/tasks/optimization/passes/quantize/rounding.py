"""Affine quantisation of arrays: codes of a few bits, a scale and a zero for each channel, group or tensor.

weight ≈ (code − zero) · scale. The range always holds 0, which has a code of its own, so that pruned weights stay 0. Rounded
to the nearest, a weight moves by half a step (one scale) at most; stochastic rounding moves it by less than a step and is
right on average. After Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference".
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Codes(NamedTuple):
    """codes: uint8 in the array's shape. scale: float32, zero: uint8, with all axes kept, of length 1 where it is shared."""

    codes: NDArray[np.uint8]
    scale: NDArray[np.float32]
    zero: NDArray[np.uint8]

    def restored(self) -> NDArray[np.float32]:
        """What the engine computes with; of groups, only for those of one channel or tensor."""
        return np.asarray((self.codes.astype(np.float32) - self.zero) * self.scale, np.float32)


def quantise(
    array: NDArray[Any], bits: int, axes: tuple[int, ...], symmetric: bool, random: np.random.Generator | None = None
) -> Codes:
    """Codes below 2**bits. axes: those along which a scale is shared. random: rounds stochastically with it."""
    values = array.astype(np.float32)
    most = 2**bits - 1
    low = np.minimum(values.min(axes, keepdims=True), 0.0)
    high = np.maximum(values.max(axes, keepdims=True), 0.0)
    if symmetric:
        half = 2 ** (bits - 1)
        scale = np.maximum(-low, high) / (half - 1)
        scale[scale == 0] = 1.0
        zero = np.full((1,) * values.ndim, half, np.float32)
    else:
        scale = (high - low) / most
        scale[scale == 0] = 1.0
        zero = np.rint(-low / scale)
    steps = values / scale
    rounded = np.rint(steps) if random is None else np.floor(steps + random.random(steps.shape, np.float32))
    codes = np.clip(rounded + zero, 1 if symmetric else 0, most)
    return Codes(codes.astype(np.uint8), scale.astype(np.float32), zero.astype(np.uint8))


def quantise_groups(array: NDArray[Any], bits: int, axis: int, group: int, symmetric: bool) -> Codes:
    """As `quantise` to the nearest, one scale for each `group` neighbours along `axis`, whose length is a multiple of it."""
    shape = array.shape
    split = (*shape[:axis], shape[axis] // group, group, *shape[axis + 1 :])
    found = quantise(array.reshape(split), bits, (axis + 1,), symmetric)
    return Codes(found.codes.reshape(shape), found.scale.squeeze(axis + 1), found.zero.squeeze(axis + 1))  # a group has one


def shared_axes(shape: tuple[int, ...], channel: int, per_channel: bool) -> tuple[int, ...]:
    """All axes but the channel's, or all."""
    return tuple(axis for axis in range(len(shape)) if not per_channel or axis != channel)

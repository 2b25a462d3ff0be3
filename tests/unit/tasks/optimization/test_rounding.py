"""Codes of few bits: how far weights move."""

from __future__ import annotations

import numpy as np
import pytest

from openmaas.tasks.optimization.passes.quantize.rounding import quantise, quantise_groups, shared_axes
from tests.unit.tasks.optimization.graphs_for_tests import weights


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("per_channel", [False, True])
def test_nearest_moves_a_weight_by_half_a_step_at_most(bits: int, symmetric: bool, per_channel: bool) -> None:
    array = weights(16, 3, 5) * np.linspace(0.01, 9, 16, dtype=np.float32)[:, None, None]
    codes = quantise(array, bits, shared_axes(array.shape, 0, per_channel), symmetric)
    assert codes.codes.max() < 2**bits
    assert (np.abs(codes.restored() - array) <= codes.scale * 0.5001).all()
    assert codes.scale.size == (16 if per_channel else 1)


def test_all_codes_of_the_range_are_used() -> None:
    codes = quantise(weights(4000), 3, (0,), symmetric=False)
    assert set(codes.codes.ravel().tolist()) == set(range(8))


def test_stochastic_rounding_is_right_on_average_and_the_same_for_a_seed() -> None:
    array = np.full(20_000, 0.3, np.float32)
    array[0], array[1] = 0.0, 1.0
    made = [quantise(array, 2, (0,), False, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert np.array_equal(made[0].codes, made[1].codes) and not np.array_equal(made[0].codes, made[2].codes)
    assert (np.abs(made[0].restored() - array) < made[0].scale).all()
    assert abs(float(made[0].restored()[2:].mean()) - 0.3) < 0.01
    assert abs(float(quantise(array, 2, (0,), False).restored()[2:].mean()) - 0.3) > 0.02  # the nearest is not


@pytest.mark.parametrize("symmetric", [False, True])
def test_zero_stays_zero_and_constant_weights_do_no_harm(symmetric: bool) -> None:
    array = weights(6, 8) + 3
    array[:, ::2] = 0
    array[0] = 0
    restored = quantise(array, 4, (1,), symmetric).restored()
    assert (restored[array == 0] == 0).all() and np.isfinite(restored).all()


def test_groups_have_their_own_scales() -> None:
    array = weights(64, 4)
    array[:32] *= 100
    codes = quantise_groups(array, 4, 0, 32, symmetric=False)
    assert codes.scale.shape == (2, 4) and codes.codes.shape == (64, 4)
    restored = (codes.codes.astype(np.float32) - codes.zero.repeat(32, 0)) * codes.scale.repeat(32, 0)
    assert (np.abs(restored - array) <= codes.scale.repeat(32, 0) * 0.5001).all()

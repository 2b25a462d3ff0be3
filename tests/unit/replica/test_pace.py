"""The best size of a batch, found from what full batches took."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from openmaas.replica.pace import Pace

LARGEST = 32


def drive(
    pace: Pace, milliseconds_a_row: dict[int, float], batches: int, *, waiting: int = 64, noise: float = 0.0
) -> Counter[int]:
    """How often each number of rows was chosen, of an engine that takes so long a row."""
    source = random.Random(1)
    chosen: Counter[int] = Counter()
    for _ in range(batches):
        size = pace.choose(waiting)
        rows = Pace.limit(LARGEST, size)
        seconds = rows * milliseconds_a_row[rows] / 1000 * (1 + noise * source.random())
        pace.learn(size, rows, seconds)
        chosen[rows] += 1
    return chosen


@pytest.mark.parametrize("best", [32, 16, 8, 4])
@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_the_fastest_size_is_found_and_kept(best: int, noise: float) -> None:
    times = {rows: 5.0 if rows == best else 8.0 for rows in (32, 16, 8, 4)}
    pace = Pace(LARGEST)
    drive(pace, times, 40)
    chosen = drive(pace, times, 1000, noise=noise)
    assert chosen[best] >= 960


def test_equals_stay_with_the_largest() -> None:
    pace = Pace(LARGEST)
    drive(pace, dict.fromkeys((32, 16, 8, 4), 5.0), 40)
    assert drive(pace, {32: 5.0, 16: 4.9, 8: 4.9, 4: 4.9}, 640)[32] >= 600


def test_it_follows_a_change() -> None:
    pace = Pace(LARGEST)
    drive(pace, {32: 5.0, 16: 8.0, 8: 8.0, 4: 8.0}, 100)
    after = {32: 9.0, 16: 5.0, 8: 8.0, 4: 8.0}
    drive(pace, after, 900)
    assert drive(pace, after, 100)[16] >= 95


def test_nothing_is_tried_without_need() -> None:
    """Not before there were full batches, and not with fewer rows than the size wants."""
    pace = Pace(LARGEST)
    assert [pace.choose(64) for _ in range(10)] == [0] * 10
    drive(pace, dict.fromkeys((32, 16, 8, 4), 5.0), 8)
    assert pace.choose(64) != 0
    assert pace.choose(3) == 0
    assert Pace.limit(LARGEST, pace.choose(7)) == 4


def test_a_quick_engine_always_gets_the_largest() -> None:
    pace = Pace(LARGEST)
    assert drive(pace, {32: 0.1, 16: 0.01, 8: 0.01, 4: 0.01}, 500) == {32: 500}


def test_an_engine_that_has_become_quick_gets_the_largest_again() -> None:
    pace = Pace(LARGEST)
    drive(pace, {32: 8.0, 16: 5.0, 8: 8.0, 4: 8.0}, 100)
    quick = dict.fromkeys((32, 16, 8, 4), 0.1)
    drive(pace, quick, 200)
    assert drive(pace, quick, 500) == {32: 500}


@pytest.mark.parametrize("most", [1, 2, 3])
def test_a_small_largest_batch_leaves_no_choice(most: int) -> None:
    pace = Pace(most)
    for _ in range(100):
        assert pace.choose(64) == 0
        pace.learn(0, most, 1.0)

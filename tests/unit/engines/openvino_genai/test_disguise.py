from __future__ import annotations

import numpy as np
import pytest

from openmaas.engines.openvino_genai.disguise import BLOCK, Disguise, shared

VOCABULARY = 1000


def plain(ids: np.ndarray) -> list[int]:
    return [int(token) % VOCABULARY for token in ids]


def common(one: np.ndarray, other: np.ndarray) -> int:
    """Tokens that two prompts begin with alike, as the cache sees them."""
    length = min(len(one), len(other))
    different = np.flatnonzero(one[:length] != other[:length])
    return int(different[0]) if len(different) else length


@pytest.fixture
def disguise() -> Disguise:
    return Disguise(VOCABULARY)


@pytest.mark.parametrize("length", [1, 2, 31, 32, 33, 63, 64, 65, 500])
def test_a_disguised_prompt_is_the_same_prompt(disguise: Disguise, length: int) -> None:
    prompt = list(range(length))
    for salt in ("", "a", "b"):
        salted = disguise.salted(prompt, salt)
        assert plain(salted) == plain(disguise.own(salted)) == prompt
        assert min(salted) >= -VOCABULARY and salted.dtype == np.int64


@pytest.mark.parametrize(("length", "whole"), [(1, 0), (32, 0), (63, 0), (64, 32), (95, 32), (96, 64), (500, 448)])
def test_all_but_the_last_whole_block_is_shared_within_a_salt(disguise: Disguise, length: int, whole: int) -> None:
    prompt = list(range(length))
    one, other = (disguise.own(disguise.salted(prompt, "a")) for _ in range(2))
    assert shared(length) == whole
    assert common(one, other) >= whole
    if length >= BLOCK:
        assert common(one, other) < whole + BLOCK


def test_no_salt_shares_a_block_with_another(disguise: Disguise) -> None:
    prompt = list(range(200))
    salted = [disguise.salted(prompt, f"salt {number}") for number in range(300)]
    assert len({tuple(ids[:BLOCK]) for ids in salted}) == 300
    assert tuple(disguise.salted(prompt, "salt 7")) == tuple(salted[7])


def test_prompts_shorter_than_a_block_never_begin_like_longer_ones(disguise: Disguise) -> None:
    short = disguise.own(disguise.salted(list(range(20)), "a"))
    for length in (32, 40, 64, 200):
        long = disguise.salted(list(range(length)), "a")
        assert common(short, long) == 0 == common(short, disguise.own(long))


def test_a_forgotten_salt_meets_nothing_of_its_past(disguise: Disguise) -> None:
    before = disguise.salted(list(range(64)), "old")
    for number in range(10_001):
        disguise.salted(list(range(32)), str(number))
    assert tuple(disguise.salted(list(range(64)), "old")) != tuple(before)
    assert len(disguise._salts) == 10_000

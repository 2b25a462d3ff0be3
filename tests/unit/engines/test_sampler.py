"""The choice of a token by the engine transformers, held against the plain definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from openmaas.core.generation import Sampling
from openmaas.engines.transformers.sampler import Chooser

ROW = np.array([1.0, 3.0, 2.0, -1.0, 2.5, 0.0], dtype=np.float32)


def softmax(row: NDArray[Any]) -> NDArray[Any]:
    weights = np.exp(row - row.max(), dtype=np.float64)
    return weights / weights.sum()  # type: ignore[no-any-return]


def shares(sampling: dict[str, Any], row: NDArray[np.float32] = ROW, draws: int = 4000) -> NDArray[Any]:
    """How often each token is drawn."""
    chooser = Chooser(Sampling(seed=1, **sampling), [0])
    return np.bincount([chooser.choose(row)[0] for _ in range(draws)], minlength=len(row)) / draws


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        ({}, [0, 1, 2, 3, 4, 5]),
        ({"temperature": 0.5}, [0, 1, 2, 3, 4, 5]),
        ({"top_k": 3}, [1, 2, 4]),
        ({"top_k": 100}, [0, 1, 2, 3, 4, 5]),
        ({"top_p": 0.7}, [1, 4]),
        ({"top_p": 0.45}, [1]),
        ({"top_p": 1e-9}, [1]),
        ({"min_p": 0.3}, [1, 2, 4]),
        ({"top_k": 4, "top_p": 0.9, "min_p": 0.2}, [1, 2, 4]),
    ],
)
def test_what_may_be_drawn_is_drawn_by_its_probability(sampling: dict[str, Any], kept: list[int]) -> None:
    expected = softmax(ROW / sampling.get("temperature", 1.0))
    expected[[token for token in range(len(ROW)) if token not in kept]] = 0.0
    assert shares(sampling) == pytest.approx(expected / expected.sum(), abs=0.03)


def test_a_nucleus_wider_than_the_first_look() -> None:
    """Of 4,000 tokens that are as likely as each other, nine tenths are more than the 512 that are looked at first."""
    row = np.zeros(4000, dtype=np.float32)
    chooser = Chooser(Sampling(seed=1, top_p=0.9), [])
    drawn = {chooser.choose(row)[0] for _ in range(1200)}
    assert 800 < len(drawn) <= 3600


def test_seeds_repeat_and_differ() -> None:
    def drawn(seed: int) -> list[int]:
        chooser = Chooser(Sampling(seed=seed), [])
        return [chooser.choose(ROW)[0] for _ in range(30)]

    assert drawn(3) == drawn(3)
    assert len({tuple(drawn(seed)) for seed in (3, 4, 2**32 + 3, 2**63 + 3, -3)}) == 5


def test_no_temperature_is_the_likeliest() -> None:
    for temperature in (0.0, 1e-9):
        assert Chooser(Sampling(seed=0, temperature=temperature), []).choose(ROW)[0] == 1


def test_the_repetition_penalty_counts_the_prompt_and_the_others_do_not() -> None:
    greedy = {"seed": 0, "temperature": 0.0}
    assert Chooser(Sampling(**greedy, repetition_penalty=1.5), [1]).choose(ROW)[0] == 4
    assert Chooser(Sampling(**greedy, presence_penalty=2.0, frequency_penalty=2.0), [1]).choose(ROW)[0] == 1
    negative = np.array([-1.0, -1.1], dtype=np.float32)
    assert Chooser(Sampling(**greedy, repetition_penalty=1.5), [0]).choose(negative)[0] == 1


def test_frequency_grows_with_each_time_and_presence_does_not() -> None:
    row = np.array([2.0, 0.0], dtype=np.float32)
    often = Chooser(Sampling(seed=0, temperature=0.0, frequency_penalty=0.9), [])
    assert [often.choose(row)[0] for _ in range(5)] == [0, 0, 0, 1, 0]
    once = Chooser(Sampling(seed=0, temperature=0.0, presence_penalty=1.9), [])
    assert [once.choose(row)[0] for _ in range(5)] == [0] * 5


def test_logprobs_are_the_models_own() -> None:
    expected = np.log(softmax(ROW))
    chooser = Chooser(Sampling(seed=0, temperature=0.0, logprobs=2, repetition_penalty=9.0), [1])
    token, known = chooser.choose(ROW)
    assert token == 4 and known is not None
    assert known.logprob == pytest.approx(expected[4], abs=1e-5)
    assert [other for other, _ in known.top] == [1, 4]
    assert [logprob for _, logprob in known.top] == pytest.approx(expected[[1, 4]], abs=1e-5)
    assert Chooser(Sampling(seed=0), []).choose(ROW)[1] is None
    found = Chooser(Sampling(seed=0, logprobs=0), []).choose(ROW)[1]
    assert found is not None and found.top == ()


def test_masked_logits_are_never_drawn() -> None:
    row = np.array([0.0, -np.inf, 0.0, -np.inf], dtype=np.float32)
    for sampling in ({}, {"top_k": 3}, {"top_p": 0.99}, {"min_p": 0.0001}):
        assert set(np.flatnonzero(shares(sampling, row, 300))) <= {0, 2}

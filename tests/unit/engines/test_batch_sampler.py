"""The choice of many tokens at once, held against the choice of each by itself."""

from __future__ import annotations

import numpy as np
import pytest

from openmaas.core.generation import Sampling, TokenLogprob
from openmaas.engines.transformers.sampler import Chooser

torch = pytest.importorskip("torch")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
VOCABULARY = 1000
SAMPLINGS = [
    Sampling(seed=0, temperature=0.0),
    Sampling(seed=1),
    Sampling(seed=2, temperature=0.5, logprobs=0),
    Sampling(seed=3, top_k=3),
    Sampling(seed=4, top_k=300, temperature=1.5),
    Sampling(seed=5, top_p=0.7, logprobs=4),
    Sampling(seed=6, top_p=1e-9),
    Sampling(seed=7, min_p=0.3),
    Sampling(seed=8, top_k=50, top_p=0.9, min_p=0.02, temperature=0.7),
    Sampling(seed=9, repetition_penalty=1.3, temperature=0.0),
    Sampling(seed=10, presence_penalty=0.5, frequency_penalty=0.7, logprobs=2),
    Sampling(seed=11, top_k=5000, top_p=1.0),
    Sampling(seed=12, repetition_penalty=1.1, top_k=20, top_p=0.8, temperature=0.7),
]


def rows(step: int, count: int) -> np.ndarray:
    return (np.random.default_rng(step).normal(size=(count, VOCABULARY)) * 3).astype(np.float32)


def choosers() -> list[Chooser]:
    return [Chooser(sampling, [3, 5, 7, 3]) for sampling in SAMPLINGS]


def test_it_chooses_what_each_would_alone() -> None:
    from openmaas.engines.transformers.batch_sampler import choose

    alone, together = choosers(), choosers()
    for step in range(40):
        logits = rows(step, len(SAMPLINGS))
        expected = [chooser.choose(row) for chooser, row in zip(alone, logits, strict=True)]
        found = choose(torch.from_numpy(logits).to(DEVICE), together)
        assert [token for token, _ in found] == [token for token, _ in expected]
        for (_, known), (_, told) in zip(found, expected, strict=True):
            assert (known is None) == (told is None)
            if known is not None and told is not None:
                check(known, told)


def check(found: TokenLogprob, told: TokenLogprob) -> None:
    assert found.logprob == pytest.approx(told.logprob, abs=1e-4)
    assert [token for token, _ in found.top] == [token for token, _ in told.top]
    assert [value for _, value in found.top] == pytest.approx([value for _, value in told.top], abs=1e-4)


def test_company_changes_no_choice() -> None:
    """Also among equally likely tokens, of which logits of bfloat16 have many."""
    from openmaas.engines.transformers.batch_sampler import choose

    alone, together = choosers(), choosers()
    for step in range(20):
        logits = torch.from_numpy(rows(step, len(SAMPLINGS)).round()).to(DEVICE)
        expected = [choose(logits[row : row + 1], [chooser])[0][0] for row, chooser in enumerate(alone)]
        assert [token for token, _ in choose(logits, together)] == expected


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_row_that_is_not_finite_is_told_and_hurts_no_other(bad: float) -> None:
    from openmaas.engines.transformers.batch_sampler import choose

    for sampling in SAMPLINGS:
        logits = rows(1, 2)
        logits[0, 3] = bad
        pair = [Chooser(sampling, [1]), Chooser(sampling, [1])]
        expected = Chooser(sampling, [1]).choose(logits[1])[0]
        assert [token for token, _ in choose(torch.from_numpy(logits).to(DEVICE), pair)] == [-1, expected]

"""Two generators on the same text, without either: logits are made up."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openmaas.core.errors import EngineFailed
from openmaas.core.settings import Settings
from openmaas.tasks import forced
from openmaas.tasks.forced import Held, hold

IDS = [[2, 0, 3, 1], [1, 1, 2]]
SOURCE = [np.random.default_rng(number).normal(size=(len(ids), 5)).astype(np.float32) for number, ids in enumerate(IDS)]


@pytest.fixture
def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    for number, logits in enumerate(SOURCE):
        np.save(tmp_path / f"logits-{number}.npy", logits)

    def run(answers: list[np.ndarray[Any, Any]], weights: str = "int8", **settings: float) -> Held:
        monkeypatch.setattr(forced, "answers", lambda model, passages, threads: iter(answers))
        return hold(tmp_path / "model.xml", tmp_path, IDS, weights, Settings(**settings), 1)  # type: ignore[arg-type]

    return run


def test_the_same_logits_are_the_same(held: Any) -> None:
    found = held(SOURCE)
    assert found.reason is None
    assert (found.comparison.max_abs_diff, found.comparison.top1) == (0.0, 1.0)
    assert found.comparison.cosine == pytest.approx(1.0)
    assert found.perplexity[0] == found.perplexity[1]


def test_perplexity_is_of_the_text_s_own_next_tokens(held: Any) -> None:
    losses = []
    for ids, logits in zip(IDS, SOURCE, strict=True):
        chances = np.exp(logits.astype(np.float64)) / np.exp(logits.astype(np.float64)).sum(-1, keepdims=True)
        losses += [-math.log(chances[place, after]) for place, after in enumerate(ids[1:])]
    assert held(SOURCE).perplexity[0] == pytest.approx(math.exp(sum(losses) / len(losses)))
    assert held([np.zeros_like(logits) + 7 for logits in SOURCE]).perplexity[1] == pytest.approx(5.0), "it knows nothing"


def test_what_changes_no_probability_counts_for_nothing(held: Any) -> None:
    found = held([logits + 100 for logits in SOURCE])
    assert found.comparison.cosine == pytest.approx(1.0, abs=1e-6)
    assert found.reason is None


def test_one_bad_row_is_too_many(held: Any) -> None:
    broken = [logits.copy() for logits in SOURCE]
    broken[1][2] = broken[1][2][::-1]
    found = held(broken)
    assert found.comparison.cosine < 0.97
    assert found.comparison.top1 == pytest.approx(6 / 7)
    assert "int8 weights must reach 0.97 (OPENMAAS_INT8_COSINE)" in found.reason
    assert held(broken, int8_cosine=0.0, int8_perplexity=10.0).reason is None


def test_a_perplexity_that_rises_is_told_with_its_limit(held: Any) -> None:
    weaker = [logits * 3 for logits in SOURCE]
    found = held(weaker, weights="int4")
    assert found.comparison.cosine == pytest.approx(1.0), "only the perplexity shows it"
    assert "int4 weights may raise it by 15.0% (OPENMAAS_INT4_PERPLEXITY)" in found.reason


def test_what_is_no_number_and_what_has_another_shape_fails(held: Any, tmp_path: Path) -> None:
    with pytest.raises(EngineFailed, match="It answers with NaN"):
        held([np.full_like(logits, np.nan) for logits in SOURCE])
    with pytest.raises(EngineFailed, match=r"shape \[4, 4\], its source with \[4, 5\]"):
        held([logits[:, :4] for logits in SOURCE])
    np.save(tmp_path / "logits-0.npy", np.full_like(SOURCE[0], np.nan))
    with pytest.raises(EngineFailed, match="Its source answers with NaN"):  # and not that all is well
        held(SOURCE)

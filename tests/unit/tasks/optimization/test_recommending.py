"""The evaluation set accepts or rejects finalists in an order that was fixed before, and is not asked which is the best."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from openmaas.core.evaluations import VersionComparison
from openmaas.tasks.optimization.recommending import recommend_in_order
from tests.unit.tasks.optimization.test_proof import compared


def chosen(comparison: VersionComparison, order: Sequence[str], *, apart: bool = True) -> VersionComparison:
    return recommend_in_order(msgspec.structs.replace(comparison, dataset="test:1"), order, 0.01, apart=apart)


def test_the_first_of_the_order_that_is_surely_within_the_loss_is_taken() -> None:
    told = chosen(compared((0.004, 0.02, 5_000), (0.0, 0.008, 10_000), (0.0, 0.004, 8_000)), ["net:2", "net:3", "net:4"])
    assert told.recommended == "net:3", "not the smaller net:4, which was not needed"
    assert "its size is 10.00 times as good as net:1's" in told.why
    assert "with 95% confidence no more than 0.8 points" in told.why
    assert "held against test:1 one after the other: this was the second of 3." in told.why


def test_many_looks_make_its_bound_less_certain() -> None:
    poor = [(0.02, 0.03, 5_000)] * 3
    told = chosen(compared(*poor, (0.0, 0.004, 8_000)), ["net:2", "net:3", "net:4", "net:5"])
    assert told.recommended == "net:5"
    assert "with 90% confidence" in told.why and "the 4th of 4" in told.why


def test_where_no_bound_is_low_enough_the_first_by_its_value() -> None:
    told = chosen(compared((0.03, 0.05, 4_000), (0.005, 0.02, 5_000), (0.0, 0.015, 10_000)), ["net:2", "net:3", "net:4"])
    assert told.recommended == "net:3"
    assert "do not rule out a loss of 2 points" in told.why
    assert "none of the 3 is within the loss by its upper bound" in told.why


def test_what_is_no_better_than_the_parent_is_never_taken_nor_is_what_loses_too_much() -> None:
    assert chosen(compared((0.0, 0.0, 200_000), (0.03, 0.05, 5_000)), ["net:2", "net:3"]).recommended == "net:1"
    assert chosen(compared((0.0, 0.0, 5_000)), []).recommended == "net:1"


def test_an_order_that_the_evaluation_set_made_claims_nothing() -> None:
    told = chosen(compared((0.0, 0.004, 5_000)), ["net:2"], apart=False)
    assert told.recommended == "net:2" and "in order" not in told.why

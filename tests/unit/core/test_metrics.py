"""Figures against scikit-learn's and scipy's, intervals against simulation, and what is certain only in appearance."""

from __future__ import annotations

import base64
import time
import zlib
from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from openmaas.core.errors import InvalidInput, Refused
from openmaas.core.evaluations import Outcomes
from openmaas.core.metrics import (
    BY_TASK,
    MOST_ROWS,
    Answered,
    class_figures,
    confusion,
    decode_outcomes,
    encode_outcomes,
    estimate,
    loss,
    paired_difference,
)


def _classes(rows: int = 400, wrong: float = 0.2, seed: int = 3) -> Answered:
    random = np.random.default_rng(seed)
    truth = random.integers(0, 5, rows)
    return Answered("classes", truth, np.where(random.random(rows) < wrong, random.integers(0, 6, rows), truth), "same")


def _values(rows: int = 300, noise: float = 0.5) -> Answered:
    random = np.random.default_rng(4)
    truth = random.normal(size=rows).round(1)
    return Answered("values", truth, truth + noise * random.normal(size=rows), "same")


def test_figures_of_classes_are_those_of_scikit_learn() -> None:
    one = _classes()
    options = {"average": "macro", "zero_division": 0}
    expected = {
        "accuracy": sklearn.metrics.accuracy_score(one.truth, one.answers),
        "f1": sklearn.metrics.f1_score(one.truth, one.answers, **options),
        "precision": sklearn.metrics.precision_score(one.truth, one.answers, **options),
        "recall": sklearn.metrics.recall_score(one.truth, one.answers, **options),
    }
    for metric, value in expected.items():
        assert estimate(metric, one, resamples=10).value == pytest.approx(value)
    within = Answered("classes", one.truth, np.minimum(one.answers, 4), "same")
    balanced = sklearn.metrics.balanced_accuracy_score(within.truth, within.answers)
    assert estimate("balanced_accuracy", within, resamples=10).value == pytest.approx(balanced)


def test_figures_of_numbers_are_those_of_scipy_and_scikit_learn() -> None:
    one = _values()
    expected = {
        "mae": sklearn.metrics.mean_absolute_error(one.truth, one.answers),
        "rmse": sklearn.metrics.root_mean_squared_error(one.truth, one.answers),
        "r2": sklearn.metrics.r2_score(one.truth, one.answers),
        "spearman": scipy.stats.spearmanr(one.truth, one.answers).statistic,
        "pearson": scipy.stats.pearsonr(one.truth, one.answers).statistic,
    }
    assert set(expected) == set(BY_TASK["regression"])
    for metric, value in expected.items():
        assert estimate(metric, one, resamples=10).value == pytest.approx(value)


def test_resampled_ranks_are_those_of_the_resampled_rows() -> None:
    """The interval of a rank correlation beside one that ranks each resample by scipy."""
    one, random = _values(80), np.random.default_rng(1)
    drawn = [scipy.stats.spearmanr(one.truth[rows], one.answers[rows])[0] for rows in random.integers(0, 80, (400, 80))]
    ours = estimate("spearman", one, resamples=1000)
    assert [ours.low, ours.high] == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.02)


def test_perplexity_weighs_passages_by_their_tokens() -> None:
    one = Answered("losses", np.array([1.0, 3.0]), np.array([2.0, 1.0]), "same")
    assert estimate("perplexity", one).value == pytest.approx(np.exp((2 + 3) / 4))


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    random, covered, trials = np.random.default_rng(8), 0, 100
    for trial in range(trials):
        answers = (random.random(60) > 0.9).astype(np.int64)
        found = estimate("accuracy", Answered("classes", np.zeros(60, np.int64), answers, "same"), trial, resamples=200)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0.9 <= found.high
    assert 0.92 <= covered / trials <= 1


def test_ten_thousand_rows_take_well_below_a_second() -> None:
    one = _classes(10_000)
    start = time.process_time()
    estimate("accuracy", one)
    assert time.process_time() - start < 0.7


@pytest.mark.parametrize("metric", BY_TASK["classification"])
def test_flawless_answers_are_not_certain(metric: str) -> None:
    one = _classes(100, wrong=0)
    found = estimate(metric, one)
    assert found.value == found.high == 1
    assert found.low is not None
    assert 0.8 < found.low <= 0.025 ** (1 / 100)
    single = Answered("classes", one.truth[:1], one.truth[:1], "same")
    assert (estimate(metric, single).low or 1.0) < 0.25


@pytest.mark.parametrize("metric", BY_TASK["classification"])
def test_equal_answers_are_not_proof_of_equal_quality(metric: str) -> None:
    few, many = (paired_difference(metric, one, one) for one in (_classes(50), _classes(5000)))
    for found, least in ((few, 1 - 0.025 ** (1 / 50)), (many, 1 - 0.025 ** (1 / 5000))):
        assert found.value == 0
        assert found.low is not None
        assert found.high is not None
        assert -found.low == found.high >= least - 1e-12
    assert loss(metric, _classes(50), _classes(50)).high == few.high


@pytest.mark.parametrize("metric", BY_TASK["regression"])
def test_equal_numbers_are_bounded_by_the_worst_row(metric: str) -> None:
    one = _values()
    found = loss(metric, one, one)
    assert found.value == 0
    assert found.high is not None
    assert 0 < found.high < 0.5


@pytest.mark.parametrize(("metric", "least", "most"), [("f1", 3.2, 4.5), ("mae", 3.6, 6)])
def test_few_rows_that_got_worse_may_well_be_more(metric: str, least: float, most: float) -> None:
    """Poisson's exact bound of 2 is 7.2, and resamples of 2 rows reach 5. Numbers may change by more than any row shows."""
    truth, worse = np.arange(540) % 10, np.arange(540) < 2
    if metric == "f1":
        before, after = Answered("classes", truth, truth, "all"), Answered("classes", truth, (truth + worse) % 10, "all")
    else:
        before, after = (Answered("values", truth * 1.0, truth + 0.1 + 3 * change, "all") for change in (0 * worse, worse))
    found = loss(metric, before, after)
    assert found.high is not None
    assert least < found.high / found.value < most


def _changed(random: np.random.Generator, rows: int, share: float, *, heavy: bool) -> tuple[Answered, Answered]:
    """Answers with errors of 0.3, of which a share changes by a normal's deviate as large, or by one of Student's t."""
    truth = random.normal(size=rows)
    before = truth + 0.3 * random.normal(size=rows)
    change = random.standard_t(3, rows) if heavy else random.normal(size=rows)
    after = before + 0.3 * change * (random.random(rows) < share)
    return Answered("values", truth, before, "all"), Answered("values", truth, after, "all")


@pytest.mark.parametrize("heavy", [False, True])
@pytest.mark.parametrize(
    ("metric", "limit"), [("rmse", lambda share: (1 + share) ** 0.5 - 1), ("r2", lambda share: 0.09 * share)]
)
def test_the_bound_of_a_loss_holds_where_a_row_in_a_hundred_changes(
    metric: str, limit: Callable[[float], float], heavy: bool
) -> None:
    """A percentile bootstrap is below the true loss in a third of such samples. The variance of t is 3."""
    random, trials = np.random.default_rng(5), 60
    true = limit(0.01 * (3 if heavy else 1))
    found = [loss(metric, *_changed(random, 300, 0.01, heavy=heavy), seed, 200).high or 0.0 for seed in range(trials)]
    assert sum(high < true for high in found) <= 0.05 * trials
    assert np.median(found) < 0.12, "and it says something"


def test_a_few_rows_of_ranks_are_bounded_too() -> None:
    found = loss("spearman", *_changed(np.random.default_rng(1), 1000, 0.002, heavy=True), resamples=400)
    assert found.high is not None
    assert 0.002 < found.high < 0.02


def test_errors_that_are_all_alike_leave_room_for_others() -> None:
    same = Answered("values", np.arange(100.0), np.arange(100.0) + 0.1, "all")
    for metric in ("mae", "rmse"):
        assert (loss(metric, same, same).high or 0) >= 0.5 * (1 - 0.025**0.01)


def test_ranks_of_five_thousand_rows_take_below_a_second() -> None:
    start = time.process_time()
    loss("spearman", *_changed(np.random.default_rng(1), 5000, 0.01, heavy=False), resamples=1000)
    assert time.process_time() - start < 3


def test_passages_of_one_document_are_resampled_together() -> None:
    """Twenty passages of each of 50 documents, of which all are alike, tell no more than 50 rows."""
    random = np.random.default_rng(2)
    losses, documents = np.repeat(random.normal(3, 0.5, 50), 20), np.repeat(np.arange(50), 20)
    weights = random.integers(8, 256, 1000).astype(float)
    apart, together = (Answered("losses", weights, losses, "all", groups) for groups in (None, documents))
    alone, joint = estimate("perplexity", apart), estimate("perplexity", together)
    assert alone.value == pytest.approx(joint.value)
    assert 3.5 < ((joint.high or 0) - (joint.low or 0)) / ((alone.high or 0) - (alone.low or 0)) < 5.5, "the root of 20"


def test_groups_are_kept_with_the_outcomes_of_either_version() -> None:
    random = np.random.default_rng(2)
    weights, losses, documents = (
        random.integers(8, 256, 90).astype(float),
        random.normal(3, 0.5, 90),
        np.repeat(np.arange(30), 3),
    )
    kept = encode_outcomes("losses", weights, losses, "all", documents)
    before, after = decode_outcomes(kept), Answered("losses", weights, losses + random.normal(size=90), "all")
    assert before.groups is not None
    assert before.groups.tolist() == documents.tolist()
    first, second = loss("perplexity", kept, after), loss("perplexity", after, kept)
    assert first == loss("perplexity", before, Answered("losses", weights, after.answers, "all", documents))
    assert (first.high or 0) > 0 > second.value
    damaged = Outcomes(kind="losses", truth=kept.truth, answers=kept.answers, rows="all", groups="AAAA")
    with pytest.raises(InvalidInput, match="outcomes"):
        decode_outcomes(damaged)


def test_where_all_rows_change_the_interval_is_that_of_the_resamples() -> None:
    random = np.random.default_rng(3)
    truth = random.normal(size=400)
    before, after = (Answered("values", truth, truth + scale, "all") for scale in (0.3, 0.3 + 0.01 * random.random(400)))
    found = loss("mae", before, after)
    assert found.low is not None
    assert found.low > 0, "all are worse"


@pytest.mark.parametrize("seed", range(5))
def test_a_figure_lies_in_its_interval(seed: int) -> None:
    """Figures of many classes with few rows are biased downwards in resamples."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, 40, 50)
    found = estimate("f1", Answered("classes", truth, np.where(random.random(50) < 0.9, truth, 0), "all"))
    assert found.low is not None
    assert found.high is not None
    assert found.low <= found.value <= found.high


def test_one_row_of_numbers_has_no_interval() -> None:
    found = estimate("mae", Answered("values", np.array([1.0]), np.array([3.0]), "same"))
    assert (found.value, found.low, found.high) == (2, None, None)


def test_a_correlation_with_a_constant_is_refused() -> None:
    with pytest.raises(Refused, match="spearman is not defined"):
        estimate("spearman", Answered("values", np.ones(9), np.arange(9.0), "same"))


def test_what_is_not_defined_is_said() -> None:
    truth = np.arange(9.0)
    with pytest.raises(Refused, match="spearman is not defined on these rows: the answers are the same in all of them"):
        estimate("spearman", Answered("values", truth, np.ones(9), "same"))
    for metric in ("r2", "pearson", "spearman"):
        with pytest.raises(Refused, match="the truth is the same in all of them"):
            estimate(metric, Answered("values", np.ones(9), truth, "same"))
    assert estimate("rmse", Answered("values", np.ones(9), truth, "same")).value > 0
    good, constant = Answered("values", truth, truth, "same"), Answered("values", truth, np.ones(9), "same")
    with pytest.raises(Refused, match="the answers after are the same"):
        loss("spearman", good, constant)
    assert loss("r2", good, constant).value > 1


@pytest.mark.parametrize("side", ["truth", "answer"])
def test_what_is_no_number_is_refused_with_its_row(side: str) -> None:
    numbers, broken = np.arange(9.0), np.where(np.arange(9) == 4, np.nan, 1.0)
    truth, answers = (broken, numbers) if side == "truth" else (numbers, broken)
    one = Answered("values", truth, answers, "same")
    for metric in BY_TASK["regression"]:
        with pytest.raises(Refused, match=f"The {side} of 1 of 9 rows is NaN or Infinity; the first is row 4"):
            estimate(metric, one)
        with pytest.raises(Refused, match="NaN or Infinity"):
            loss(metric, one, Answered("values", one.truth, numbers, "same"))


def test_classes_without_rows_count_as_scikit_learn_counts_them() -> None:
    """One that is only answered counts, with 0; one that is in neither does not."""
    truth, after = np.array([0, 0, 1, 1, 5, 5]), np.array([0, 0, 1, 1, 5, 7])
    for name, figure in (("f1", sklearn.metrics.f1_score), ("precision", sklearn.metrics.precision_score)):
        expected = figure(truth, after, average="macro", zero_division=0)
        assert estimate(name, Answered("classes", truth, after, "same")).value == pytest.approx(expected)
        lost = loss(name, Answered("classes", truth, truth, "same"), Answered("classes", truth, after, "same"))
        assert lost.value == pytest.approx(1 - expected)


def test_a_loss_is_a_drop_of_shares_and_a_share_of_errors() -> None:
    before = _classes(1000, wrong=0)
    answers = before.truth.copy()
    answers[:50] = (answers[:50] + 1) % 5
    lost = loss("accuracy", before, Answered("classes", before.truth, answers, "same"))
    assert lost.value == pytest.approx(0.05)
    assert lost.low is not None
    assert lost.high is not None
    assert 0.03 < lost.low < 0.05 < lost.high < 0.07
    numbers = _values()
    doubled = Answered("values", numbers.truth, numbers.truth + 2 * (numbers.answers - numbers.truth), "same")
    assert loss("rmse", numbers, doubled).value == pytest.approx(1.0)
    assert paired_difference("rmse", numbers, doubled).value == pytest.approx(-estimate("rmse", numbers).value)


def test_pairing_makes_the_interval_of_a_difference_smaller() -> None:
    before = _classes(2000, wrong=0.3)
    answers = before.answers.copy()
    answers[:20] = before.truth[:20]
    found = paired_difference("accuracy", before, Answered("classes", before.truth, answers, "same"))
    alone = estimate("accuracy", before)
    assert found.low is not None
    assert found.high is not None
    assert alone.low is not None
    assert alone.high is not None
    assert found.high - found.low < (alone.high - alone.low) / 5


def test_other_rows_are_not_paired() -> None:
    one = _classes()
    with pytest.raises(Refused, match="different rows"):
        loss("accuracy", one, Answered("classes", one.truth, one.answers, "other"))


def test_a_metric_of_another_kind_is_refused_with_those_that_fit() -> None:
    with pytest.raises(InvalidInput, match="rmse is of values") as refused:
        estimate("rmse", _classes())
    assert "accuracy" in (refused.value.next_step or "")
    with pytest.raises(InvalidInput, match="there are accuracy"):
        estimate("acuracy", _classes())


def test_confusion_and_figures_by_class() -> None:
    truth, answers = np.array([0, 0, 1, 2]), np.array([0, 1, 1, 1])
    assert confusion(truth, answers, 3).tolist() == [[1, 1, 0], [0, 1, 0], [0, 1, 0]]
    found = class_figures(truth, answers, ("a", "b", "c"))
    assert [(one.rows, one.recall, round(one.precision, 3)) for one in found] == [(2, 0.5, 1.0), (1, 1.0, 0.333), (1, 0.0, 0.0)]


# ── what is kept ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_outcomes_come_back_as_they_were() -> None:
    for one in (_classes(), _values()):
        kept = encode_outcomes(one.kind, one.truth, one.answers, one.rows)
        back = decode_outcomes(kept)
        assert back.rows == "same"
        np.testing.assert_allclose(back.answers, one.answers, rtol=1e-6)
        metric = "accuracy" if one.kind == "classes" else "mae"
        assert loss(metric, kept, kept).value == 0


def test_the_most_rows_fit_into_a_report() -> None:
    truth, answers = np.random.default_rng(1).normal(size=(2, MOST_ROWS))
    kept = encode_outcomes("values", truth, answers, "same")
    assert len(kept.truth) + len(kept.answers) < 700_000
    with pytest.raises(Refused, match="at most 50000"):
        encode_outcomes("values", np.zeros(MOST_ROWS + 1), np.zeros(MOST_ROWS + 1), "same")


@pytest.mark.parametrize(
    "damaged",
    [
        "no base64",
        base64.b64encode(b"no zlib").decode(),
        base64.b64encode(zlib.compress(bytes(10_000_000))).decode(),
        base64.b64encode(zlib.compress(b"abc")).decode(),
        base64.b64encode(zlib.compress(np.array([-1], "<i4").tobytes())).decode(),
        "A" * 1_000_000,
    ],
)
def test_damaged_outcomes_and_bombs_are_refused(damaged: str) -> None:
    good = encode_outcomes("classes", np.array([1]), np.array([1]), "same")
    with pytest.raises(InvalidInput, match="outcomes"):
        decode_outcomes(Outcomes(kind="classes", truth=good.truth, answers=damaged, rows="same"))


def test_numbers_that_float32_does_not_hold_are_refused() -> None:
    with pytest.raises(Refused, match="float32"):
        encode_outcomes("values", np.array([1e300]), np.array([1.0]), "same")

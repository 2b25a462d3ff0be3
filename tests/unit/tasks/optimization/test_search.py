"""The search behind --auto, on a bench that has made-up models: no time passes but what the bench says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from openmaas.core.errors import Cancelled, Refused
from openmaas.core.evaluations import Estimate, Figures, Speed
from openmaas.core.manifest import Artifact, EngineChoice
from openmaas.core.recipes import Distil, Prune, Quantize
from openmaas.tasks.optimization.portfolio import Candidate, Target, Traits, portfolio
from openmaas.tasks.optimization.runner import OutOfTime
from openmaas.tasks.optimization.search import Chance, Search, Trial, expected_gain, probably_within

TRAITS = Traits(
    convolutions=3, linear=2, parameters=50_000, training=1000, labels=True,
    tools=frozenset({"openvino", "nncf", "torch"}),
)  # fmt: skip


class Bench:
    """A model may lose up to `limit` of its channels for nothing, and beyond it everything; int8 by min-max costs `int8`.

    What it is for the target is its size, but for the target size in seconds.
    """

    def __init__(self, limit: float = 0.6, int8: float = 0.0, train: float = 10.0) -> None:
        self.now = 0.0
        self.limit = limit
        self.int8 = int8
        self.train = train
        self.made: list[str] = []
        self.timed: list[list[str]] = []
        self.whole = 200_000 / 1e8
        self.slow: dict[str, float] = {}
        """Seconds that a family really takes, where that is not what was expected."""

    def clock(self) -> float:
        return self.now

    def expected_seconds(self, candidate: Candidate) -> float:
        return self.train if any(getattr(step, "epochs", 0) for step in candidate.recipe.steps) else 1.0

    def make(self, candidate: Candidate, deadline: float) -> Candidate:
        took = self.slow.get(candidate.family, self.expected_seconds(candidate))
        if self.now + took > deadline:
            self.now = deadline
            raise OutOfTime("The time of the search was over.", code="out_of_time")
        self.now += took
        if candidate.family == "cast bf16":
            raise Refused("The pass cast cannot be applied: the node 'conv' has no bf16.", code="pass_not_applicable")
        self.made.append(candidate.label)
        return candidate

    def judge(self, made: Candidate) -> tuple[Estimate, float]:
        value = 0.0
        for step in made.recipe.steps:
            if isinstance(step, Prune) and step.amount > self.limit:
                value += 0.2
            if isinstance(step, Quantize) and step.method == "static" and not step.keep_worst:
                value += self.int8
            if isinstance(step, Distil) and 1 - step.shrink > self.limit:
                value += 0.2
            if isinstance(step, Quantize) and step.bits < 6:
                value += 0.5
        return Estimate(value=value, low=value, high=value + 0.01), self.size(made) / 1e8

    def size(self, made: Candidate) -> int:
        size = 200_000.0
        for step in made.recipe.steps:
            if isinstance(step, Prune):
                size *= 1 - step.amount
            if isinstance(step, Distil):
                size *= step.shrink
            if isinstance(step, Quantize):
                size *= step.bits / 32
        return int(size)

    def parent(self) -> float:
        return self.whole

    def proving_seconds(self, finalists: int) -> float:
        return 5.0 + 5.0 * finalists

    def timeable(self, seconds: float) -> int:
        return int(seconds / 2)

    def time(self, made: Sequence[Any], seconds: float) -> list[Figures | str]:
        self.timed.append([one.label for one in made])
        self.now += seconds
        return [figures(self.size(one) / 1e8, self.size(one)) for one in made]


def figures(seconds: float, size: int) -> Figures:
    return Figures(
        choice=EngineChoice(engine="onnxruntime", artifact=Artifact(kind="onnx", entry="model.onnx")),
        size=size,
        memory=50_000_000,
        load=0.1,
        speeds=(Speed(batch=1, p50=seconds, p99=seconds, rate=1 / seconds, calls=10),),
        cost=0.1,
    )


def searched(bench: Bench, target: Target = "latency", max_loss: float = 0.01, seconds: float = 900.0) -> Search:
    if target == "size":
        bench.whole = 200_000.0
    search = Search(bench, target, max_loss, seconds, tell=lambda stage, done, total: None, clock=bench.clock)
    search.run(portfolio(TRAITS, target, seed=3))
    return search


def trial(search: Search, label: str) -> Trial:
    return next(one for one in search.trials if one.label == label)


def test_the_best_is_refined_to_where_quality_ends() -> None:
    bench = Bench(limit=0.6)
    search = searched(bench)
    best = search.best
    assert best is not None
    student = next(step for step in best.candidate.recipe.steps if isinstance(step, Distil))
    assert 0.4 <= student.shrink < 0.45
    assert any(isinstance(step, Quantize) for step in best.candidate.recipe.steps)
    assert search.finalists(5)[0] is best
    assert bench.now <= 900 - bench.proving_seconds(search.proved)


def test_what_does_not_apply_or_loses_too_much_says_so_and_is_never_timed() -> None:
    bench = Bench()
    search = searched(bench)
    assert "the node 'conv' has no bf16" in trial(search, "cast bf16").reason
    lost = next(one for one in search.trials if "amount=0.7" in one.label)
    assert lost.reason == "It loses 20.00%, more than 1.00%."
    follower = next(one for one in search.trials if "amount=0.7" in one.label and "→" in one.label)
    assert "alone is not good enough" in follower.reason
    further = next(one for one in search.trials if "amount=0.85" in one.label)
    assert "amount=0.7 alone is not good enough" in further.reason
    (timed,) = bench.timed
    assert set(timed) == {one.label for one in search.trials if one.figures is not None}
    assert lost.label not in timed


@pytest.mark.parametrize("seconds", [15.0, 30.0, 60.0, 120.0])
def test_it_never_takes_longer_than_it_may_and_leaves_time_to_prove_what_it_found(seconds: float) -> None:
    bench = Bench()
    search = searched(bench, seconds=seconds)
    assert search.proved >= 2
    assert bench.now <= max(0.4 * seconds, seconds - bench.proving_seconds(search.proved)) + 1e-9
    skipped = [one for one in search.trials if one.reason.startswith("Not tried: it would take")]
    assert skipped
    assert not {one.label for one in skipped} & set(bench.made)
    lost = {one.label for one in search.trials if one.reason.startswith("It loses")}
    for one in search.trials:
        before = one.candidate.after
        if "alone is not good enough" in one.reason:
            assert before in lost
        if "alone was not made" in one.reason:
            assert before not in lost


def test_more_time_is_more_finalists_of_which_none_is_timed_twice() -> None:
    short, long = Bench(), Bench()
    assert searched(short, seconds=60.0).proved < searched(long, seconds=600.0).proved
    assert not short.timed, "all that could be timed are proved, and so timed"
    assert len(long.timed) == 1


def test_a_step_that_takes_longer_than_expected_is_ended() -> None:
    bench = Bench()
    bench.slow["distil"] = 10_000.0
    search = searched(bench, seconds=200.0)
    assert bench.now <= 200 - bench.proving_seconds(search.proved)
    assert "The time of the search was over." in [one.reason for one in search.trials]


def test_int8_that_just_fails_keeps_its_worst_layers_in_float() -> None:
    search = searched(Bench(int8=0.02))
    kept = [one for one in search.trials if "keep_worst=0.1" in one.label]
    assert 1 <= len({one.candidate.family for one in kept}) <= 3
    assert kept[0].fits


def test_int8_that_fails_altogether_is_left() -> None:
    search = searched(Bench(int8=0.4))
    assert not [one for one in search.trials if "keep_worst" in one.label]


def test_size_needs_no_clock_and_ends_with_compress() -> None:
    bench = Bench()
    search = searched(bench, "size")
    assert not bench.timed
    best = search.best
    assert best is not None
    assert best.size == min(one.size for one in search.trials if one.fits)
    assert best.label.endswith("compress")


def test_smaller_copies_in_fewer_bits_are_tried_before_what_pays_less() -> None:
    order = [one.label for one in portfolio(TRAITS, "size", 0)]

    def place(*words: str) -> int:
        return next(number for number, label in enumerate(order) if all(word in label for word in words))

    assert place("distil", "affine bits=5") < place("global") < place("channels") < place("cast") < place("low-rank")
    bits = [one for one in portfolio(TRAITS, "size", 0) if one.family.startswith("affine")]
    assert [step.bits for one in bits for step in one.recipe.steps if isinstance(step, Quantize)] == [8, 4, 6, 5, 3]
    assert bits[0].at(-2).label.startswith("quantize affine bits=2")
    assert all(one.knob is not None and one.knob.least <= one.amount <= one.knob.most for one in bits)


def test_a_smaller_copy_is_tried_where_the_larger_was_good_enough_and_a_larger_one_where_it_was_not() -> None:
    def copies(limit: float) -> dict[float, str]:
        found = searched(Bench(limit=limit), seconds=3000.0).trials
        return {one.candidate.recipe.steps[0].shrink: one.reason for one in found if one.candidate.family == "distil"}  # type: ignore[attr-defined]

    mild, strict = copies(0.8), copies(0.5)
    assert mild[0.35] == mild[0.25] == "" and mild[0.15].startswith("It loses") and "it is for where" in mild[0.5]
    assert strict[0.35].startswith("It loses") and "not good enough" in strict[0.25] and strict[0.5] == ""


def test_the_same_seed_gives_the_same_search() -> None:
    first, second = searched(Bench()), searched(Bench())
    assert [one.label for one in first.trials] == [one.label for one in second.trials]
    assert [one.candidate.recipe for one in first.trials] == [one.candidate.recipe for one in second.trials]
    assert all(one.candidate.recipe.seed == 3 for one in first.trials)


def test_finalists_are_not_all_of_one_kind() -> None:
    search = searched(Bench(limit=0.8))
    finalists = search.finalists(5)
    assert len(finalists) >= 4
    assert finalists[0] is search.best
    copies = [step.shrink for one in finalists for step in one.candidate.recipe.steps if isinstance(step, Distil)]
    assert len(set(copies)) >= 2, "gentler ones, if the evaluation set does not agree"


def test_the_expected_gain_is_that_of_the_best_that_holds() -> None:
    one = Chance(gain=2.0, student="a", shared=0.9, own=0.9)
    assert expected_gain([]) == 0.0
    assert expected_gain([one]) == pytest.approx(1.8)
    other = replace(one, gain=1.0, student="b", shared=0.5, own=0.5)
    assert expected_gain([other, one]) == pytest.approx(0.9 * 2 + 0.1 * 0.5 * 1)
    sibling = replace(one, gain=1.0)
    assert expected_gain([sibling, one]) == pytest.approx(1.8), "of a student that fails, nothing holds"
    unsure = replace(one, own=0.45)
    assert expected_gain([unsure, sibling]) == pytest.approx(0.9 * (0.5 * 2 + 0.5 * 1))


def test_no_finalist_is_there_that_adds_nothing() -> None:
    search = Search(Bench(), "size", 0.01, 900.0, tell=lambda stage, done, total: None, clock=lambda: 0.0)
    search._bench.whole = 200_000.0  # type: ignore[attr-defined]
    of_model, of_copy = (
        [one for one in portfolio(TRAITS, "size", 0) if one.family.startswith(family)]
        for family in ("affine", "distil → affine")
    )
    none, some = Estimate(value=0.0, high=0.0146), Estimate(value=0.008, high=0.024)
    mild, bold = Trial(of_model[0], made=1, size=50_000, loss=none), Trial(of_copy[0], made=1, size=5_000, loss=none)
    bolder, useless = Trial(of_copy[1], made=1, size=4_500, loss=none), Trial(of_model[1], made=1, size=199_000, loss=none)
    risky = Trial(of_copy[2], made=1, size=4_400, loss=some)
    search.trials += [useless, mild, bold, bolder, risky]
    assert search.finalists(4) == [bolder, bold, mild, risky]
    assert useless not in search.finalists(5)


def test_what_is_worth_proving_is_what_probably_keeps_within_the_loss() -> None:
    """Of two with the same figure the surer one; and a little more gain does not pay for much less certainty."""
    assert probably_within(Estimate(value=0.0, high=0.0146), 0.01) == pytest.approx(0.91, abs=0.01)
    assert probably_within(Estimate(value=0.01, high=0.02), 0.01) == pytest.approx(0.5)
    assert probably_within(Estimate(value=0.002), 0.01) == 1.0
    search = Search(Bench(), "size", 0.01, 900.0, tell=lambda stage, done, total: None, clock=lambda: 0.0)
    search._bench.whole = 200_000.0  # type: ignore[attr-defined]
    candidates = portfolio(TRAITS, "size", 0)
    lucky = Trial(candidates[1], made=1, size=10_000, loss=Estimate(value=0.009, low=0.0, high=0.03))
    sure = Trial(candidates[2], made=1, size=12_000, loss=Estimate(value=0.0, low=-0.004, high=0.004))
    search.trials += [lucky, sure]
    assert search.best is sure
    assert search.finalists(2) == [sure, lucky]
    tiny = Trial(candidates[3], made=1, size=10, loss=Estimate(value=0.009, low=0.0, high=0.03))
    search.trials.append(tiny)
    assert search.best is tiny


def test_nothing_good_enough_is_nothing() -> None:
    search = searched(Bench(limit=0.0, int8=0.5), max_loss=-1.0)
    assert search.best is None
    assert search.finalists(5) == []


def test_a_cancelled_job_ends_the_search() -> None:
    class Ended(Bench):
        def make(self, candidate: Candidate, deadline: float) -> Candidate:
            raise Cancelled("The job was asked to end.")

    with pytest.raises(Cancelled):
        searched(Ended())


def test_trees_and_other_kinds_have_recipes_of_their_own() -> None:
    trees = portfolio(Traits(kinds=("xgboost",), trees=True), "size", 0)
    assert trees[0].label == "convert onnx → compress"
    assert {one.family for one in trees} == {"convert", "trees"}
    moved = trees[1].at(0.6)
    assert moved.label == "convert onnx → prune trees amount=0.6 → compress"
    without = portfolio(Traits(convolutions=1, linear=1), "latency", 0)
    assert not [one for one in without if one.recipe.needs_data]


def test_encoders_are_tried_without_their_padding() -> None:
    def steps(traits: Traits, target: Target = "throughput") -> dict[str, list[str]]:
        return {one.family: [step.name for step in one.recipe.steps] for one in portfolio(traits, target, 0)}

    masked = Traits(mask=True, linear=9, training=100, tools=frozenset({"openvino", "nncf"}))
    assert steps(masked)["padding"] == ["fuse"] and steps(masked)["smoothed"] == ["fuse", "quantize"]
    unmasked = steps(replace(masked, mask=False))
    assert unmasked["smoothed"] == ["quantize"] and "padding" not in unmasked
    assert not {"padding", "smoothed"} & set(steps(masked, "size"))

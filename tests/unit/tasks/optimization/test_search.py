"""The search behind --auto, on a bench that has made-up models: no time passes but what the bench says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from openmaas.core.errors import Cancelled, Refused
from openmaas.core.evaluations import Estimate, Figures, Speed
from openmaas.core.manifest import Artifact, EngineChoice
from openmaas.core.recipes import Prune, Quantize
from openmaas.tasks.optimization.portfolio import Candidate, Target, Traits, portfolio
from openmaas.tasks.optimization.runner import OutOfTime
from openmaas.tasks.optimization.search import Search, Trial

TRAITS = Traits(
    convolutions=3, linear=2, parameters=50_000, training=1000, labels=True,
    tools=frozenset({"openvino", "nncf", "torch"}),
)  # fmt: skip


class Bench:
    """Channels of up to `limit` cost nothing of quality, and beyond it everything; int8 by min-max costs `int8`."""

    def __init__(self, limit: float = 0.6, int8: float = 0.0, train: float = 10.0) -> None:
        self.now = 0.0
        self.limit = limit
        self.int8 = int8
        self.train = train
        self.made: list[str] = []
        self.timed: list[list[str]] = []
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

    def loss(self, made: Candidate) -> Estimate:
        value = 0.0
        for step in made.recipe.steps:
            if isinstance(step, Prune) and step.amount > self.limit:
                value += 0.2
            if isinstance(step, Quantize) and step.method == "static" and not step.keep_worst:
                value += self.int8
            if isinstance(step, Quantize) and step.bits < 6:
                value += 0.5
        return Estimate(value=value, low=value, high=value + 0.01)

    def size(self, made: Candidate) -> int:
        size = 200_000.0
        for step in made.recipe.steps:
            if isinstance(step, Prune):
                size *= 1 - step.amount
            if isinstance(step, Quantize):
                size *= step.bits / 32
        return int(size)

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
    pruned = next(step for step in best.candidate.recipe.steps if isinstance(step, Prune))
    assert 0.55 < pruned.amount <= 0.6
    assert any(isinstance(step, Quantize) for step in best.candidate.recipe.steps)
    assert search.finalists(5)[0] is best
    assert bench.now <= 900


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


@pytest.mark.parametrize("seconds", [1.0, 20.0, 60.0, 300.0])
def test_it_never_takes_longer_than_it_may(seconds: float) -> None:
    bench = Bench()
    search = searched(bench, seconds=seconds)
    assert bench.now <= seconds * 0.75 + 1e-9
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


def test_a_step_that_takes_longer_than_expected_is_ended() -> None:
    bench = Bench()
    bench.slow["channels"] = 10_000.0
    search = searched(bench, seconds=200.0)
    assert bench.now <= 150.0
    assert "The time of the search was over." in [one.reason for one in search.trials]


def test_int8_that_just_fails_keeps_its_worst_layers_in_float() -> None:
    search = searched(Bench(int8=0.02))
    kept = [one for one in search.trials if "keep_worst=0.1" in one.label]
    assert 1 <= len(kept) <= 3
    assert all(one.fits for one in kept)


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


def test_the_same_seed_gives_the_same_search() -> None:
    first, second = searched(Bench()), searched(Bench())
    assert [one.label for one in first.trials] == [one.label for one in second.trials]
    assert [one.candidate.recipe for one in first.trials] == [one.candidate.recipe for one in second.trials]
    assert all(one.candidate.recipe.seed == 3 for one in first.trials)


def test_finalists_are_not_all_of_one_kind() -> None:
    finalists = searched(Bench(limit=0.6)).finalists(8)
    ways = {one.candidate.family.partition(" ")[0] for one in finalists}
    assert len(finalists) == 8
    assert len(ways) >= 4
    pruned = [step.amount for one in finalists for step in one.candidate.recipe.steps if isinstance(step, Prune)]
    assert min(pruned) == 0.25, "a gentle one, if the evaluation set does not agree"


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

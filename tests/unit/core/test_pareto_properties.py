"""What holds of the front, of what is dominated and of what is recommended, whatever was measured."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from openmaas.core.evaluations import Axis, Entrant, Estimate, Figures, Speed
from openmaas.core.manifest import Artifact, EngineChoice
from openmaas.core.measurement import NOISE
from openmaas.core.pareto import AXES, FRONT_AXES, Target, change, dominated, figure, front, recommend

TARGETS: tuple[Target, ...] = ("latency", "throughput", "size", "memory")
MAX_LOSS = 0.02


def _entrant(version: str, size: int, memory: int, p50: float, rate: float, loss: Estimate | None) -> Entrant:
    speeds = (
        Speed(batch=1, p50=p50, p99=p50, rate=1 / p50, calls=9),
        Speed(batch=32, p50=32 / rate, p99=1, rate=rate, calls=9),
    )
    choice = EngineChoice(engine="onnxruntime", artifact=Artifact(kind="onnx", entry="model.onnx"))
    figures = Figures(choice=choice, size=size, memory=memory, load=0.1, speeds=speeds, cost=0.5)
    return Entrant(version=version, figures=figures, loss=loss)


def _loss(value: float, below: float, above: float) -> Estimate:
    return Estimate(value=value, low=value - below, high=value + above)


# Few different figures, some closer than the noise, so that ties and near ties are frequent. A rate is above 1 / p50.
sizes = st.sampled_from([100, 101, 102, 110, 200, 400])
times = st.sampled_from([1e-3, 1.01e-3, 1.02e-3, 1.04e-3, 1.5e-3, 3e-3])
rates = st.sampled_from([2000.0, 2030.0, 2050.0, 2100.0, 4000.0])
losses = st.builds(
    _loss,
    st.sampled_from([-0.01, 0.0, 0.004, 0.005, 0.03]),
    st.sampled_from([0.0, 0.003, 0.05]),
    st.sampled_from([0.0, 0.003, 0.02]),
)
figures = st.tuples(sizes, sizes, times, rates, st.none() | losses)
fields = st.tuples(
    st.tuples(sizes, sizes, times, rates, st.just(Estimate(value=0.0, low=0.0, high=0.0))), st.lists(figures, max_size=5)
).map(lambda both: [_entrant(f"m:{number}", *one) for number, one in enumerate((both[0], *both[1]))])
thorough = settings(max_examples=50, deadline=None)


def _beats(one: Entrant, other: Entrant, axes: Sequence[Axis]) -> bool:
    """By definition: nowhere worse, somewhere better."""
    pairs = [(figure(one, axis), figure(other, axis)) for axis in axes]
    return not any(ours > theirs for ours, theirs in pairs) and any(ours < theirs for ours, theirs in pairs)


def _safe(entrant: Entrant) -> bool:
    return entrant.loss is not None and entrant.loss.high is not None and entrant.loss.high <= MAX_LOSS


def _scaled(entrant: Entrant, factor: int) -> Entrant:
    """In units that are as many times as small; powers of two are exact."""
    known = entrant.figures
    speeds = tuple(
        msgspec.structs.replace(one, p50=one.p50 * factor, p99=one.p99 * factor, rate=one.rate / factor) for one in known.speeds
    )
    made = msgspec.structs.replace(known, size=known.size * factor, memory=known.memory * factor, speeds=speeds)
    return msgspec.structs.replace(entrant, figures=made)


@thorough
@given(fields)
def test_the_front_is_what_brute_force_says(entrants: list[Entrant]) -> None:
    for axes in (FRONT_AXES, AXES):
        expected = [not any(_beats(other, one, axes) for other in entrants) for one in entrants]
        assert front(entrants, axes) == expected
        assert any(expected)


@thorough
@given(fields, st.randoms(use_true_random=False))
def test_the_front_does_not_depend_on_the_order(entrants: list[Entrant], order: random.Random) -> None:
    shuffled = list(entrants)
    order.shuffle(shuffled)
    kept = {one.version for one, on_front in zip(entrants, front(entrants), strict=True) if on_front}
    assert kept == {one.version for one, on_front in zip(shuffled, front(shuffled), strict=True) if on_front}


@thorough
@given(fields)
def test_an_order_by_noise_has_no_contradiction(entrants: list[Entrant]) -> None:
    """Without their intervals, which are held against the baseline, what beats another is not beaten by it."""
    plain = [msgspec.structs.replace(one, loss=Estimate(value=0.0)) for one in entrants]
    for one in plain:
        assert not dominated(one, one)
        for other in plain:
            assert not (dominated(one, other) and dominated(other, one))
            for axis in AXES:
                assert change(one, other, axis) == -change(other, one, axis)


@thorough
@given(fields, st.sampled_from(TARGETS))
def test_what_is_recommended_is_safe_better_and_beaten_by_nothing_safe(entrants: list[Entrant], target: Target) -> None:
    baseline = entrants[0]
    version, why = recommend(entrants, target, MAX_LOSS, "accuracy")
    chosen = next(one for one in entrants if one.version == version)
    assert why
    candidates = [one for one in entrants[1:] if _safe(one) and change(one, baseline, target) < 0]
    if chosen is baseline:
        assert not candidates
        return
    assert chosen in candidates
    assert not dominated(chosen, baseline)
    assert not any(_beats(other, chosen, AXES) for other in candidates)
    best, noise = min(figure(one, target) for one in candidates), 0 if target == "size" else NOISE
    assert figure(chosen, target) <= best * (1 + noise)


@thorough
@given(fields, st.sampled_from(TARGETS), st.sampled_from([1, 2, 1024]))
def test_no_verdict_depends_on_units(entrants: list[Entrant], target: Target, factor: int) -> None:
    scaled = [_scaled(one, factor) for one in entrants]
    assert front(scaled) == front(entrants)
    assert [dominated(one, scaled[0]) for one in scaled] == [dominated(one, entrants[0]) for one in entrants]
    assert recommend(scaled, target, MAX_LOSS)[0] == recommend(entrants, target, MAX_LOSS)[0]


@thorough
@given(fields, st.sampled_from(TARGETS))
def test_more_room_for_loss_never_makes_the_target_worse(entrants: list[Entrant], target: Target) -> None:
    """Beyond what the noise hides."""
    by_version = {one.version: one for one in entrants}
    found = [figure(by_version[recommend(entrants, target, room)[0]], target) for room in (-1.0, 0.0, MAX_LOSS, 1.0)]
    assert all(later <= earlier * (1 + NOISE) for earlier, later in itertools.pairwise(found))


@thorough
@given(fields, st.sampled_from(TARGETS))
def test_what_is_useless_changes_no_recommendation(entrants: list[Entrant], target: Target) -> None:
    baseline = entrants[0]
    useful = [baseline, *(one for one in entrants[1:] if not dominated(one, baseline))]
    assert recommend(useful, target, MAX_LOSS)[0] == recommend(entrants, target, MAX_LOSS)[0]

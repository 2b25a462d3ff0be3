"""Which of several versions is of use, which is on the front, and which is recommended."""

from __future__ import annotations

import msgspec
import pytest

from openmaas.core.evaluations import Entrant, Estimate, Figures, Speed, VersionComparison
from openmaas.core.hardware import Processor
from openmaas.core.manifest import Artifact, EngineChoice
from openmaas.core.pareto import AXES, change, dominated, front, judged, recommend, told_loss


def entrant(
    version: str,
    *,
    size: int = 1000,
    memory: int = 100_000,
    p50: float = 1e-3,
    rate: float = 1000.0,
    loss: tuple[float, float, float] | None = (0.0, 0.0, 0.0),
) -> Entrant:
    """loss: low, value, high."""
    figures = Figures(
        choice=EngineChoice(engine="onnxruntime", artifact=Artifact(kind="onnx", entry="model.onnx")),
        size=size,
        memory=memory,
        load=0.1,
        speeds=(
            Speed(batch=1, p50=p50, p99=2 * p50, rate=1 / p50, calls=100),
            Speed(batch=32, p50=32 / rate, p99=0.1, rate=rate, calls=100),
        ),
        cost=0.5,
    )
    lost = None if loss is None else Estimate(low=loss[0], value=loss[1], high=loss[2])
    return Entrant(version=version, figures=figures, loss=lost)


PARENT = entrant("digits:1")
WORSE = entrant("digits:2", size=1200, memory=120_000, p50=2e-3, rate=900, loss=(0.01, 0.02, 0.03))
FASTER = entrant("digits:3", p50=0.5e-3, rate=4000, size=400, loss=(-0.001, 0.002, 0.006))
FASTEST = entrant("digits:4", p50=0.2e-3, rate=9000, size=300, loss=(0.001, 0.008, 0.02))


def test_a_version_that_is_worse_on_every_axis_is_dominated() -> None:
    assert [change(WORSE, PARENT, axis) for axis in AXES] == [1, 1, 1, 1, 1]
    assert dominated(WORSE, PARENT)
    assert not dominated(FASTER, PARENT)


@pytest.mark.parametrize(
    "saved",
    [{"size": 999}, {"memory": 90_000}, {"p50": 0.9e-3}, {"rate": 1100.0}, {"loss": (-0.03, -0.02, -0.01)}],
)
def test_one_axis_on_which_it_is_better_saves_a_version(saved: dict[str, object]) -> None:
    worse = {"size": 1200, "memory": 120_000, "p50": 2e-3, "rate": 900.0, "loss": (0.01, 0.02, 0.03)}
    assert dominated(entrant("digits:2", **worse), PARENT)  # type: ignore[arg-type]
    assert not dominated(entrant("digits:2", **(worse | saved)), PARENT)  # type: ignore[arg-type]


def test_noise_and_intervals_around_nothing_count_for_neither_side() -> None:
    same = entrant("digits:2", p50=1.02e-3, rate=985, memory=101_000, loss=(-0.01, 0.005, 0.02))
    assert [change(same, PARENT, axis) for axis in AXES] == [0, 0, 0, 0, 0]
    assert not dominated(same, PARENT)
    assert not dominated(PARENT, PARENT)
    slower = entrant("digits:2", p50=1.1e-3, loss=(-0.02, -0.005, 0.01))
    assert dominated(slower, PARENT), "a better quality that the rows do not show saves nothing"
    assert change(entrant("digits:2", size=1001), PARENT, "size") == 1, "a size has no noise"


def test_a_quality_that_is_not_known_is_neither_better_nor_recommended() -> None:
    unknown = entrant("digits:2", p50=0.1e-3, loss=None)
    assert change(unknown, PARENT, "quality") == 0
    assert recommend([PARENT, unknown], "latency", 0.5)[0] == "digits:1"
    assert front([PARENT, unknown]) == [True, True]


def test_the_front_by_the_figures_as_they_are() -> None:
    assert front([PARENT, WORSE, FASTER, FASTEST]) == [True, False, True, True]
    assert front([PARENT, entrant("digits:2")]) == [True, True], "equal ones beat nobody"
    assert front([PARENT, WORSE], ("size",)) == [True, False]


def test_the_upper_bound_of_the_loss_decides_and_not_its_estimate() -> None:
    version, why = recommend([PARENT, WORSE, FASTER, FASTEST], "latency", 0.01, "accuracy")
    assert version == "digits:3"
    assert "2.00 times as good as digits:1's" in why
    assert "with 95% confidence no more than 0.6 points." in why
    assert "digits:4 has a better latency and loses 0.8 points, but it may be 2 points" in why
    assert recommend([PARENT, WORSE, FASTER, FASTEST], "latency", 0.03, "accuracy")[0] == "digits:4"


@pytest.mark.parametrize("target", ["latency", "throughput", "size", "memory"])
def test_the_baseline_stays_where_nothing_is_better(target: str) -> None:
    assert recommend([PARENT, WORSE], target, 0.5)[0] == "digits:1"  # type: ignore[arg-type]
    version, why = recommend([PARENT, FASTEST], "latency", 0.001, "accuracy")
    assert (version, why.startswith("None with a better latency surely loses no more than 0.1 points of accuracy")) == (
        "digits:1",
        True,
    )


def test_of_those_that_a_measurement_cannot_tell_apart_the_one_that_loses_least() -> None:
    first = entrant("digits:2", p50=0.5e-3, loss=(0.0, 0.004, 0.008))
    second = entrant("digits:3", p50=0.51e-3, loss=(0.0, 0.001, 0.002))
    assert recommend([PARENT, first, second], "latency", 0.01)[0] == "digits:3"


def test_of_those_that_lose_the_same_none_that_another_beats() -> None:
    slower = entrant("digits:2", p50=0.51e-3, size=900, loss=(0.0, 0.001, 0.002))
    faster = entrant("digits:3", p50=0.5e-3, size=900, loss=(0.0, 0.001, 0.002))
    for target in ("latency", "size"):
        assert recommend([PARENT, slower, faster], target, 0.01)[0] == "digits:3"  # type: ignore[arg-type]


def test_of_sizes_the_smallest_as_they_are_exact() -> None:
    small, smaller = entrant("digits:2", size=900), entrant("digits:3", size=890, loss=(0.0, 0.001, 0.002))
    assert recommend([PARENT, small, smaller], "size", 0.01)[0] == "digits:3"


def test_a_comparison_is_judged_as_a_whole() -> None:
    comparison = VersionComparison(
        entrants=(PARENT, WORSE, FASTER),
        task="classification",
        metric="accuracy",
        processor=Processor(model="x", cores=2),
        rounds=5,
    )
    silent = judged(comparison, None)
    assert ([one.dominated for one in silent.entrants], silent.recommended) == ([False, True, False], "")
    told = judged(comparison, 0.01)
    assert (told.recommended, told.max_loss, [one.on_front for one in told.entrants]) == ("digits:3", 0.01, [True, False, True])
    assert msgspec.json.decode(msgspec.json.encode(told), type=VersionComparison) == told


def test_losses_as_people_say_them() -> None:
    assert told_loss(0.004, "accuracy") == "0.4 points"
    assert told_loss(0.01, "accuracy") == "1 point"
    assert told_loss(0.0123, "accuracy") == "1.23 points"
    assert told_loss(0.05, "rmse") == "5%"
    assert told_loss(0.00041, "cosine") == "0.041 points"

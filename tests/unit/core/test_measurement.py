from __future__ import annotations

import json

import msgspec
import pytest

from openmaas.core.hardware import Processor
from openmaas.core.manifest import Artifact, Comparison, EngineChoice
from openmaas.core.measurement import Measurement, Tried, TriedState


def tried(engine: str, threads: int, rates: tuple[float, ...] = (), state: TriedState = "fit", precision: str = "") -> Tried:
    choice = EngineChoice(engine=engine, artifact=Artifact(kind="onnx", entry="m"), precision=precision, threads=threads)
    comparison = Comparison(batch=1, output="y", max_abs_diff=0.5, max_rel_diff=0.1, cosine=0.99, top1=1.0)
    return Tried(choice=choice, state=state, rates=dict(zip((1, 8, 32), rates, strict=False)), comparisons=(comparison,))


def measured(*all_: Tried) -> Measurement:
    return Measurement(processor=Processor(model="P", cores=4), sample="given", reference="r", tried=all_)


def best(measurement: Measurement, threads: int) -> str | None:
    one = measurement.best(threads)
    return None if one is None else f"{one.choice.label}/{one.choice.threads}"


def test_the_rate_is_the_geometric_mean() -> None:
    assert tried("a", 1, (10, 100, 1000)).rate == pytest.approx(100)
    assert tried("a", 1).rate == 0.0


def test_twice_as_fast_at_one_batch_size_counts_the_same_for_each() -> None:
    """A mean of rates would be that of the largest batch alone."""
    small, large = tried("small", 1, (300, 1000, 10_000)), tried("large", 1, (100, 1000, 20_000))
    assert best(measured(large, small), 1) == "small/1"


def test_the_fastest_that_fits_into_the_threads() -> None:
    measurement = measured(tried("a", 4, (400, 400)), tried("a", 1, (100, 100)), tried("b", 1, (150, 150)))
    assert [best(measurement, threads) for threads in (1, 2, 4, 64)] == ["b/1", "b/1", "a/4", "a/4"]
    assert best(measured(tried("a", 4, (400,))), 2) is None


@pytest.mark.parametrize("state", ["crashed", "outside_tolerance", "not_finite", "not_timed"])
def test_who_does_not_fit_is_never_best(state: TriedState) -> None:
    assert best(measured(tried("fast", 1, (1e6,), state), tried("slow", 1, (1,))), 1) == "slow/1"


def test_of_equals_the_one_with_fewer_threads_then_the_plainer() -> None:
    measurement = measured(
        tried("own", 2, (100,)), tried("other", 2, (102,)), tried("own", 1, (99,)), tried("other", 1, (100,))
    )
    assert best(measurement, 2) == "own/1"
    assert best(measured(tried("own", 1, (100,)), tried("other", 1, (104,))), 1) == "other/1"


def test_as_json_and_back() -> None:
    measurement = measured(tried("a", 4, (400, 500)), tried("a", 1, (100, 90)), tried("b", 1, (1,), "crashed"))
    plain = json.loads(json.dumps(measurement.to_json()))
    assert plain["chosen"] == {"1": 1, "4": 0}
    assert msgspec.convert(plain, Measurement, strict=False) == measurement


def test_by_its_name() -> None:
    measurement = measured(tried("a", 4), tried("a", 1), tried("a", 1, precision="bf16"))
    assert [one.choice.threads for one in measurement.named("a")] == [4, 1]
    assert len(measurement.named("a:bf16")) == 1

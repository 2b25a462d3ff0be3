"""Generators converted in the environment that a job makes: 1.6 GB, so only in `make test-all`.

OPENMAAS_TEST_ENVIRONMENTS names a folder where environments stay from one run to the next; without it one is made from nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from openmaas.core.errors import Conflict, InvalidInput, Refused
from openmaas.core.evaluations import Evaluation, VersionComparison
from openmaas.core.hardware import computes_bf16
from openmaas.core.jobs import weights_of
from openmaas.core.measurement import Measurement
from openmaas.core.settings import Settings
from openmaas.tasks import generators
from openmaas.tasks.convert import run as convert
from openmaas.tasks.interpreters import Interpreters
from openmaas.tasks.measure import run as measure
from openmaas.tasks.optimize import run as optimize
from openmaas.tasks.parity import run as parity
from openmaas.tasks.process import ENVIRONMENTS
from tests.integration.tasks.conftest import FakeJob, Registry
from tests.tiny_writer import WORDS, make_writer
from tests.unit.tasks.datasets import dataset

Job = Callable[..., FakeJob]
KIND = "openvino-genai"
pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    kept = os.environ.get("OPENMAAS_TEST_ENVIRONMENTS")
    folder = Path(kept) if kept else tmp_path_factory.mktemp("environments")
    return Interpreters(folder, ENVIRONMENTS).get("optimum", print)


@pytest.fixture
def source(registry: Registry, tmp_path: Path) -> str:
    folder = make_writer(tmp_path / "writer")
    (folder / "held_out.txt").write_text(WORDS * 8)
    return registry.add("writer", folder, sample="held_out.txt")


@pytest.fixture
def made(job: Job, python: Path, source: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """What a conversion of the source came to."""
    monkeypatch.setattr(generators, "_TURN", 0.2)

    def run(weights: str, **settings: float) -> dict[str, Any]:
        one = job("convert", version=source, to=KIND, weights=weights)
        one.settings = Settings(**settings)  # type: ignore[arg-type]
        one.environment = lambda name: python  # type: ignore[method-assign]
        return convert(one)

    return run


@pytest.mark.slow
def test_weights_are_made_compared_and_registered_once(
    made: Any, job: Job, python: Path, source: str, registry: Registry
) -> None:
    result = made("int8")
    assert (result["version"], result["created"], result["weights"]) == ("writer:2", True, "int8")
    held = result["parity"]
    assert held["passed"]
    assert held["sample"] == "given"
    before, after = held["perplexity"]
    assert after == pytest.approx(before, rel=0.01)
    assert held["comparisons"][0]["cosine"] > 0.999
    manifest, folder = registry.versions["writer:2"]
    assert (manifest.format, manifest.engine, manifest.entry) == (KIND, KIND, "openvino_model.xml")
    assert manifest.generator is not None
    assert manifest.generator.weights == "int8"
    theirs = registry.versions[source][0].generator
    assert theirs is not None
    for name in ("context", "vocabulary", "end", "special", "tool_format", "defaults"):
        assert getattr(manifest.generator, name) == getattr(theirs, name), name
    assert manifest.parity is not None
    assert manifest.parity.perplexity == (before, after)
    assert manifest.sample is not None
    assert (folder / manifest.sample).read_text() == WORDS * 8
    assert (registry.parents["writer:2"], weights_of(registry.recipes["writer:2"])) == (source, "int8")

    again = made("int8")
    assert (again["version"], again["created"], again["known"]) == ("writer:2", False, True)
    assert len(registry.versions) == 2

    checked = job("parity", version="writer:2")
    checked.environment = lambda name: python  # type: ignore[method-assign]
    (once_more,) = parity(checked)["parity"]
    assert once_more["perplexity"] == pytest.approx([before, after])


@pytest.fixture
def optimized(job: Job, python: Path, source: str, registry: Registry, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """What an optimisation of the source came to, with a text to choose on and another to evaluate on."""
    for name, text in (("learnt", WORDS * 6), ("held-out", WORDS[::-1] * 6)):
        (tmp_path / name).mkdir()
        rows = [json.dumps({"text": f"{number} {text}"}) for number in range(24)]
        (tmp_path / name / f"{name}.jsonl").write_text("\n".join(rows))
        registry.datasets[f"{name}:1"] = dataset(tmp_path / name), tmp_path / name

    def run(**arguments: Any) -> dict[str, Any]:
        one = job("optimize", version=source, data="learnt:1", evaluation="held-out:1", **arguments)
        one.settings = Settings(int4_cosine=0.0, int4_perplexity=1.0)
        one.environment = lambda name: python  # type: ignore[method-assign]
        return optimize(one)  # type: ignore[arg-type]

    return run


@pytest.mark.slow
def test_a_recipe_is_measured_beside_its_parent_by_perplexity(
    optimized: Callable[..., dict[str, Any]], source: str, registry: Registry
) -> None:
    step = {"convert": {"to": KIND, "weights": "int4", "calibrated": True}}
    result = optimized(recipe={"steps": [step]}, seconds=2.0)
    told = msgspec.convert(result["comparison"], VersionComparison, strict=False)
    assert (told.task, told.metric, told.dataset) == ("generation", "perplexity", "held-out:1")
    parent, made = told.entrants
    assert (parent.version, made.version, made.label) == (source, "writer:2", f"convert {KIND} int4 calibrated")
    assert made.figures.size < parent.figures.size
    assert made.figures.speeds[0].batch == 1
    assert made.agreement is not None
    assert made.agreement.top1 is not None
    assert 0.5 < made.agreement.top1 <= 1
    assert made.loss is not None
    assert made.loss.low is not None
    assert made.loss.low <= made.loss.value
    assert all(row.before != row.after and row.preview for row in made.changed)
    evaluated = msgspec.convert(result["evaluations"], list[Evaluation], strict=False)
    assert [(one.version, one.digest) for one in evaluated] == [
        (one, registry.versions[one][0].digest) for one in (source, "writer:2")
    ]
    kept = json.loads(registry.recipes["writer:2"])
    assert kept["convert"] == {"to": KIND, "weights": "int4", "calibrated": "learnt:1"}
    assert kept["libraries"]["openmaas"]
    assert "| perplexity on held-out:1 |" in registry.cards["writer:2"]
    again = optimized(recipe={"steps": [step]}, seconds=2.0)
    assert (again["version"], again["created"], len(registry.versions)) == ("writer:2", False, 2)


@pytest.mark.slow
def test_a_search_tries_all_kinds_of_weights(optimized: Callable[..., dict[str, Any]], registry: Registry) -> None:
    result = optimized(auto=True, target="size", max_loss=0.5, seconds=20.0)
    tried = [one["label"].removeprefix(f"convert {KIND} ") for one in result["tried"]]
    assert tried == [*(["bf16"] if computes_bf16() else []), "int8", "int4", "int4 calibrated"]
    told = msgspec.convert(result["comparison"], VersionComparison, strict=False)
    assert result["version"] == told.recommended
    best = next(one for one in told.entrants if one.version == told.recommended)
    assert best.label.startswith(f"convert {KIND} int4")
    assert result["versions"] == [one["version"] for one in result["tried"] if one["version"]]
    assert set(result["versions"]) <= set(registry.versions)


def test_what_does_not_fit_a_generator_is_refused_before_anything_is_made(
    job: Job, source: str, registry: Registry, tmp_path: Path
) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "rows.txt").write_text(WORDS * 20)
    registry.datasets["text:1"] = dataset(tmp_path / "text"), tmp_path / "text"
    int4 = {"convert": {"to": KIND, "weights": "int4", "calibrated": True}}
    for arguments, told in (
        ({"recipe": {"steps": ["fuse"]}}, "no pass but the conversion"),
        ({"recipe": {"steps": [int4, int4]}, "data": "text:1"}, "no pass but the conversion"),
        ({"recipe": {"steps": [int4]}, "data": "text:1", "evaluation": "text:1"}, "the training set and the evaluation set"),
        ({"auto": True, "evaluation": "text:1", "metric": "accuracy"}, "'accuracy' is no metric of generation"),
    ):
        one = job("optimize", version=source, **arguments)
        with pytest.raises(InvalidInput, match=told):
            optimize(one)  # type: ignore[arg-type]
        assert not any("waiting" in stage or "comparing" in stage for stage in one.stages)


@pytest.mark.slow
def test_auto_measures_all_of_them_and_registers_the_fastest(made: Any, source: str, registry: Registry) -> None:
    result = made("auto")
    measurement = msgspec.convert(result["measurement"], Measurement, strict=False)
    assert [one.choice.precision for one in measurement.tried] == ["bf16", "int8", "int4"]
    for one in measurement.tried:
        if one.choice.precision == "bf16" and not computes_bf16():
            assert (one.state, one.rates) == ("not_compared", {})
            continue
        assert (one.state, set(one.rates)) == ("fit", {1, 8})
        assert one.rates[8] > one.rates[1] > 0
        assert one.perplexity == pytest.approx(measurement.perplexity, rel=0.1)
        assert one.memory > one.size > 0
    best = measurement.best(measurement.processor.cores)
    assert best is not None
    assert result["weights"] == best.choice.precision
    assert weights_of(registry.recipes[result["version"]]) == best.choice.precision
    registry.measurements[source] = result["measurement"]
    assert (made("auto")["version"], len(registry.versions)) == (result["version"], 2)


@pytest.mark.slow
def test_what_answers_otherwise_is_not_registered(made: Any, registry: Registry) -> None:
    with pytest.raises(Refused, match=r"int4: The least cosine .* must reach 0.999 \(OPENMAAS_INT4_COSINE\)") as refused:
        made("int4", int4_cosine=0.999)
    assert refused.value.code == "parity_failed"
    assert len(registry.versions) == 1


def test_a_processor_without_bf16_is_told_at_once(job: Job, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generators, "computes_bf16", lambda: False)
    with pytest.raises(Refused, match="does not compute with bfloat16"):
        convert(job("convert", version=source, to=KIND, weights="bf16"))


def test_other_kinds_cannot_be_made_of_it(job: Job, source: str) -> None:
    with pytest.raises(InvalidInput, match="There is no conversion from causal to 'onnx'"):
        convert(job("convert", version=source, to="onnx"))


def test_the_source_itself_is_compared_with_nothing_and_its_engines_are_not_measured(job: Job, source: str) -> None:
    with pytest.raises(Refused, match="was not converted from another version"):
        parity(job("parity", version=source))
    with pytest.raises(InvalidInput, match="generates text"):
        measure(job("measure", version=source))


@pytest.mark.slow
def test_what_is_converted_already_is_not_converted_again(made: Any, job: Job) -> None:
    version = made("int8")["version"]
    with pytest.raises(Conflict, match="is openvino-genai already"):
        convert(job("convert", version=version, to=KIND, weights="int4"))

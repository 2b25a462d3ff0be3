"""Generators converted in the environment that a job makes: 1.6 GB, so only in `make test-all`.

OPENMAAS_TEST_ENVIRONMENTS names a folder where environments stay from one run to the next; without it one is made from nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from openmaas.core.errors import Conflict, InvalidInput, Refused
from openmaas.core.hardware import computes_bf16
from openmaas.core.jobs import weights_of
from openmaas.core.measurement import Measurement
from openmaas.core.settings import Settings
from openmaas.tasks import generators
from openmaas.tasks.convert import run as convert
from openmaas.tasks.interpreters import Interpreters
from openmaas.tasks.measure import run as measure
from openmaas.tasks.parity import run as parity
from openmaas.tasks.process import ENVIRONMENTS
from tests.integration.tasks.conftest import FakeJob, Registry
from tests.tiny_writer import WORDS, make_writer

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

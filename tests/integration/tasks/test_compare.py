"""Versions measured beside each other in processes of their own: real models, and those that cannot be run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import cast

import msgspec
import numpy as np
import pytest

from openmaas.core.errors import InvalidInput, Refused
from openmaas.core.evaluations import Evaluation, Figures, VersionComparison
from openmaas.tasks import compare
from openmaas.tasks.base import Job
from openmaas.tasks.candidate import Failed
from openmaas.tasks.side_by_side import Subject, best_choice, figures_of, loaded_size, measure_side_by_side
from tests.integration.tasks.conftest import FakeJob, Registry
from tests.integration.tasks.test_evaluate import linear
from tests.tiny_writer import WORDS, make_writer
from tests.unit.tasks.datasets import dataset, npz

Jobs = Callable[..., FakeJob]
WEIGHTS = np.random.default_rng(1).standard_normal((6, 3)).astype(np.float32)
ROWS = np.random.default_rng(2).standard_normal((300, 6)).astype(np.float32)


@pytest.fixture
def versions(registry: Registry, tmp_path: Path) -> list[str]:
    """One, the same a hundredth larger, and one that is wrong."""
    weights = (WEIGHTS, WEIGHTS * np.float32(1.01), -WEIGHTS)
    return [registry.add("model", linear(tmp_path / f"files-{number}", one)) for number, one in enumerate(weights)]


def run(job: FakeJob) -> tuple[VersionComparison, list[Evaluation]]:
    """The result has been JSON, as control gets it."""
    result = json.loads(json.dumps(compare.run(cast(Job, job))))
    return (
        msgspec.convert(result["comparison"], VersionComparison, strict=False),
        msgspec.convert(result["evaluations"], list[Evaluation], strict=False),
    )


def test_versions_on_a_dataset(registry: Registry, job: Jobs, versions: list[str], tmp_path: Path) -> None:
    truth = (ROWS @ WEIGHTS).argmax(axis=1)
    registry.datasets["rows:1"] = npz(tmp_path / "rows", X=ROWS, y=truth), tmp_path / "rows"
    told, evaluations = run(job("compare", version=versions[0], others=versions[1:], data="rows:1", seconds=1.0, seed=3))
    baseline, same, wrong = told.entrants
    assert (told.task, told.metric, told.dataset, told.seed) == ("classification", "accuracy", "rows:1", 3)
    assert [one.version for one in evaluations] == versions
    assert [one.metrics["accuracy"].value for one in told.entrants[:2]] == [1.0, 1.0]
    assert same.loss is not None
    assert same.loss.high is not None
    assert 0 < same.loss.high < 0.02
    assert (same.changed_rows, same.agreement is not None and same.agreement.top1) == (0, 1.0)
    assert wrong.loss is not None
    assert wrong.loss.low is not None
    assert wrong.loss.low > 0.3
    assert wrong.changed_rows > 100
    assert all(row.truth == row.before != row.after and "X = [" in row.preview for row in wrong.changed)
    assert wrong.classes
    assert wrong.classes[0].before == 1.0
    for figures in (one.figures for one in told.entrants):
        assert [speed.batch for speed in figures.speeds][:3] == [1, 2, 4]
        assert all(0 < speed.p50 <= speed.p99 and speed.rate > 0 and speed.calls >= 5 for speed in figures.speeds)
        assert figures.memory > 20 << 20
        assert 0 < figures.cost < 60
        assert figures.choice.threads > 0
    assert told.recommended != wrong.version
    assert baseline.figures.size == (tmp_path / "files-0" / "model.onnx").stat().st_size


def test_without_a_dataset_answers_to_the_sample_are_compared(job: Jobs, versions: list[str]) -> None:
    told, evaluations = run(job("compare", version=versions[0], others=versions[2:], seconds=1.0))
    assert (told.task, told.dataset, evaluations) == ("agreement", "", [])
    other = told.entrants[1]
    assert other.agreement is not None
    assert other.agreement.cosine == pytest.approx(-1.0)


def test_a_version_beside_itself_by_another_engine(job: Jobs, versions: list[str]) -> None:
    both = {"version": versions[0], "others": [versions[0]], "seconds": 1.0}
    told, _ = run(job("compare", **both, engines=["onnxruntime", "openvino"]))
    assert [one.version for one in told.entrants] == ["model:1", "model:1 by openvino"]
    assert [one.figures.choice.engine for one in told.entrants] == ["onnxruntime", "openvino"]
    with pytest.raises(InvalidInput, match="with itself alone"):
        run(job("compare", **both))


def test_what_does_not_fit_is_refused_before_anything_runs(
    registry: Registry, job: Jobs, versions: list[str], tmp_path: Path
) -> None:
    other = registry.add("wide", linear(tmp_path / "wide", np.ones((7, 3), np.float32)))
    registry.datasets["rows:1"] = npz(tmp_path / "rows", X=ROWS, y=np.arange(300) % 3), tmp_path / "rows"
    work = job("compare", version=versions[0], others=[other], seconds=1.0)
    with pytest.raises(InvalidInput, match="wide:1 does not take the sample of model:1"):
        run(work)
    assert not any("timing" in stage or "answering" in stage for stage in work.stages)
    with pytest.raises(InvalidInput, match="rows:1 does not fit wide:1"):
        run(job("compare", version=versions[0], others=[other], data="rows:1"))
    with pytest.raises(InvalidInput, match="'rmse' is no metric of classification"):
        run(job("compare", version=versions[0], others=versions[1:], data="rows:1", metric="rmse"))


def test_one_that_cannot_be_run_is_left_out(registry: Registry, job: Jobs, versions: list[str]) -> None:
    manifest, folder = registry.versions[versions[2]]
    (folder / manifest.entry).write_bytes(b"no model any more")
    told, _ = run(job("compare", version=versions[0], others=versions[1:], seconds=1.0))
    assert [one.version for one in told.entrants] == versions[:2]
    assert told.notes[0].startswith(f"{versions[2]} was left out: ")
    with pytest.raises(Refused, match="None of the others"):
        run(job("compare", version=versions[0], others=versions[2:], seconds=1.0))


def test_a_subject_that_fails_is_named_and_the_others_are_measured(registry: Registry, job: Jobs, versions: list[str]) -> None:
    manifest, folder = registry.versions[versions[0]]
    artifact = msgspec.structs.replace(manifest.choice.artifact, entry="nothing.onnx")
    good = Subject(name="good", manifest=manifest, folder=folder, choice=manifest.choice)
    bad = Subject(
        name="bad", manifest=manifest, folder=folder, choice=msgspec.structs.replace(manifest.choice, artifact=artifact)
    )
    work = cast(Job, job("compare"))
    failed, figures = measure_side_by_side(work, [bad, good], {"X": ROWS}, seconds=0.5)
    assert isinstance(failed, Failed)
    assert failed.state == "load_failed"
    assert isinstance(figures, Figures)
    with pytest.raises(Refused, match="bad cannot be measured by onnxruntime"):
        figures_of(work, bad, {"X": ROWS}, seconds=0.5)


def test_the_engine_of_a_version_that_is_not_registered(registry: Registry, job: Jobs, versions: list[str]) -> None:
    manifest, folder = registry.versions[versions[0]]
    work = cast(Job, job("compare"))
    assert best_choice(work, manifest, folder, {"X": ROWS}, {"scores": ROWS @ WEIGHTS}, seconds=4.0).threads > 0
    hasty = best_choice(work, manifest, folder, {"X": ROWS}, {"scores": ROWS @ WEIGHTS}, seconds=0.01)
    assert hasty.engine == manifest.engine, "its own, where there was no time to compare others"
    with pytest.raises(Refused, match="No engine here runs it as it should"):
        best_choice(work, manifest, folder, {"X": ROWS}, {"scores": ROWS @ -WEIGHTS}, seconds=4.0)


def test_the_size_is_of_what_is_loaded(registry: Registry, versions: list[str]) -> None:
    manifest, folder = registry.versions[versions[0]]
    assert len(list(folder.iterdir())) > 1, "the sample is there too"
    assert loaded_size(manifest, folder, manifest.choice) == (folder / "model.onnx").stat().st_size


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_text_generators_are_compared_by_tokens_and_by_what_they_write(registry: Registry, job: Jobs, tmp_path: Path) -> None:
    folders = [make_writer(tmp_path / f"writer-{seed}", seed=seed) for seed in (0, 1)]
    one, other = (registry.add("writer", folder) for folder in folders)
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "rows.txt").write_text(WORDS * 12)
    registry.datasets["text:1"] = dataset(tmp_path / "text"), tmp_path / "text"
    told, evaluations = run(job("compare", version=one, others=[other], data="text:1", seconds=2.0))
    assert (told.task, told.metric) == ("generation", "perplexity")
    made = told.entrants[1]
    assert made.agreement is not None
    assert made.agreement.top1 is not None
    assert made.agreement.top1 < 0.5, "their weights are random"
    assert 0 < made.changed_rows == len(made.changed)
    assert all(row.preview and row.truth and row.before != row.after for row in made.changed)
    assert [one.metrics["perplexity"].value > 100 for one in evaluations] == [True, True]

    stranger = registry.add("stranger", make_writer(tmp_path / "stranger", vocabulary=400))
    refused = job("compare", version=one, others=[stranger], data="text:1", seconds=2.0)
    with pytest.raises(InvalidInput, match="stranger:1 cuts the text into other tokens than writer:1"):
        run(refused)
    assert not any("timing" in stage for stage in refused.stages)

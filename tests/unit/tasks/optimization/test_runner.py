"""Recipes run on passes that are faked: what is refused before the first step, and what is made of a step that fails."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from openmaas.core.errors import Cancelled, Conflict, InvalidInput, NotFound, OpenMaaSError, Refused
from openmaas.core.manifest import Artifact, Manifest
from openmaas.core.recipes import Cast, Compress, Convert, Distil, Fuse, Merge, Pass, Prune, Quantize, Recipe
from openmaas.core.types import Signature, TensorSpec
from openmaas.tasks.examples import Examples
from openmaas.tasks.optimization import runner
from openmaas.tasks.optimization.base import Arrays, Bench, Piece
from openmaas.tasks.optimization.runner import OutOfTime, Runner, ended_at

INPUTS = {"x": np.ones((4, 3), np.float32)}
ANSWER = {"y": np.ones((4, 2), np.float32)}


class FakeJob:
    id, kind = "job-1", "optimize"
    arguments: ClassVar[dict[str, Any]] = {}
    settings = SimpleNamespace()

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.stages: list[str] = []
        self.lines: list[str] = []

    def progress(self, stage: str, done: float = 0.0, total: float = 0.0) -> None:
        self.stages.append(stage)

    def log(self, line: str) -> None:
        self.lines.append(line)

    def files(self, reference: str) -> tuple[Manifest, Path]:
        if reference != "digits:1":
            raise NotFound(f"There is no {reference}.")
        return manifest(), self.scratch


class FakeAnswering:
    """What a piece answers is in its file's name: nan.onnx, wide.onnx."""

    def version(self, reference: str) -> Callable[[Arrays], Arrays]:
        return lambda inputs: ANSWER

    def once(self, target: Manifest, folder: Path, inputs: Arrays) -> Arrays:
        entry = target.entry
        if entry == "nan.onnx":
            return {"y": np.full((4, 2), np.nan, np.float32)}
        if entry == "wide.onnx":
            return {"y": np.ones((4, 5), np.float32)}
        return ANSWER


class FakePass:
    """Copies its input under another name, and remembers what it was given."""

    TAKES = ("onnx",)

    def __init__(self, entry: str = "model.onnx", error: BaseException | None = None, kind: str = "onnx") -> None:
        self.entry = entry
        self.error = error
        self.kind = kind
        self.seeds: list[int] = []
        self.folders: list[Path] = []

    def run(self, piece: Piece, parameters: Any, bench: Bench) -> Piece:
        self.seeds.append(bench.seed)
        self.folders.append(bench.folder)
        bench.progress("working", 1, 2)
        if self.error is not None:
            raise self.error
        (bench.folder / self.entry).write_bytes(piece.path.read_bytes())
        return piece.changed(Artifact(kind=self.kind, entry=self.entry), bench.folder, "It was copied.", copied=True)


def manifest(**changes: Any) -> Manifest:
    artifact = Artifact(kind="onnx", entry="model.onnx")
    signature = Signature(
        inputs=(TensorSpec(name="x", datatype="FP32", shape=(-1, 3)),),
        outputs=(TensorSpec(name="y", datatype="FP32", shape=(-1, 2)),),
    )
    fields: dict[str, Any] = {
        "format": "onnx", "engine": "onnxruntime", "entry": "model.onnx", "artifacts": (artifact,), "signature": signature,
        "files": (), "batchable": True,
    }  # fmt: skip
    return Manifest(**{**fields, **changes})


def write_model(folder: Path, value: float = 1.0) -> None:
    weights = onnx.numpy_helper.from_array(np.full((3, 2), value, np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 2])],
        [weights],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), folder / "model.onnx")


def examples(truth: bool = True) -> Examples:
    return Examples(
        inputs=INPUTS, truth=np.zeros(4, np.int64) if truth else None, task="classification" if truth else "agreement",
        index=np.arange(4), digest="d",
    )  # fmt: skip


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> dict[str, FakePass]:
    """By name; a FakePass for each that is asked for."""
    made: dict[str, FakePass] = {}

    def find(step: Pass) -> Any:
        return made.setdefault(step.name, FakePass())

    monkeypatch.setattr(runner, "find_pass", find)
    return made


def running(folder: Path, training: Examples | None = None, **changes: Any) -> tuple[Runner, FakeJob]:
    write_model(folder)
    job = FakeJob(folder)
    made = Runner(job, "digits:1", manifest(**changes), folder, INPUTS, training, FakeAnswering())  # type: ignore[arg-type]
    return made, job


def recipe(*steps: Pass, seed: int = 7) -> Recipe:
    return Recipe(steps=steps, seed=seed)


def test_steps_run_in_order_each_with_its_seed_and_folder(tmp_path: Path, passes: dict[str, FakePass]) -> None:
    made, job = running(tmp_path)
    piece = made.run(recipe(Fuse(), Prune(amount=0.5, seed=99), Compress()))
    assert (passes["fuse"].seeds, passes["prune"].seeds, passes["compress"].seeds) == ([8], [99], [10])
    folders = [passes[name].folders[0] for name in ("fuse", "prune", "compress")]
    assert len(set(folders)) == 3
    assert piece.folder == folders[-1]
    assert piece.notes == ("It was copied.",) * 3
    assert "step 2 of 3: prune global amount=0.5" in job.stages
    assert "step 2 of 3: prune global amount=0.5: working" in job.stages


def test_equal_first_steps_are_run_once(tmp_path: Path, passes: dict[str, FakePass]) -> None:
    made, _ = running(tmp_path)
    made.run(recipe(Fuse(), Compress()))
    assert [step.name for step in made.steps_left(recipe(Fuse(), Cast(), Compress()))] == ["cast", "compress"]
    made.run(recipe(Fuse(), Cast(), Compress()))
    assert (len(passes["fuse"].seeds), len(passes["compress"].seeds)) == (1, 2)
    made.run(recipe(Fuse(), seed=8))
    assert len(passes["fuse"].seeds) == 2


@pytest.mark.parametrize(
    ("error", "kind", "told"),
    [
        (
            Refused("The node 'conv' stays.", code="pass_not_applicable", next_step="Exclude it."),
            Refused,
            "The node 'conv' stays.",
        ),
        (RuntimeError("mat1 and mat2 at /tmp/x/model.onnx"), Refused, "failed: RuntimeError: mat1 and mat2"),
    ],
)
def test_a_step_that_fails_names_its_number(
    tmp_path: Path, passes: dict[str, FakePass], error: Exception, kind: type[OpenMaaSError], told: str
) -> None:
    passes["prune"] = FakePass(error=error)
    made, _ = running(tmp_path)
    with pytest.raises(kind) as caught:
        made.run(recipe(Fuse(), Prune()))
    assert caught.value.message.startswith("Step 2 of 2 (prune global amount=0.5)")
    assert told in caught.value.message
    assert "/tmp" not in caught.value.message
    assert caught.value.next_step
    with pytest.raises(kind):
        made.run(recipe(Fuse(), Prune()))
    assert len(passes["prune"].seeds) == 1


@pytest.mark.parametrize(
    ("entry", "told"), [("nan.onnx", "8 of 8 values of the output 'y' are NaN"), ("wide.onnx", r"shape \[4, 5\] instead of")]
)
def test_garbage_is_told_of_the_step_that_made_it(tmp_path: Path, passes: dict[str, FakePass], entry: str, told: str) -> None:
    passes["quantize"] = FakePass(entry)
    made, _ = running(tmp_path)
    with pytest.raises(Refused, match=rf"Step 1 of 2 \(quantize dynamic\): .*{told}"):
        made.run(recipe(Quantize(), Compress()))
    assert "compress" not in passes or not passes["compress"].seeds


def test_a_cancelled_job_is_no_failure_of_its_step(tmp_path: Path, passes: dict[str, FakePass]) -> None:
    passes["prune"] = FakePass(error=Cancelled("The job was asked to end."))
    made, _ = running(tmp_path)
    with pytest.raises(Cancelled):
        made.run(recipe(Prune()))


def test_a_step_is_ended_when_its_time_is_over(tmp_path: Path, passes: dict[str, FakePass]) -> None:
    made, _ = running(tmp_path)
    made.deadline = time.monotonic() - 1
    with pytest.raises(OutOfTime):
        made.run(recipe(Prune()))
    made.deadline = None
    made.run(recipe(Prune()))


@pytest.mark.parametrize("swallowed", [False, True])
def test_a_step_that_tells_nothing_is_ended_too(swallowed: bool) -> None:
    start = time.monotonic()
    with pytest.raises(OutOfTime), ended_at(start + 0.05):
        try:
            while time.monotonic() < start + 60:
                pass
        except OutOfTime:
            if not swallowed:
                raise
    assert time.monotonic() - start < 50
    with ended_at(time.monotonic() + 60):
        pass
    with pytest.raises(ZeroDivisionError), ended_at(time.monotonic() + 60):
        raise ZeroDivisionError


def test_a_draft_of_a_large_file_is_not_packed_until_it_is_asked_for(
    tmp_path: Path, passes: dict[str, FakePass], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_PACKED_AT_ONCE", 0)
    made, _ = running(tmp_path)
    asked = recipe(Quantize(), Compress())
    draft = made.draft(asked)
    assert "compress" not in passes
    assert draft.unpacked is not None and 0 < draft.unpacked.size <= draft.path.stat().st_size
    assert [step.name for step in made.steps_left(asked)] == ["compress"]
    assert made.run(asked).unpacked is None
    assert (len(passes["quantize"].seeds), len(passes["compress"].seeds)) == (1, 1)


def test_a_small_file_is_packed_at_once(tmp_path: Path, passes: dict[str, FakePass]) -> None:
    made, _ = running(tmp_path)
    assert made.draft(recipe(Quantize(), Compress())).unpacked is None
    assert passes["compress"].seeds
    assert made.draft(recipe(Quantize())).unpacked is None


# ── before the first step ────────────────────────────────────────────────────────────────────────────────────────────


def refused(made: Runner, asked: Recipe, passes: dict[str, FakePass]) -> OpenMaaSError:
    """What is said of it before any step is run."""
    with pytest.raises(OpenMaaSError) as caught:
        made.run(asked)
    assert not any(one.seeds for one in passes.values())
    return caught.value


def test_kinds_that_do_not_go_together_are_refused(tmp_path: Path, passes: dict[str, FakePass]) -> None:
    made, _ = running(tmp_path)
    error = refused(made, recipe(Fuse(), Quantize(method="weights", tool="openvino"), Compress()), passes)
    assert "Step 3 of 3 (compress) cannot be applied to digits:1: it works on onnx, and what step 2 leaves is openvino." in str(
        error
    )


def test_a_version_of_another_kind_is_told_to_be_converted(tmp_path: Path, passes: dict[str, FakePass]) -> None:
    script = Artifact(kind="torchscript", entry="model.pt")
    made, _ = running(tmp_path, artifacts=(script,), entry="model.pt")
    error = refused(made, recipe(Prune()), passes)
    assert "it works on onnx, and what the version has is torchscript" in error.message
    assert "openmaas convert digits:1 --to onnx" in str(error.next_step)
    passes["convert"] = FakePass()
    passes["convert"].TAKES = ("torchscript",)
    (tmp_path / "model.pt").write_bytes(b"x")
    assert made.check(recipe(Convert(to="onnx"), Prune())).artifact == script


def test_data_and_labels_are_asked_for_first(tmp_path: Path, passes: dict[str, FakePass]) -> None:
    made, _ = running(tmp_path)
    error = refused(made, recipe(Fuse(), Quantize(method="static")), passes)
    assert isinstance(error, InvalidInput)
    assert error.message.startswith("Step 2 of 2 (quantize static) trains or calibrates on data")
    made, _ = running(tmp_path, examples(truth=False))
    assert "learns from labels" in refused(made, recipe(Distil()), passes).message
    made.check(recipe(Distil(mix=1.0)))
    made.check(recipe(Prune(epochs=3)))


def test_versions_that_steps_name_must_exist(tmp_path: Path, passes: dict[str, FakePass]) -> None:
    made, _ = running(tmp_path, examples())
    error = refused(made, recipe(Merge(versions=("digits:9",))), passes)
    assert isinstance(error, NotFound)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, passes: dict[str, FakePass], value: float) -> None:
    made, _ = running(tmp_path)
    write_model(tmp_path, value)
    error = refused(made, recipe(Fuse()), passes)
    assert isinstance(error, Refused)
    assert "'w'" in error.message


def test_other_errors_keep_their_kind(tmp_path: Path, passes: dict[str, FakePass]) -> None:
    passes["convert"] = FakePass(error=Conflict("It is onnx already.", code="already_converted"))
    made, _ = running(tmp_path)
    with pytest.raises(Conflict, match=r"Step 1 of 1 \(convert onnx\): It is onnx already") as caught:
        made.run(recipe(Convert(to="onnx")))
    assert caught.value.code == "already_converted"

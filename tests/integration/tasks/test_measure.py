"""Engines measured in processes of their own: real models, and every way in which an engine can fail."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from openmaas.core.errors import Cancelled, InvalidInput
from openmaas.core.hardware import computes_bf16, usable_cores
from openmaas.core.measurement import Measurement, Tried
from openmaas.core.settings import Settings
from openmaas.tasks import measure
from tests.integration.tasks.conftest import FakeJob, Registry

Jobs = Callable[..., FakeJob]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorter turns: the figures themselves are not tested."""
    monkeypatch.setattr(measure, "_TURN", 0.01)
    monkeypatch.setattr(measure, "_ROUNDS", 2)


def run(work: FakeJob) -> Measurement:
    return msgspec.convert(json.loads(json.dumps(measure.run(work))), Measurement, strict=False)


def by_label(measurement: Measurement, threads: int | None = None) -> dict[str, Tried]:
    """The first of each name, or those with so many threads."""
    found: dict[str, Tried] = {}
    for one in measurement.tried:
        if threads in (None, one.choice.threads):
            found.setdefault(one.choice.label, one)
    return found


# ── real models ──────────────────────────────────────────────────────────────────────────────────────────────────────


def save_classifier(folder: Path) -> Path:
    """Two layers, 64 features, probabilities of 10 classes that are far apart, and the class."""
    rng = np.random.default_rng(5)
    first, second = (rng.standard_normal(shape).astype(np.float32) for shape in ((64, 32), (32, 10)))
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"]), helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "w2"], ["c"]), helper.make_node("Softmax", ["c"], ["probabilities"]),
        helper.make_node("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 64])],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 10]),
            helper.make_tensor_value_info("label", TensorProto.INT64, [None]),
        ],
        [numpy_helper.from_array(first, "w1"), numpy_helper.from_array(second, "w2")],
    )
    folder.mkdir()
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), folder / "model.onnx")
    return folder


def test_onnxruntime_and_openvino_on_a_classifier(registry: Registry, job: Jobs, tmp_path: Path) -> None:
    reference = registry.add("classifier", save_classifier(tmp_path / "files"))
    work = job("measure", version=reference)
    measurement = run(work)
    assert (measurement.reference, measurement.sample) == ("the source's answers", "generated")
    tried = by_label(measurement, usable_cores())
    assert list(tried)[:2] == ["onnxruntime", "openvino"]
    for one in (tried["onnxruntime"], tried["openvino"]):
        assert (one.state, one.cause) == ("fit", "")
        assert sorted(one.rates) == [1, 8, 32]
        assert [item.batch for item in one.comparisons] == [1, 8, 32]
        assert all(item.labels_equal and item.top1 == 1.0 and (item.cosine or 0) > 0.9999999 for item in one.comparisons)
        assert one.memory > 20 << 20
        assert one.library.startswith(one.choice.engine)
        assert one.load > 0
    if computes_bf16():
        assert tried["openvino:bf16"].comparisons[0].max_abs_diff > tried["openvino"].comparisons[0].max_abs_diff
    assert measurement.best(1) is not None
    assert any(stage.startswith("comparing openvino") for stage in work.stages)
    assert any(stage.startswith("timing onnxruntime with 1 thread at batch 32") for stage in work.stages)
    assert {one.choice.threads for one in measurement.tried} == set(measure.thread_counts(usable_cores()))


@pytest.mark.skipif(not computes_bf16(), reason="the processor has no bfloat16")
def test_the_cosine_is_a_setting(registry: Registry, job: Jobs, tmp_path: Path) -> None:
    """bfloat16 moves saturated probabilities by more than most would accept."""
    reference = registry.add("classifier", save_classifier(tmp_path / "files"))
    work = job("measure", version=reference)
    bf16 = by_label(run(work))["openvino:bf16"]
    assert (bf16.state, bf16.rates) == ("outside_tolerance", {})
    assert "less than 0.9999" in bf16.cause
    assert bf16.comparisons
    work = job("measure", version=reference)
    work.settings = Settings(engine_cosine=0.9)
    assert by_label(run(work))["openvino:bf16"].state == "fit"


def test_a_transformer_with_free_sequences(registry: Registry, job: Jobs, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(1)

    class Encoder(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.tokens = torch.nn.Embedding(100, 32)
            self.query, self.key, self.value = (torch.nn.Linear(32, 32) for _ in range(3))

        def forward(self, ids: Any) -> Any:
            x = self.tokens(ids)
            weights = torch.softmax(self.query(x) @ self.key(x).transpose(1, 2) / 32**0.5, dim=-1)
            return torch.nn.functional.normalize((x + weights @ self.value(x)).mean(dim=1), dim=-1)

    folder = tmp_path / "files"
    folder.mkdir()
    ids = torch.randint(0, 100, (16, 24))
    axes = {"ids": {0: torch.export.Dim("batch", min=1, max=256), 1: torch.export.Dim("length", min=2, max=128)}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Encoder().eval(), (ids,), folder / "model.onnx", dynamo=True, input_names=["ids"], output_names=["sentence"],
            dynamic_shapes=axes, external_data=False, verbose=False,
        )  # fmt: skip
    np.savez(folder / "sample.npz", ids=ids.numpy())
    measurement = run(job("measure", version=registry.add("encoder", folder, sample="sample.npz")))
    assert measurement.sample == "given"
    for one in measurement.tried:
        assert (one.state, one.cause) == ("fit", "")
        assert all(item.top1 is None and (item.cosine or 0) >= 0.9999 for item in one.comparisons)


def test_rows_that_may_not_share_a_batch(registry: Registry, job: Jobs, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1), helper.make_node("Sub", ["x", "m"], ["y"])],
        "mixing",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), folder / "model.onnx")
    measurement = run(job("measure", version=registry.add("mixing", folder)))
    for one in measurement.tried:
        assert one.state == "fit"
        assert list(one.rates) == [1]
        assert [item.batch for item in one.comparisons] == [1]


# ── every failure, by its name ───────────────────────────────────────────────────────────────────────────────────────


def dummy(registry: Registry, tmp_path: Path, model: str = "dummy", batchable: bool = True, **options: Any) -> str:
    folder = tmp_path / model
    folder.mkdir()
    tensor = {"datatype": "FP32", "shape": [-1, 2]}
    signature = {"inputs": [{"name": "X", **tensor}], "outputs": [{"name": "Y", **tensor}]}
    text = json.dumps({"format": "dummy", "batchable": batchable, "signature": signature, "options": options})
    (folder / "openmaas.yaml").write_text(text)
    return registry.add(model, folder)


FAILURES: dict[str, tuple[dict[str, Any], str, str]] = {
    "says no when loading": ({"fail_load": "no such weights"}, "load_failed", "no such weights"),
    "dies while loading": ({"die": "exit"}, "crashed", "exit code 139"),
    "dies by a signal": ({"die": "SIGSEGV"}, "crashed", "SIGSEGV"),
    "hangs while loading": ({"load_delay": 60}, "timed_out", "Loading took longer than 5 s"),
    "hangs in a run": ({"delay": 60}, "timed_out", "A run took longer than 5 s"),
    "raises in a run": ({"raises": "no such row"}, "run_failed", "ValueError: no such row"),
    "takes too much memory": ({"allocate": 1 << 46}, "memory_limit", "more memory than there is"),
    "answers NaN": ({"answer": "nan"}, "not_finite", "16 of 16 values of the output 'Y' are NaN"),
    "answers in another shape": ({"answer": "wrong_shape"}, "wrong_shape", "has the shape [8, 3] instead of [-1, 2]"),
    "answers in another type": ({"answer": "wrong_type"}, "wrong_type", "is float64 instead of float32"),
    "answers without an output": ({"answer": "nothing"}, "wrong_shape", "The output 'Y' is missing"),
    "answers something else": ({"factor": 2}, "outside_tolerance", "At batch 1 output 'Y' differs by up to"),
    "mixes its rows": ({"batch_offset": 0.5}, "outside_tolerance", "At batch 8 output 'Y' differs by up to 3.5"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_has_a_name_and_a_cause_and_harms_nobody(name: str, registry: Registry, job: Jobs, tmp_path: Path) -> None:
    behaviour, state, cause = FAILURES[name]
    reference = dummy(registry, tmp_path, variants=[behaviour])
    measurement = run(job("measure", version=reference, seconds=15.0))
    own, *others = measurement.tried
    failed = next(one for one in others if one.choice.options)
    assert (failed.state, failed.rates) == (state, {})
    assert cause in failed.cause
    assert own.state == "fit"
    assert sorted(own.rates) == [1, 8, 32]
    assert sum(one.choice.options == behaviour for one in others) == 1, "it is not tried again with fewer threads"
    best = measurement.best(64)
    assert best is not None
    assert best.choice.label == "dummy"


@pytest.mark.parametrize(
    ("behaviour", "state"),
    [({"fail_load": "no"}, "load_failed"), ({"answer": "nan"}, "not_finite"), ({"answer": "wrong_type"}, "wrong_type")],
)
def test_when_the_version_s_own_engine_fails_nothing_is_recommended(
    behaviour: dict[str, Any], state: str, registry: Registry, job: Jobs, tmp_path: Path
) -> None:
    reference = dummy(registry, tmp_path, **behaviour, variants=[{"answer": "", "fail_load": ""}])
    measurement = run(job("measure", version=reference, seconds=10.0))
    assert [one.state for one in measurement.tried] == [state, "not_compared"]
    assert "gave no answers to compare with" in measurement.tried[1].cause
    assert measurement.best(64) is None


def test_the_fastest_is_found(registry: Registry, job: Jobs, tmp_path: Path) -> None:
    reference = dummy(registry, tmp_path, delay=0.01, variants=[{"delay": 0.0}])
    measurement = run(job("measure", version=reference))
    own, quick = (by_label(measurement)[label] for label in ("dummy", "dummy:delay"))
    assert own.rates[1] < 101  # each run sleeps for 10 ms
    assert own.rates[32] == pytest.approx(32 * own.rates[1], rel=0.5)
    assert quick.rate > 5 * own.rate
    best = measurement.best(1)
    assert best is not None
    assert best.choice.label == "dummy:delay"


def test_its_time_is_bounded(registry: Registry, job: Jobs, tmp_path: Path) -> None:
    """Seven that hang: the first take their third of the time each, the last are not tried at all."""
    hanging = [{"load_delay": 60, f"name{number}": 1} for number in range(7)]
    reference = dummy(registry, tmp_path, variants=hanging)
    measurement = run(job("measure", version=reference, seconds=12.0))
    assert measurement.seconds < 40
    states = [one.state for one in measurement.tried]
    assert states[0] == "fit"
    assert {"timed_out", "not_compared"} <= set(states)
    assert next(one for one in measurement.tried if one.state == "not_compared").cause.startswith("The 12 s")


def test_who_is_too_slow_to_be_timed_says_so(registry: Registry, job: Jobs, tmp_path: Path) -> None:
    work = job("measure", version=dummy(registry, tmp_path), seconds=1.0)
    work.progress = lambda stage, done=0.0, total=0.0: time.sleep(1.1 * stage.startswith("comparing"))  # type: ignore[method-assign]
    measurement = run(work)
    assert measurement.tried[0].state == "not_timed"
    assert measurement.tried[0].cause == "The 1 s of the measurement were over."
    assert measurement.tried[0].comparisons


def test_a_cancelled_job_leaves_no_process(registry: Registry, job: Jobs, tmp_path: Path) -> None:
    work = job("measure", version=dummy(registry, tmp_path))
    seen: list[int] = []

    def progress(stage: str, done: float = 0.0, total: float = 0.0) -> None:
        if stage.startswith("timing"):
            seen.extend(children())
            raise Cancelled("The job is being cancelled.")

    work.progress = progress  # type: ignore[method-assign]
    with pytest.raises(Cancelled):
        measure.run(work)
    assert seen
    assert not set(seen) & set(children())


def children() -> list[int]:
    """Of this process, that are trials."""
    pids = [pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()]
    return [int(pid) for pid in pids if b"openmaas.tasks.trial" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_candidates_that_are_too_large_together_take_turns_in_memory(
    registry: Registry, job: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "free_memory", lambda: 250 << 20)
    monkeypatch.setattr(measure, "_ROUNDS", 1)
    work = job("measure", version=dummy(registry, tmp_path, allocate=60 << 20))
    together: list[int] = []
    work.progress = lambda stage, done=0.0, total=0.0: together.append(len(children()))  # type: ignore[method-assign]
    measurement = run(work)
    assert {one.state for one in measurement.tried} == {"fit"}
    assert all(one.memory > 60 << 20 for one in measurement.tried)
    assert max(together) <= 1


def test_a_version_that_nothing_runs(registry: Registry, job: Jobs, tmp_path: Path) -> None:
    reference = dummy(registry, tmp_path)
    manifest, folder = registry.versions[reference]
    registry.versions[reference] = (msgspec.structs.replace(manifest, engine=""), folder)
    with pytest.raises(InvalidInput, match="No engine here runs dummy:1") as caught:
        measure.run(job("measure", version=reference))
    assert caught.value.next_step == "openmaas convert dummy:1 --to onnx"


def test_no_secret_of_the_job_reaches_the_model(
    registry: Registry, job: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process knows no key: a model may be code that somebody approved."""
    monkeypatch.setenv("OPENMAAS_API_KEY", "omk_secret")
    environments: list[bytes] = []
    work = job("measure", version=dummy(registry, tmp_path))

    def progress(stage: str, done: float = 0.0, total: float = 0.0) -> None:
        environments.extend(Path(f"/proc/{child}/environ").read_bytes() for child in children())

    work.progress = progress  # type: ignore[method-assign]
    measure.run(work)
    assert environments
    assert not any(b"omk_secret" in one for one in environments)


@pytest.mark.parametrize(("cores", "counts"), [(1, (1,)), (2, (2, 1)), (3, (3, 1)), (4, (4, 2, 1)), (64, (64, 32, 1))])
def test_thread_counts(cores: int, counts: tuple[int, ...]) -> None:
    assert measure.thread_counts(cores) == counts

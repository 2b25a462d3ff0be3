"""Many rows answered in batches: order, lengths, what is not finite, and an engine that fails."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import numpy as np
import pytest

from openmaas.core.errors import EngineFailed, Refused
from openmaas.core.manifest import Artifact, EngineChoice, Manifest
from openmaas.core.processing import Embedding, Labels, Padding, TextInput
from openmaas.tasks import serving
from openmaas.tasks.candidate import Candidate, Failed
from openmaas.tasks.examples import Examples
from openmaas.tasks.serving import answer, serving_choice
from tests.unit.tasks.datasets import spec, version

Arrays = dict[str, Any]


class Engine:
    """A Candidate whose answers are a function's. shapes: of the first input of each call."""

    choice = EngineChoice(engine="made-up", artifact=Artifact(kind="dummy", entry="1"))
    patience = 0.0

    def __init__(self, function: Callable[[Arrays], Arrays]) -> None:
        self._function = function
        self.shapes: list[tuple[int, ...]] = []

    def answer(self, inputs: Arrays, step: int) -> Arrays:
        assert step == 0
        self.shapes.append(next(iter(inputs.values())).shape)
        return self._function(inputs)


def examples(lengths: Any = None, **inputs: Any) -> Examples:
    count = len(next(iter(inputs.values())))
    return Examples(inputs=inputs, truth=None, task="agreement", index=np.arange(count), digest="", lengths=lengths)


def run(engine: Engine, manifest: Manifest, given: Examples, **more: Any) -> Arrays:
    return answer(cast(Candidate, engine), manifest, Path(), given, **more)


def test_rows_come_back_in_their_order_and_progress_is_told() -> None:
    engine = Engine(lambda inputs: {"scores": inputs["x"] * 2})
    told: list[tuple[float, float]] = []
    x = np.arange(70, dtype=np.float32).reshape(35, 2)
    found = run(engine, version(spec("x"), spec("scores")), examples(x=x), batch=16, progress=lambda *now: told.append(now))
    np.testing.assert_array_equal(found["scores"], x * 2)
    assert [shape[0] for shape in engine.shapes] == [16, 16, 3]
    assert told == [(0, 35), (16, 35), (32, 35)]


def test_rows_that_share_no_batch_are_answered_one_by_one() -> None:
    import msgspec

    engine = Engine(lambda inputs: {"scores": inputs["x"]})
    alone = msgspec.structs.replace(version(spec("x"), spec("scores")), batchable=False)
    run(engine, alone, examples(x=np.zeros((3, 4), np.float32)))
    assert engine.shapes == [(1, 4)] * 3


def test_sequences_are_answered_by_length_without_padding_that_none_needs() -> None:
    manifest = version(
        (spec("ids", "INT64", -1, -1), spec("mask", "INT64", -1, -1)), spec("states", "FP32", -1, -1, 1),
        output=Embedding(output="states", pooling="max"), padding=Padding(pad={"ids": 0, "mask": 0}),
    )  # fmt: skip
    lengths = np.array([5, 1, 4, 2])
    ids = np.array([[place + 1 if place < length else 0 for place in range(5)] for length in lengths])
    engine = Engine(lambda inputs: {"states": inputs["ids"][..., None].astype(np.float32)})
    found = run(engine, manifest, examples(lengths, ids=ids, mask=(ids > 0).astype(np.int64)), batch=2)
    assert engine.shapes == [(2, 2), (2, 5)]
    assert found["embedding"].ravel().tolist() == [5, 1, 4, 2]


def test_texts_that_may_not_be_padded_share_a_call_with_their_like_only() -> None:
    manifest = version(
        spec("ids", "INT64", -1, -1), spec("logits", "FP32", -1, 1),
        input=TextInput(tensors={"ids": "ids"}), output=Labels(output="logits", labels=("no", "yes"), activation="sigmoid"),
    )  # fmt: skip
    lengths = np.array([3, 1, 3, 1, 1])
    ids = np.array([[place + 1 if place < length else 0 for place in range(3)] for length in lengths])
    engine = Engine(lambda inputs: {"logits": inputs["ids"].mean(axis=1, keepdims=True).astype(np.float32) - 1.5})
    tokenizer = SimpleNamespace(finish=lambda outputs, inputs, options: outputs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serving, "open_processing", lambda *_: tokenizer)
        found = run(engine, manifest, examples(lengths, ids=ids), batch=2)
    assert engine.shapes == [(2, 1), (1, 1), (2, 3)]
    assert found["logits"].ravel().tolist() == [0.5, -0.5, 0.5, -0.5, -0.5]


def test_labels_are_named_as_callers_read_them() -> None:
    manifest = version(spec("x"), spec("scores"), output=Labels(output="scores", labels=("no", "yes"), activation="softmax"))
    engine = Engine(lambda inputs: {"scores": np.array([[0.0, 1.0], [1.0, 0.0]], np.float32)})
    found = run(engine, manifest, examples(x=np.zeros((2, 4), np.float32)))
    assert found["label"].tolist() == [b"yes", b"no"]
    assert found["probabilities"].sum(axis=1).tolist() == pytest.approx([1, 1])


def test_all_answers_that_are_not_finite_are_counted() -> None:
    manifest = version(spec("x"), spec("scores"), output=Labels(output="scores", labels=("no", "yes")))
    engine = Engine(lambda inputs: {"scores": inputs["x"]})
    x = np.zeros((40, 2), np.float32)
    x[[0, 3, 39], 1] = np.nan, np.inf, -np.inf
    with pytest.raises(Refused, match="3 of 40 rows are answered with NaN or Infinity in the output 'scores' by made-up"):
        run(engine, manifest, examples(x=x))


def test_answers_to_other_rows_are_refused() -> None:
    engine = Engine(lambda inputs: {"scores": np.zeros((1, 4), np.float32)})
    with pytest.raises(EngineFailed, match=r"shape \[1, 4\] for 3 rows"):
        run(engine, version(spec("x"), spec("scores")), examples(x=np.zeros((3, 4), np.float32)))


def test_a_failure_keeps_its_name() -> None:
    def fail(inputs: Arrays) -> Arrays:
        raise Failed("memory_limit", "It takes more memory than there is for it.")

    with pytest.raises(EngineFailed, match="made-up cannot answer these rows: It takes more memory") as failed:
        run(Engine(fail), version(spec("x"), spec("scores")), examples(x=np.zeros((3, 4), np.float32)))
    assert failed.value.code == "memory_limit"


def test_the_engine_is_the_fastest_that_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    from openmaas.core.hardware import Processor
    from openmaas.core.measurement import Measurement, Tried

    manifest = version(spec("x"), spec("scores"))
    slow = manifest.choice
    fast, gone = (EngineChoice(engine=name, artifact=slow.artifact) for name in ("fast", "gone"))
    monkeypatch.setattr(serving, "engine_choices", lambda _: [slow, fast])
    monkeypatch.setattr(serving, "usable_cores", lambda: 2)

    def tried(choice: EngineChoice, rate: float) -> Tried:
        return Tried(
            choice=EngineChoice(engine=choice.engine, artifact=choice.artifact, threads=1), state="fit", rates={1: rate}
        )

    measurement = Measurement(
        processor=Processor(model="x", cores=2), sample="given", reference="r",
        tried=(tried(slow, 1), tried(fast, 2), tried(gone, 3)),
    )  # fmt: skip

    def job(found: Any, *serving: dict[str, Any]) -> Any:
        shown = SimpleNamespace(measurement=found, serving=serving)
        return SimpleNamespace(client=SimpleNamespace(show=lambda _: shown))

    chosen = serving_choice(job(measurement.to_json()), "digits:1", manifest)
    assert (chosen.engine, chosen.threads) == ("fast", 1)
    assert serving_choice(job(measurement.to_json()), "digits:1", manifest, "onnxruntime").engine == "onnxruntime"
    own = serving_choice(job(None), "digits:1", manifest)
    assert (own.engine, own.threads) == ("onnxruntime", 2)
    bf16 = EngineChoice(engine="openvino", artifact=slow.artifact, precision="bf16")
    deployed = [
        {"engine": one.label, "deployment": name, "choice": msgspec.to_builtins(one)}
        for one, name in ((bf16, "shop"), (fast, "b"))
    ]
    forced = serving_choice(job(measurement.to_json(), *deployed), "digits:1", manifest)
    assert (forced.label, forced.threads) == ("openvino:bf16", 2), "what serves is measured"
    asked = serving_choice(job(measurement.to_json(), *deployed), "digits:1", manifest, "fast")
    assert (asked.engine, asked.threads) == ("fast", 1)
    note = serving.serving_note(job(None, *deployed), "digits:1", forced)
    assert note.startswith(
        "digits:1 was run by openvino:bf16, by which the deployment 'shop' serves it. Others serve it by fast"
    )
    assert serving.serving_note(job(None), "digits:1", forced) == ""

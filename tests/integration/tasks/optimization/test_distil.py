"""Students on scikit-learn's digits, whose architecture is a graph written by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import helper

from openmaas.core.errors import Refused
from openmaas.core.processing import Embedding, Labels, Processing
from openmaas.core.recipes import Distil, LowRank
from openmaas.tasks.examples import Examples
from openmaas.tasks.optimization.passes import distil, low_rank
from tests.unit.tasks.optimization.graph_models import Arrays, bench, graph, piece_of, run, version

_CLASSES = tuple(map(str, range(10)))


def _digits(rows: int = 300) -> tuple[Any, Any]:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return (x[:rows] / 16).astype(np.float32), y[:rows].astype(np.int64)


def _student(hidden: int = 12, classes: int = 10, seed: int = 0) -> onnx.ModelProto:
    random = np.random.default_rng(seed)
    weights = {
        "w1": random.standard_normal((hidden, 64)), "b1": np.zeros(hidden), "w2": random.standard_normal((classes, hidden)),
        "b2": np.zeros(classes),
    }  # fmt: skip
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], name="first", transB=1),
        helper.make_node("Relu", ["h"], ["r"], name="relu"),
        helper.make_node("Gemm", ["r", "w2", "b2"], ["scores"], name="second", transB=1),
    ]
    plain = {name: array.astype(np.float32) for name, array in weights.items()}
    return graph(nodes, plain, {"x": ["n", 64]}, {"scores": ["n", classes]})


def _examples(truth: bool = True) -> Examples:
    x, y = _digits()
    return Examples(
        inputs={"x": x},
        truth=y if truth else None,
        task="classification",
        classes=_CLASSES,
        index=np.arange(len(x)),
        digest="d",
    )


def _forest(x: Any, y: Any) -> Any:
    from sklearn.ensemble import ExtraTreesClassifier

    model = ExtraTreesClassifier(60, random_state=0).fit(x, y)

    def answer(inputs: Arrays) -> Arrays:
        return {"label": model.predict(inputs["x"]), "probabilities": model.predict_proba(inputs["x"]).astype(np.float32)}

    return answer


def _accuracy(path: Path) -> float:
    x, y = _digits(700)
    return float((run(path, {"x": x[300:]})["scores"].argmax(1) == y[300:]).mean())


def test_a_student_learns_from_trees_alone(tmp_path: Path) -> None:
    model, examples = _student(), _examples(truth=False)
    teacher = _forest(*_digits())
    sources = {"forest:1": version(model, tmp_path / "forest")}
    made = distil.run(
        piece_of(model, tmp_path / "a"),
        Distil(teacher="forest:1", shrink=1, fresh=True, mix=1, temperature=2, epochs=60, learning_rate=1e-2),
        bench(tmp_path, sources, training=examples, teacher=lambda reference: teacher),
    )
    assert _accuracy(made.path) > 0.8 > _accuracy(tmp_path / "a" / "model.onnx")
    assert made.facts["distil"]["teacher"] == "forest:1"
    assert made.facts["distil"]["training"]["rows"] == 270


def test_the_same_seed_makes_the_same_student(tmp_path: Path) -> None:
    model = _student()
    weights = []
    for name, seed in (("one", 3), ("two", 3), ("three", 4)):
        folder = tmp_path / name
        folder.mkdir()
        made = distil.run(
            piece_of(model, folder / "a"), Distil(mix=0, shrink=1, epochs=1), bench(folder, training=_examples(), seed=seed)
        )
        weights.append(made.path.read_bytes())
    assert weights[0] == weights[1] != weights[2]


def test_a_copy_with_half_of_the_channels(tmp_path: Path) -> None:
    model = _student(hidden=24)
    made = distil.run(
        piece_of(model, tmp_path / "a"),
        Distil(shrink=0.5, epochs=1, mix=0.5),
        bench(tmp_path, training=_examples(), teacher=lambda reference: lambda inputs: run(model, inputs)),
    )
    assert made.facts["distil"]["parameters"] == {"before": 64 * 24 + 24 + 240 + 10, "after": 64 * 12 + 12 + 120 + 10}
    assert made.facts["distil"]["teacher"] == "net:1"
    assert run(made.path, {"x": _digits(3)[0]})["scores"].shape == (3, 10)


def test_what_does_not_go_together_is_told_before_any_training(tmp_path: Path) -> None:
    model = _student()
    other = version(_student(classes=9), tmp_path / "nine")
    piece = piece_of(model, tmp_path / "a")
    with pytest.raises(Refused, match=r"outputs of nine:1 are 'scores' FP32 \[-1, 9\]"):
        distil.run(piece, Distil(student="nine:1"), bench(tmp_path, {"nine:1": other}, training=_examples()))
    with pytest.raises(Refused, match="no labels"):
        distil.run(piece, Distil(mix=0.5), bench(tmp_path / "nine", training=_examples(truth=False)))
    with pytest.raises(Refused, match=r"cannot be told which output of nine:1 holds the scores of 10 classes"):
        distil.run(
            piece,
            Distil(teacher="nine:1", shrink=1),
            bench(
                tmp_path / "a",
                {"nine:1": other},
                training=_examples(),
                teacher=lambda reference: lambda inputs: run(other[1] / "model.onnx", inputs),
            ),
        )


def test_numbers_are_learnt_from_teacher_and_truth(tmp_path: Path) -> None:
    model = _student(classes=1)
    x, y = _digits()
    examples = replace(_examples(), truth=y.astype(np.float64), task="regression", classes=())
    made = distil.run(
        piece_of(model, tmp_path / "a"),
        Distil(mix=0.5, shrink=1, fresh=True, epochs=80, learning_rate=3e-2),
        bench(tmp_path, training=examples, teacher=lambda reference: lambda inputs: {"scores": y[:, None].astype(np.float32)}),
    )
    error = run(made.path, {"x": x})["scores"].ravel() - y
    assert np.mean(error**2) < 0.5 * y.var()


def test_vectors_turn_towards_the_teachers(tmp_path: Path) -> None:
    model, examples = _student(classes=6), replace(_examples(truth=False), task="agreement", classes=())
    target = _student(classes=6, seed=5)
    piece = piece_of(model, tmp_path / "a")
    manifest = msgspec.structs.replace(piece.manifest, processing=Processing(output=Embedding(output="scores")))
    made = distil.run(
        replace(piece, manifest=manifest),
        Distil(mix=1, shrink=1, fresh=True, epochs=40, learning_rate=1e-2),
        bench(tmp_path, training=examples, teacher=lambda reference: lambda inputs: run(target, inputs)),
    )
    x = _digits()[0]
    ours, theirs = (run(one, {"x": x})["scores"] for one in (made.path, target))
    cosine = (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    assert cosine.mean() > 0.95


def test_labels_in_the_manifest_stand_for_classes_where_there_is_no_truth(tmp_path: Path) -> None:
    model = _student()
    piece = piece_of(model, tmp_path / "a")
    labels = Labels(output="scores", labels=_CLASSES, activation="softmax")
    manifest = msgspec.structs.replace(piece.manifest, processing=Processing(output=labels))
    made = distil.run(
        replace(piece, manifest=manifest),
        Distil(mix=1, shrink=1, epochs=2, fresh=False),
        bench(
            tmp_path,
            training=replace(_examples(truth=False), task="agreement"),
            teacher=lambda reference: lambda inputs: run(model, inputs),
        ),
    )
    assert made.facts["distil"]["training"]["held_out_loss"][0] == pytest.approx(0, abs=1e-5)  # it is its own teacher


def test_split_layers_are_trained_to_answer_as_the_whole_ones_did(tmp_path: Path) -> None:
    model, examples = _student(hidden=32), replace(_examples(truth=False), task="agreement", classes=())
    off = []
    for number, epochs in enumerate((0, 20)):
        folder = tmp_path / str(number)
        folder.mkdir()
        parameters = LowRank(rank=8, exclude=("second",), epochs=epochs, learning_rate=1e-2)
        made = low_rank.run(piece_of(model, folder / "a"), parameters, bench(folder, training=examples))
        x = {"x": _digits()[0]}
        off.append(float(np.square(run(made.path, x)["scores"] - run(model, x)["scores"]).mean()))
    assert off[1] < off[0] / 2
    assert made.facts["low_rank"]["trained_on"] == "its own earlier answers"
    assert made.facts["low_rank"]["layers"][0]["rank"] == 8

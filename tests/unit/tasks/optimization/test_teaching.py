from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from openmaas.core.errors import Refused
from openmaas.core.manifest import Manifest
from openmaas.core.processing import Labels, Processing
from openmaas.core.recipes import Distil
from openmaas.core.types import Signature
from openmaas.tasks.examples import Examples
from openmaas.tasks.optimization.teaching import scores_of


def _manifest(**labels: Any) -> Manifest:
    return Manifest(
        format="onnx", engine="onnxruntime", entry="m", signature=Signature(inputs=(), outputs=()), files=(),
        processing=Processing(output=Labels(**labels)) if labels else None,
    )  # fmt: skip


def _examples(*classes: str) -> Examples:
    return Examples(
        inputs={"x": np.zeros((2, 1), np.float32)}, truth=np.array([0, 1]), task="classification", classes=classes,
        index=np.arange(2), digest="d",
    )  # fmt: skip


def _softmax(scores: Any) -> Any:
    return np.exp(scores) / np.exp(scores).sum(1, keepdims=True)


def test_probabilities_become_scores_with_the_same_softmax() -> None:
    given = np.float32([[0.7, 0.2, 0.1], [0.0, 0.5, 0.5]])
    scores = scores_of({"label": np.array([0, 1]), "probabilities": given}, _manifest(), _examples("a", "b", "c"), Distil())
    np.testing.assert_allclose(_softmax(scores), given, atol=1e-6)


def test_scores_stay_as_they_are() -> None:
    given = np.float32([[3, -1], [0.5, 0.25]])
    np.testing.assert_array_equal(scores_of({"y": given}, _manifest(), _examples("a", "b"), Distil()), given)


@pytest.mark.parametrize(
    ("labels", "expected"), [({"activation": "sigmoid"}, [0.5, 0.8807971]), ({"probabilities": True}, [0.0, 2.0])]
)
def test_one_number_for_two_classes(labels: dict[str, Any], expected: list[float]) -> None:
    given = np.float32([[0.0], [2.0]]) if "activation" in labels else np.float32([[0.0], [1.0]])
    scores = scores_of({"y": given}, _manifest(output="y", **labels), _examples("no", "yes"), Distil())
    assert scores.shape == (2, 2)
    yes = _softmax(scores)[:, 1]
    np.testing.assert_allclose(yes, expected if "activation" in labels else [0, 1], atol=1e-6)


def test_classes_in_another_order_are_put_in_ours() -> None:
    teacher = _manifest(output="y", labels=("dog", "cat"))
    scores = scores_of({"y": np.float32([[1, 2], [3, 4]])}, teacher, _examples("cat", "dog"), Distil())
    np.testing.assert_array_equal(scores, [[2, 1], [4, 3]])


@pytest.mark.parametrize(
    ("answers", "labels", "told"),
    [
        ({"y": np.zeros((2, 3), np.float32)}, ("a", "b", "c"), "3 classes apart .* the student 2|other classes"),
        ({"y": np.zeros((2, 2), np.float32)}, ("cat", "cow"), r"other classes \(cow, dog\)"),
        ({"y": np.full((2, 2), np.nan, np.float32)}, (), "NaN or Infinity"),
        ({"y": np.zeros((2, 5, 5), np.float32)}, (), r"cannot be told which output .*'y' \[5, 5\]"),
    ],
)
def test_teachers_that_do_not_fit_are_explained(answers: Any, labels: tuple[str, ...], told: str) -> None:
    teacher = _manifest(output="y", labels=labels) if labels else _manifest()
    with pytest.raises(Refused, match=told):
        scores_of(answers, teacher, _examples("cat", "dog"), Distil(teacher="big:1"))

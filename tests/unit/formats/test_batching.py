from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from openmaas.core.errors import EngineFailed
from openmaas.core.types import Signature, TensorSpec
from openmaas.formats.batching import Batching, prove

Arrays = dict[str, Any]
SEVEN = {"x": np.random.default_rng(1).standard_normal((7, 4)).astype(np.float32)}


def signature(inputs: tuple[int, ...] = (-1, 4), outputs: tuple[int, ...] = (-1, 4)) -> Signature:
    return Signature(
        inputs=(TensorSpec(name="x", datatype="FP32", shape=inputs),),
        outputs=(TensorSpec(name="y", datatype="FP32", shape=outputs),),
    )


def verdict(run: Any, seven: Arrays = SEVEN, **shapes: tuple[int, ...]) -> Batching:
    return prove(lambda inputs: {"y": run(inputs["x"])}, signature(**shapes), seven, "given")


def test_rows_that_do_not_see_each_other() -> None:
    found = verdict(lambda x: x * 2)
    assert found.batchable
    assert found.why == "7 rows of the given sample at once, two by two and one by one: largest difference 0."


@pytest.mark.parametrize(
    "run",
    [
        lambda x: x - x.mean(axis=0),
        lambda x: x + len(x),
        lambda x: np.cumsum(x, axis=0),
        lambda x: x[::-1],
        lambda x: np.where(len(x) > 2, x, -x),
        lambda x: x + np.random.default_rng().standard_normal(x.shape),
    ],
)
def test_rows_that_see_each_other(run: Any) -> None:
    found = verdict(run)
    assert not found.batchable
    assert "depends on its batch: output 'y'" in found.why


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (lambda x: x[:1], "shape [1, 4] for 7 rows"),
        (lambda x: x.sum(), "shape [] for 7 rows"),
        (lambda x: x.repeat(len(x), axis=1), "another shape at batch 1"),
    ],
)
def test_answers_of_another_shape(run: Any, words: str) -> None:
    found = verdict(run)
    assert not found.batchable
    assert words in found.why


def test_a_model_that_fails_at_a_batch_size() -> None:
    def run(x: Any) -> Any:
        if len(x) == 2:
            raise EngineFailed("two is too many")
        return x

    assert verdict(run) == Batching(False, "It does not run at every batch size: two is too many")


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({"inputs": (1, 4)}, "Axis 0 of the input 'x' is fixed at 1."),
        ({"outputs": (1, 4)}, "Axis 0 of the output 'y' is fixed at 1."),
        ({"outputs": ()}, "The output 'y' has no axes."),
    ],
)
def test_declared_shapes_that_rule_batches_out(shapes: Any, words: str) -> None:
    assert verdict(lambda x: x, **shapes) == Batching(False, words)


def test_a_model_without_input() -> None:
    found = prove(lambda _: {}, Signature(inputs=(), outputs=()), {}, "given")
    assert found == Batching(False, "The model takes no input.")


def test_equal_rows_prove_nothing() -> None:
    found = verdict(lambda x: x - x.mean(axis=0), {"x": np.ones((7, 4))})
    assert not found.batchable
    assert "Not proved" in found.why


def test_nan_in_the_same_places_is_the_same_answer() -> None:
    assert verdict(lambda x: np.where(x > 0, x, np.nan)).batchable

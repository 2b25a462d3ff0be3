from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from openmaas.core.manifest import Comparison
from openmaas.core.processing import Embedding, Labels, Output
from openmaas.formats.agreement import hold_against, misfit

RNG = np.random.default_rng(11)


def judge(
    actual: Any, expected: Any, precision: str = "bf16", declared: Output | None = None, least: float = 0.9999
) -> tuple[Comparison, str | None]:
    a, b = ({"y": np.asarray(side)} for side in (actual, expected))
    return hold_against(8, a, b, precision=precision, least_cosine=least, declared=declared)


def rounded(array: np.ndarray) -> np.ndarray:
    """As bfloat16 keeps it: 8 bits."""
    import ml_dtypes

    return array.astype(ml_dtypes.bfloat16).astype(np.float32)


def test_the_same_is_the_same() -> None:
    x = RNG.standard_normal((8, 5)).astype(np.float32)
    for precision in ("", "bf16"):
        comparison, wrong = judge(x, x, precision)
        assert wrong is None
        assert (comparison.max_abs_diff, comparison.top1) == (0.0, 1.0)
        assert comparison.cosine == pytest.approx(1.0)


def test_rounding_to_bfloat16_is_in_the_one_tolerance_and_not_in_the_other() -> None:
    x = RNG.standard_normal((32, 384)).astype(np.float32)
    comparison, wrong = judge(rounded(x), x, declared=Embedding(output="y"))
    assert wrong is None
    assert comparison.cosine is not None
    assert 0.9999 < comparison.cosine < 1.0
    assert "differs by up to" in str(judge(rounded(x), x, precision="")[1])


def test_one_row_that_turns_away_is_enough() -> None:
    x = RNG.standard_normal((32, 64)).astype(np.float32)
    y = x.copy()
    y[17] += 0.05 * RNG.standard_normal(64)
    comparison, wrong = judge(y, x)
    assert "has a row of cosine 0.99" in str(wrong)
    assert comparison.cosine is not None
    assert comparison.cosine < 0.9999
    assert judge(y, x, least=0.99)[1] is None


def test_a_row_that_keeps_its_direction_and_not_its_length() -> None:
    x = RNG.standard_normal((4, 64)).astype(np.float32)
    assert "length differs by 5.00%" in str(judge(x * 1.05, x)[1])
    assert judge(x * 1.005, x)[1] is None


class TestLargestValue:
    scores = np.array([[0.1, 0.46, 0.44], [0.2, 0.3, 0.5]], np.float32)
    flipped = np.array([[0.1, 0.445, 0.455], [0.2, 0.3, 0.5]], np.float32)

    def test_another_class_is_wrong_whatever_the_cosine(self) -> None:
        comparison, wrong = judge(self.flipped, self.scores, least=0.99)
        assert "its largest value at another place in 50.0% of the rows" in str(wrong)
        assert comparison.top1 == 0.5

    def test_a_tie_is_none(self) -> None:
        """Two values that bfloat16 cannot tell apart."""
        tie = np.array([[0.1, 0.4501, 0.4499]], np.float32)
        assert judge(tie[:, ::-1][:, [2, 0, 1]], tie)[1] is None

    def test_not_in_a_declared_embedding(self) -> None:
        comparison, wrong = judge(self.flipped, self.scores, least=0.99, declared=Embedding(output="y"))
        assert (comparison.top1, wrong) == (None, None)

    def test_not_in_rows_of_length_one(self) -> None:
        x = RNG.standard_normal((32, 384)).astype(np.float32)
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        assert judge(rounded(x), x)[0].top1 is None

    def test_but_in_certain_probabilities(self) -> None:
        """Their rows have the length one too, and sum to one."""
        certain = np.eye(3, dtype=np.float32)
        comparison, wrong = judge(certain[[1, 0, 2]], certain)
        assert wrong is not None
        assert comparison.top1 == pytest.approx(1 / 3)

    def test_of_each_token_where_labels_are_declared_of_tokens(self) -> None:
        expected = np.array([[[0.9, 0.1], [0.6, 0.4]]], np.float32)
        actual = np.array([[[0.9, 0.1], [0.4, 0.6]]], np.float32)
        labels = Labels(output="y", labels=("a", "b"), tokens=True)
        comparison, wrong = judge(actual, expected, least=0.9, declared=labels)
        assert comparison.top1 == 0.5
        assert wrong is not None
        assert judge(actual, expected, least=0.9)[0].top1 is None

    def test_a_declaration_without_a_name_is_about_the_only_output(self) -> None:
        assert judge(self.flipped, self.scores, least=0.99, declared=Embedding(output=""))[1] is None
        assert judge(self.flipped, self.scores, least=0.99, declared=Embedding(output="other"))[1] is not None


def test_rows_of_one_number_are_held_against_the_largest_of_them() -> None:
    x = np.array([[100.0], [0.001], [-50.0]], np.float32)
    assert judge(x + 1.0, x)[1] is None  # 1% of the largest
    assert "more than 1.41" in str(judge(x + 2.0, x)[1])
    assert judge(x.ravel() + 1.0, x.ravel())[0].cosine is None


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        (np.array([1, 2, 4]), np.array([1, 2, 3])),
        (np.array([True, False]), np.array([True, True])),
        (np.array([b"cat"], object), np.array([b"dog"], object)),
    ],
)
def test_labels_are_equal_or_wrong(actual: np.ndarray, expected: np.ndarray) -> None:
    for precision in ("", "bf16"):
        comparison, wrong = judge(actual, expected, precision)
        assert "values are not the same" in str(wrong)
        assert not comparison.labels_equal
        assert (comparison.cosine, comparison.top1) == (None, None)


def test_zero_rows_and_empty_answers() -> None:
    zero = np.zeros((2, 4), np.float32)
    assert judge(zero, zero)[1] is None
    assert "cosine 0" in str(judge(zero + 1e-3, zero)[1])
    empty = np.zeros((0, 4), np.float32)
    assert judge(empty, empty)[1] is None


def test_huge_and_tiny_rows_have_a_cosine_too() -> None:
    x = RNG.standard_normal((4, 8))
    for scale in (1e300, 1e-300):
        assert judge(x * scale, x * scale)[0].cosine == pytest.approx(1.0)


def test_nan_where_the_reference_has_it() -> None:
    x = np.array([[1.0, np.nan, 3.0]], np.float32)
    assert judge(x, x)[1] is None
    assert misfit({"y": x}, {"y": x}) is None


def test_nan_where_the_reference_has_a_number() -> None:
    x = np.ones((2, 3), np.float32)
    y = x.copy()
    y[1, 1:] = np.nan, np.inf
    assert misfit({"y": y}, {"y": x}) == "2 of 6 values of the output 'y' are NaN or Infinity."


def test_nothing_can_be_said_by_a_reference_without_a_number() -> None:
    x = np.full((2, 3), np.nan, np.float32)
    assert "also in the reference" in str(misfit({"y": x}, {"y": x}))
    assert misfit({"n": np.array([1])}, {"n": np.array([1])}) is None


@pytest.mark.parametrize("precision", ["", "bf16"])
@pytest.mark.parametrize(
    ("actual", "said"), [({"z": np.ones((8, 3))}, "'y' is missing"), ({"y": np.ones((8, 4))}, r"'y' shape \[8, 4\]")]
)
def test_other_outputs_or_shapes_are_wrong(actual: Any, said: str, precision: str) -> None:
    _, wrong = hold_against(8, actual, {"y": np.ones((8, 3))}, precision=precision, least_cosine=0.9999)
    assert wrong is not None
    assert re.search(said, wrong)

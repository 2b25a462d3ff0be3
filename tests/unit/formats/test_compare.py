from __future__ import annotations

import math

import numpy as np
import pytest

from openmaas.formats.compare import UNBOUNDED, compare, difference


def test_equal_answers_differ_by_nothing() -> None:
    a = np.array([[1.0, np.nan, np.inf, -np.inf]], np.float32)
    assert difference(a, a.copy()) == (0.0, 0.0, None)


def test_rounding_is_within_tolerance_and_is_measured() -> None:
    found = difference(np.array([100.001]), np.array([100.0]))
    assert found.reason is None
    assert found.max_abs == pytest.approx(0.001)
    assert found.max_rel == pytest.approx(1e-5)


def test_a_value_near_zero_is_as_exact_as_the_largest_of_its_output() -> None:
    assert difference(np.array([50.0, 3e-4]), np.array([50.0, 0.0])).reason is None
    assert difference(np.array([1.0, 3e-4]), np.array([1.0, 0.0])).reason is not None


@pytest.mark.parametrize(
    ("actual", "expected", "word"),
    [
        (np.zeros((2, 3)), np.zeros((3, 2)), "shape"),
        (np.zeros(2, np.int64), np.zeros(2, np.float32), "type"),
        (np.array([np.nan]), np.array([1.0]), "NaN"),
        (np.array([np.inf]), np.array([-np.inf]), "NaN or Infinity"),
        (np.array([1.0]), np.array([np.inf]), "NaN or Infinity"),
        (np.array([1.01]), np.array([1.0]), "differs"),
        (np.array([1, 2]), np.array([1, 3]), "not the same"),
        (np.array([b"a"], object), np.array([b"b"], object), "not the same"),
        (np.array([True]), np.array([False]), "not the same"),
    ],
)
def test_what_is_out_of_tolerance_says_why(actual: np.ndarray, expected: np.ndarray, word: str) -> None:
    found = difference(actual, expected)
    assert found.reason is not None
    assert word in found.reason
    assert found.max_abs > 0
    assert math.isfinite(found.max_abs)
    assert math.isfinite(found.max_rel)


def test_a_difference_too_large_for_a_float_stays_finite() -> None:
    found = difference(np.array([1.7e308]), np.array([-1.7e308]))
    assert found.max_abs == UNBOUNDED
    assert found.reason


def test_infinities_that_agree_do_not_hide_what_differs() -> None:
    found = difference(np.array([np.inf, np.nan, 1.5]), np.array([np.inf, np.nan, 1.0]))
    assert found.max_abs == 0.5
    assert found.reason


def test_half_precision_has_a_tolerance_of_its_own() -> None:
    assert difference(np.array([1.005], np.float16), np.array([1.0], np.float32)).reason is None
    assert difference(np.array([1.1], np.float16), np.array([1.0], np.float32)).reason is not None


def test_text_is_compared_whatever_holds_it() -> None:
    assert difference(np.array(["é"]), np.array(["é".encode()], object)).reason is None


def test_a_comparison_names_the_output_that_is_worst() -> None:
    comparison, wrong = compare(
        2,
        {"label": np.array([1, 2]), "probabilities": np.array([0.5, 0.5])},
        {"label": np.array([1, 3]), "probabilities": np.array([0.5, 0.5 + 1e-7])},
    )
    assert (comparison.batch, comparison.output, comparison.labels_equal) == (2, "label", False)
    assert wrong is not None
    assert "'label'" in wrong


def test_an_output_that_is_missing_is_wrong() -> None:
    comparison, wrong = compare(1, {}, {"y": np.zeros(1)})
    assert wrong is not None
    assert "missing" in wrong
    assert comparison.max_abs_diff == UNBOUNDED


def test_labels_equal_where_only_numbers_differ() -> None:
    comparison, wrong = compare(1, {"y": np.array([2.0])}, {"y": np.array([1.0])})
    assert comparison.labels_equal
    assert wrong

"""Which column is predicted, and what its values say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openmaas.core.errors import InvalidInput
from tests.unit.formats.datasets.files import examined, read, write_csv, write_jsonl, write_npz

X = np.zeros((4, 2))


@pytest.mark.parametrize("name", ["label", "target", "class", "y", "Label", "Y"])
def test_a_label_is_known_by_its_name(tmp_path: Path, name: str) -> None:
    write_npz(tmp_path, x=X, **{name: np.array([0, 1, 0, 1])})
    assert examined(tmp_path).label == name


def test_a_label_is_what_the_pusher_says(tmp_path: Path) -> None:
    write_npz(tmp_path, x=X, y=np.array([0, 1, 0, 1]), other=np.array([0.5, 1, 2, 3]))
    found = examined(tmp_path, label="other")
    assert (found.label, found.purpose) == ("other", "values") and {column.name for column in found.columns} == {
        "x", "y", "other",
    }  # fmt: skip


def test_a_label_that_is_not_there(tmp_path: Path) -> None:
    write_npz(tmp_path, x=X, y=np.array([0, 1, 0, 1]))
    with pytest.raises(InvalidInput, match=r"no column 'nope' to be the label; there are 'x', 'y'"):
        examined(tmp_path, label="nope")


def test_nothing_but_a_label(tmp_path: Path) -> None:
    write_npz(tmp_path, y=np.array([0, 1]))
    with pytest.raises(InvalidInput, match="no column besides the label"):
        examined(tmp_path)


def test_no_label_is_said(tmp_path: Path) -> None:
    write_npz(tmp_path, a=X, b=X)
    found = examined(tmp_path)
    assert found.purpose == "inputs" and "--label" in found.notes[0]


@pytest.mark.parametrize(
    ("label", "purpose", "classes", "missing", "read_as"),
    [
        ([0, 2, 1, 0], "classes", (), 0, [0, 2, 1, 0]),
        ([0.0, 1.0, np.nan, 1.0], "classes", (), 1, [0, 1, -1, 1]),
        ([0.5, 1.0, np.nan, 2.0], "values", (), 1, [0.5, 1, np.nan, 2]),
        ([-1, 1, -1, 1], "classes", ("-1", "1"), 0, [0, 1, 0, 1]),
        ([-1.0, 1.0, np.nan, 1.0], "classes", ("-1", "1"), 1, [0, 1, -1, 1]),
        ([True, False, True, True], "classes", (), 0, [1, 0, 1, 1]),
        ([10**9, 1, 2, 3], "values", (), 0, [1e9, 1, 2, 3]),
        ([[1], [0], [1], [1]], "classes", (), 0, [1, 0, 1, 1]),
        (["b", "", "a", "b"], "classes", ("a", "b"), 1, [1, -1, 0, 1]),
        (["10", "9", "9", "10"], "classes", ("9", "10"), 0, [1, 0, 0, 1]),
    ],
)
def test_values_of_labels(
    tmp_path: Path, label: Any, purpose: str, classes: tuple[str, ...], missing: int, read_as: list[float]
) -> None:
    write_npz(tmp_path, x=X, label=np.array(label))
    data = read(tmp_path)
    assert (data.manifest.purpose, data.classes, data.manifest.missing) == (purpose, classes, missing)
    np.testing.assert_array_equal(data.label, read_as)
    assert data.labelled.sum() == 4 - missing
    assert sum(data.manifest.counts) == (4 - missing if purpose == "classes" else 0)


def test_whole_floats_are_values_where_there_are_many(tmp_path: Path) -> None:
    write_npz(tmp_path, x=np.zeros((500, 1)), y=np.arange(500.0))
    assert examined(tmp_path).purpose == "values"


def test_it_is_said_that_floats_are_taken_as_classes(tmp_path: Path) -> None:
    write_npz(tmp_path, x=X, y=np.array([1.0, 2.0, 1.0, 2.0]))
    assert "indices of classes, of which 1 have no row" in examined(tmp_path).notes[0]


@pytest.mark.parametrize(
    ("label", "told"),
    [
        ([1.0, np.inf, 0, 0], "infinite in row 1"),
        ([np.nan] * 4, "No row has a label"),
        (["", "", "", ""], "No row has a label"),
        ([[1, 0], [0, 1], [1, 0], [0, 1]], r"shape \[4, 2\]; a row has one value"),
        (["a\x07", "b", "c", "d"], "cannot be a class"),
    ],
)
def test_labels_that_cannot_be(tmp_path: Path, label: Any, told: str) -> None:
    write_npz(tmp_path, x=X, label=np.array(label))
    with pytest.raises(InvalidInput, match=told):
        examined(tmp_path)


def test_prose_is_no_label(tmp_path: Path) -> None:
    write_csv(tmp_path, "x,label", *(f"1,text number {number}" for number in range(10_001)))
    with pytest.raises(InvalidInput, match="10001 different texts"):
        examined(tmp_path)


@pytest.mark.parametrize("names", [("text_a", "text_b"), ("sentence1", "sentence2")])
def test_pairs_with_a_score_are_for_similarity(tmp_path: Path, names: tuple[str, str]) -> None:
    one, other = names
    write_jsonl(tmp_path, *({"id": "x", other: "b", one: "a", "score": score} for score in (5, 0, 3)))
    data = read(tmp_path)
    assert data.manifest.purpose == "similarity" and data.pair == names
    assert data.label is not None and data.label.tolist() == [5, 0, 3] and data.label.dtype == np.float64


def test_pairs_with_a_whole_label_are_classes(tmp_path: Path) -> None:
    write_jsonl(tmp_path, *({"premise": "a", "hypothesis": "b", "label": label} for label in (0, 2, 1)))
    assert examined(tmp_path).purpose == "classes"


def test_a_score_without_a_pair_is_no_label(tmp_path: Path) -> None:
    write_csv(tmp_path, "age,score", "1,2", "3,4")
    assert examined(tmp_path).purpose == "inputs"

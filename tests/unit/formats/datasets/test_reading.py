"""Every format is read as the same kind of columns, and what is read is what was written."""

from __future__ import annotations

import csv
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from openmaas.core.datasets import DatasetManifest
from openmaas.core.errors import InvalidInput, Refused, TooLarge
from openmaas.formats.datasets import read_dataset
from tests.unit.formats.datasets.files import (
    examined,
    manifest_of,
    read,
    write_csv,
    write_image,
    write_jsonl,
    write_npz,
)

X = np.arange(24, dtype=np.float32).reshape(4, 1, 2, 3)


def test_npz(tmp_path: Path) -> None:
    write_npz(tmp_path, x=X, label=np.array([2, 0, 1, 0]))
    data = read(tmp_path)
    assert data.manifest.format == "npz" and data.manifest.purpose == "classes" and data.manifest.label == "label"
    np.testing.assert_array_equal(data.columns["x"], X)
    assert data.columns["x"].dtype == np.float32 and list(data.columns) == ["x"]
    assert data.label is not None and data.label.tolist() == [2, 0, 1, 0] and data.label.dtype == np.int64
    assert data.manifest.counts == (2, 1, 1) and data.classes == ()


@pytest.mark.parametrize("array", [X[::-1], np.asfortranarray(X), X.astype(">f4"), X.astype(np.float16), X > 3])
def test_npz_of_every_layout(tmp_path: Path, array: Any) -> None:
    write_npz(tmp_path, x=array)
    np.testing.assert_array_equal(read(tmp_path).columns["x"], array)


def test_text_in_npz_is_bytes(tmp_path: Path) -> None:
    write_npz(tmp_path, text=np.array(["a", "größer", ""]), y=np.array(["pos", "neg", "pos"]))
    data = read(tmp_path)
    assert data.columns["text"].tolist() == [b"a", "größer".encode(), b""]
    assert data.classes == ("neg", "pos") and data.label is not None and data.label.tolist() == [1, 0, 1]


def test_rows_are_those_asked_for_in_their_order(tmp_path: Path) -> None:
    write_npz(tmp_path, x=X, y=np.array([3, 2, 1, 0]))
    data = read(tmp_path, rows=[3, 1])
    np.testing.assert_array_equal(data.columns["x"], X[[3, 1]])
    assert data.label is not None and data.label.tolist() == [0, 2] and data.index.tolist() == [3, 1] and data.rows == 2


@pytest.mark.parametrize("rows", [[4], [-1]])
def test_rows_that_are_not_there(tmp_path: Path, rows: list[int]) -> None:
    write_npz(tmp_path, x=X)
    with pytest.raises(InvalidInput, match="has 4 rows"):
        read(tmp_path, rows=rows)


def test_csv(tmp_path: Path) -> None:
    write_csv(tmp_path, "width,height,species", "1.5,2,setosa", '3,,"a, b"', "-1e3,4,setosa")
    data = read(tmp_path, label="species")
    assert data.manifest.format == "csv"
    np.testing.assert_array_equal(data.columns["width"], [1.5, 3, -1000])
    np.testing.assert_array_equal(data.columns["height"], [2, np.nan, 4])
    assert data.classes == ("a, b", "setosa")
    assert "The column 'height' has 1 missing values." in data.manifest.notes


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_of_other_delimiters_and_with_a_byte_order_mark(tmp_path: Path, delimiter: str) -> None:
    text = "\ufeffa|b\n1|2\n3|4\n".replace("|", delimiter)
    (tmp_path / "data.csv").write_text(text, "utf-8")
    data = read(tmp_path)
    assert {name: array.tolist() for name, array in data.columns.items()} == {"a": [1, 3], "b": [2, 4]}
    assert data.manifest.purpose == "inputs" and data.label is None and not data.labelled.any()


def test_an_index_without_a_name_is_left_out(tmp_path: Path) -> None:
    write_csv(tmp_path, ",a,y", "0,5,1", "1,6,0")
    data = read(tmp_path)
    assert list(data.columns) == ["a"] and "without a name" in data.manifest.notes[0]


def test_numbers_that_only_python_reads_stay_text(tmp_path: Path) -> None:
    write_csv(tmp_path, "a,b", "1_000,7", "2_000,8")
    assert read(tmp_path).columns["a"].tolist() == [b"1_000", b"2_000"]


def test_whole_numbers_beyond_int64_become_floats(tmp_path: Path) -> None:
    write_csv(tmp_path, "a,b", f"{2**70},7")
    assert read(tmp_path).columns["a"].tolist() == [float(2**70)]


def test_jsonl(tmp_path: Path) -> None:
    write_jsonl(
        tmp_path,
        {"x": [[1, 2], [3, 4]], "text": "one", "flag": True, "label": "a"},
        {"x": [[5, 6], [7, 8]], "flag": False, "label": "b", "late": 1.5},
    )
    data = read(tmp_path)
    assert data.columns["x"].tolist() == [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]
    assert data.columns["text"].tolist() == [b"one", b""] and data.columns["flag"].tolist() == [True, False]
    np.testing.assert_array_equal(data.columns["late"], [np.nan, 1.5])
    assert data.classes == ("a", "b")


def test_parquet(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = arrow.table(
        {
            "number": arrow.array([1, None, 3]),
            "vector": arrow.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]),
            "fixed": arrow.array([[1, 2], [3, 4], [5, 6]], arrow.list_(arrow.int16(), 2)),
            "text": arrow.array(["a", None, "c"]),
            "image": arrow.array([{"bytes": b"\x89PNG1", "path": None}] * 3),
            "when": arrow.array([1, 2, 3], arrow.timestamp("s")),
            "label": arrow.array(["x", "y", None]).dictionary_encode(),
        }
    )
    parquet.write_table(table, tmp_path / "data.bin", row_group_size=2)
    data = read(tmp_path)
    assert data.manifest.format == "parquet"
    np.testing.assert_array_equal(data.columns["number"], [1, np.nan, 3])
    assert data.columns["vector"].tolist() == [[1, 2], [3, 4], [5, 6]]
    assert data.columns["fixed"].tolist() == [[1, 2], [3, 4], [5, 6]]
    assert data.columns["text"].tolist() == [b"a", b"", b"c"]
    assert data.columns["image"].tolist() == [b"\x89PNG1"] * 3
    assert data.label is not None and data.label.tolist() == [0, 1, -1] and data.labelled.tolist() == [True, True, False]
    assert data.manifest.missing == 1 and any("'when'" in note and "left out" in note for note in data.manifest.notes)


def test_parquet_without_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data.parquet").write_bytes(b"PAR1" + bytes(100) + b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(Refused, match="needs pyarrow") as caught:
        examined(tmp_path)
    assert caught.value.next_step is not None and "openmaas[data]" in caught.value.next_step


def test_many_batches_of_parquet_keep_their_order(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    numbers = np.arange(10_000)
    parquet.write_table(arrow.table({"n": numbers, "s": [str(n) for n in numbers]}), tmp_path / "data.parquet")
    data = read(tmp_path, rows=[9_999, 5_000])
    assert data.columns["n"].tolist() == [9_999, 5_000] and data.columns["s"].tolist() == [b"9999", b"5000"]


def test_a_folder_of_images(tmp_path: Path) -> None:
    for name, shade in (("dog/a.png", 1), ("cat/b.png", 2), ("cat/a.png", 3)):
        write_image(tmp_path / name, shade=shade)
    (tmp_path / "README.md").write_text("about")
    data = read(tmp_path)
    assert data.manifest.format == "images" and data.manifest.entry == "" and data.classes == ("cat", "dog")
    wanted = [(tmp_path / name).read_bytes() for name in ("cat/a.png", "cat/b.png", "dog/a.png")]
    assert data.columns["image"].tolist() == wanted
    assert data.label is not None and data.label.tolist() == [0, 0, 1]
    assert read(tmp_path, rows=[2]).columns["image"].tolist() == wanted[2:]
    assert any("README.md" in note for note in data.manifest.notes)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_file_of_images(tmp_path: Path, compression: int) -> None:
    names = ("cat/a.png", "cat/b.png", "dog/a.png")
    with zipfile.ZipFile(tmp_path / "pets.zip", "w", compression) as archive:
        archive.mkdir("cat")
        for shade, name in enumerate(names):
            write_image(tmp_path / "loose" / name, shade=shade)
            archive.write(tmp_path / "loose" / name, name)
        archive.writestr("__MACOSX/cat/._a.png", "resource fork")
    wanted = [(tmp_path / "loose" / name).read_bytes() for name in names]
    shutil.rmtree(tmp_path / "loose")
    data = read(tmp_path)
    assert (data.manifest.format, data.manifest.entry, data.classes) == ("images", "pets.zip", ("cat", "dog"))
    assert data.columns["image"].tolist() == wanted and data.label is not None and data.label.tolist() == [0, 0, 1]
    some = read(tmp_path, rows=[2, 0])
    assert some.columns["image"].tolist() == [wanted[2], wanted[0]] and some.label is not None
    assert some.label.tolist() == [1, 0]


def test_no_rows_of_images(tmp_path: Path) -> None:
    write_image(tmp_path / "cat" / "a.png")
    data = read(tmp_path, rows=[])
    assert data.rows == 0 and data.columns["image"].shape == (0,) and data.label is not None and data.label.shape == (0,)


def test_images_without_folders_are_inputs_only(tmp_path: Path) -> None:
    write_image(tmp_path / "1.png")
    write_image(tmp_path / "2.png")
    data = read(tmp_path)
    assert data.manifest.purpose == "inputs" and data.label is None and data.rows == 2


def test_folders_that_are_numbers_are_in_their_order(tmp_path: Path) -> None:
    for name in ("10", "9", "2"):
        write_image(tmp_path / name / "a.png")
    assert examined(tmp_path).classes == ("2", "9", "10")


def test_running_text(tmp_path: Path) -> None:
    (tmp_path / "story.txt").write_text("Once, upon a time.\n\nThe end.\n", "utf-8")
    data = read(tmp_path)
    assert data.manifest.format == "text" and data.manifest.purpose == "text" and data.rows == 1
    assert data.columns["text"].tolist() == [b"Once, upon a time.\n\nThe end.\n"]


def test_rows_of_text_only_are_running_text(tmp_path: Path) -> None:
    write_jsonl(tmp_path, {"text": "one"}, {"text": "two"})
    assert examined(tmp_path).purpose == "text"


def test_a_table_whose_first_column_begins_like_an_image(tmp_path: Path) -> None:
    write_csv(tmp_path, "BMI,label", "20.5,a", "31,b")
    assert examined(tmp_path).format == "csv"


def test_preview_is_short_and_printable(tmp_path: Path) -> None:
    write_jsonl(tmp_path, *[{"text": "a\u001b[31m" + "b" * 500, "x": [1, 2, 3, 4, 5], "n": 0.1}] * 9)
    preview = examined(tmp_path).preview
    assert len(preview) == 5 and all(len(cell) <= 80 and cell.isprintable() for row in preview for cell in row)
    assert preview[0][1:] == ("5 [1, 2, 3, 4, …]", "0.1")


def test_a_manifest_survives_json(tmp_path: Path) -> None:
    write_csv(tmp_path, "a,label", "inf,x", "2,y")
    manifest = manifest_of(tmp_path)
    assert msgspec.json.decode(manifest.canonical(), type=DatasetManifest).digest == manifest.digest
    assert "The column 'a' has 1 infinite values." in manifest.notes


def test_files_that_do_not_fit_their_manifest(tmp_path: Path) -> None:
    write_npz(tmp_path, x=X)
    manifest = manifest_of(tmp_path)
    write_npz(tmp_path, x=X[:2])
    with pytest.raises(InvalidInput, match="2 rows; the dataset's manifest says 4"):
        read_dataset(manifest, tmp_path)


def test_reading_keeps_to_its_limit(tmp_path: Path) -> None:
    write_npz(tmp_path, x=X)
    with pytest.raises(TooLarge, match="more than 8 bytes"):
        read_dataset(manifest_of(tmp_path), tmp_path, limit=8)


def test_what_the_process_allows_of_a_csv_field_stays_as_it_was(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    write_csv(tmp_path, "a,label", "1,0", "2,1")
    read(tmp_path)
    assert csv.field_size_limit() == before

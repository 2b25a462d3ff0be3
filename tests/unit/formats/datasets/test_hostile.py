"""Files that lie, break off or blow up: an error with evidence, before memory is taken for what they claim."""

from __future__ import annotations

import io
import json
import pickle
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openmaas.core.errors import InvalidInput, OpenMaaSError, TooLarge
from tests.unit.formats.datasets.files import examined, write_csv, write_image, write_jsonl, write_npz


def _npy(shape: str, descr: str = "'<f4'", data: bytes = b"") -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def _zip(folder: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(folder / "data.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (_npy("(1000000000000,)"), "claims"),
        (_npy("(-5, 3)"), "claims|negative"),
        (_npy("(-5, -3)", data=bytes(60)), "negative|reshape|specify"),
        (_npy("(4,)", data=bytes(15)), "claims"),
        (_npy("(3,)", "'|O'", bytes(24)), "Python objects"),
        (_npy("(3,)", "[('a', '<f4')]", bytes(12)), "no tensor"),
        (_npy("(3,)", "'<c16'", bytes(48)), "no tensor"),
        (_npy("(3,)", "'<M8[s]'", bytes(24)), "no tensor"),
        (_npy("(3,)", "'|U0'"), "cannot be read|no arrays"),
        (_npy("().__class__"), "cannot be read"),
        (_npy("3 * ('a',)"), "cannot be read"),
        (b"\x93NUMPY\x01\x00\xff", "cannot be read"),
        (b"nothing", "cannot be read"),
        (b"", "cannot be read"),
    ],
)
def test_arrays_that_are_none(tmp_path: Path, array: bytes, told: str) -> None:
    _zip(tmp_path, {"x.npy": array})
    with pytest.raises(InvalidInput, match=told):
        examined(tmp_path)


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    _zip(tmp_path, {"x.npy": _npy("(10000000,)", data=bytes(40_000_000))})
    assert (tmp_path / "data.npz").stat().st_size < 1_000_000
    tracemalloc.start()
    with pytest.raises(TooLarge, match="10000000 values"):
        examined(tmp_path, limit=30_000_000)
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


def test_many_small_bombs_count_together(tmp_path: Path) -> None:
    _zip(tmp_path, {f"x{number}.npy": _npy("(100000,)", data=bytes(400_000)) for number in range(20)})
    with pytest.raises(TooLarge):
        examined(tmp_path, limit=6_000_000)


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path(tmp_path / "ran").touch, ())

    np.savez(tmp_path / "data.npz", x=np.array([Evil(), Evil()], dtype=object))
    with pytest.raises(InvalidInput, match="Python objects"):
        examined(tmp_path)
    (tmp_path / "data.npz").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(InvalidInput, match="pickle"):
        examined(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_damaged_npz(tmp_path: Path) -> None:
    write_npz(tmp_path, x=np.random.default_rng(0).random((100, 10)))
    whole = (tmp_path / "data.npz").read_bytes()
    for data in (whole[:500], whole[:-30], whole[:400] + b"\xff" * 400 + whole[800:]):
        (tmp_path / "data.npz").write_bytes(data)
        with pytest.raises(InvalidInput, match="cannot be read"):
            examined(tmp_path)


def test_rows_that_differ(tmp_path: Path) -> None:
    write_npz(tmp_path, x=np.zeros((5, 2)), y=np.zeros(4))
    with pytest.raises(InvalidInput, match="'x' 5, 'y' 4"):
        examined(tmp_path)


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["a,b", "1,2", "3"], "Line 3 has 1 fields; the first line names 2"),
        (["a,b", "1,2,3"], "Line 2 has 3 fields"),
        (["a,a", "1,2"], "'a' is there twice"),
        (["1,2", "3,4"], "not column names"),
        (["a,b"], "no rows"),
        (["a,b", '"1,2'], "cannot be read"),
        ([",".join(f"c{number}" for number in range(10_001)), "1"], "more than 10000 columns"),
        (["a,b\x1b[31m", "1,2"], "not a column's name"),
        (["a," + "b" * 300, "1,2"], "not a column's name"),
    ],
)
def test_tables_that_are_none(tmp_path: Path, lines: list[str], told: str) -> None:
    write_csv(tmp_path, *lines)
    with pytest.raises(InvalidInput, match=told):
        examined(tmp_path)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([{"a": 1}, [1]], "Line 2 is not a JSON object"),
        ([{"a": 1}, {"a": "x"}], "mixes kinds of values: text and whole"),
        ([{"a": 1}, {"a": {"b": 1}}], "mixes kinds"),
        ([{"a": [1, 2]}, {"a": [1]}], r"\[2\] in row 0, the shape \[1\] in row 1"),
        ([{"a": [[1, 2], [3]]}], "inner lists differ"),
        ([{"a": ["x"]}], "not all of numbers"),
        ([{"a": [1]}, {"b": 1}], "no list in row 1"),
        ([{"a": 10**400}], "Line 1|too large"),
        ([{f"c{number}": 1 for number in range(10_001)}], "more than 10000 columns"),
        ([{"": 1}], "not a column's name"),
        ([{}, {}], "no rows"),
    ],
)
def test_json_lines_that_are_none(tmp_path: Path, rows: list[Any], told: str) -> None:
    write_jsonl(tmp_path, *rows)
    with pytest.raises(InvalidInput, match=told):
        examined(tmp_path)


@pytest.mark.parametrize(
    "data",
    [b'{"a": NaN}\n', b'{"a": "\\ud800"}\n', b'{"a": 1\n', b'{"a": ' + b"[" * 5000 + b"]" * 5000 + b"}\n", b'{"a": \xff}'],
)
def test_lines_that_are_no_json(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "data.jsonl").write_bytes(data)
    with pytest.raises(InvalidInput):
        examined(tmp_path)


def test_a_column_that_comes_late_is_counted_for_all_rows(tmp_path: Path) -> None:
    last = json.dumps({f"c{number}": 1 for number in range(5000)})
    (tmp_path / "data.jsonl").write_text("{}\n" * 5000 + last)
    with pytest.raises(TooLarge):
        examined(tmp_path, limit=50_000_000)


def test_one_json_list(tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text('[{"a": 1}]')
    with pytest.raises(InvalidInput, match="one object a line"):
        examined(tmp_path)


@pytest.mark.parametrize("data", [b"", b"  \n", b"\x00\x01\x02", b"\xff\xfe\xfa\xfb", b"\x93NUMPY\x01\x00"])
def test_what_is_no_dataset(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "data.bin").write_bytes(data)
    with pytest.raises(InvalidInput, match="None of the files"):
        examined(tmp_path)


def test_several_datasets(tmp_path: Path) -> None:
    write_csv(tmp_path, "a", "1")
    write_jsonl(tmp_path, {"a": 1})
    with pytest.raises(InvalidInput, match=r"2 files of rows in it: 'data.csv' \(csv\), 'data.jsonl' \(jsonl\)"):
        examined(tmp_path)


def test_links_are_refused(tmp_path: Path) -> None:
    write_csv(tmp_path, "a", "1")
    (tmp_path / "link.csv").symlink_to("/etc/passwd")
    with pytest.raises(InvalidInput, match="a link"):
        examined(tmp_path)


# ── Parquet ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_parquet_that_is_broken(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "data.parquet"
    parquet.write_table(arrow.table({"a": list(range(1000))}), path)
    whole = path.read_bytes()
    for data in (whole[:200], whole[:-8] + struct.pack("<I", 2**31) + b"PAR1", whole[:40] + bytes(200) + whole[240:]):
        path.write_bytes(data)
        with pytest.raises(InvalidInput, match="cannot be read"):
            examined(tmp_path)


def test_parquet_that_blows_up(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    long = arrow.DictionaryArray.from_arrays(arrow.array([0] * 50_000, arrow.int32()), arrow.array(["x" * 10_000]))
    parquet.write_table(arrow.table({"a": long}), tmp_path / "data.parquet")
    assert (tmp_path / "data.parquet").stat().st_size < 1_000_000
    arrow.default_memory_pool().release_unused()
    before = arrow.default_memory_pool().max_memory()
    with pytest.raises(TooLarge, match="more than 1000000 bytes"):
        examined(tmp_path, limit=1_000_000)
    assert arrow.default_memory_pool().max_memory() < before + 20_000_000


def test_parquet_with_lists_of_different_lengths(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"a": [[1, 2], [3]]}), tmp_path / "data.parquet")
    with pytest.raises(InvalidInput, match=r"different lengths \(1, 2\)"):
        examined(tmp_path)


# ── images ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _bomb(width: int, height: int) -> bytes:
    """A PNG that says it is so large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(10_000, 10_000), (100_000, 100_000)])
def test_images_that_blow_up(tmp_path: Path, size: tuple[int, int]) -> None:
    (tmp_path / "a.png").write_bytes(_bomb(*size))
    with pytest.raises(InvalidInput, match="pixels"):
        examined(tmp_path)


@pytest.mark.parametrize("name", ["../a.png", "/etc/a.png", "a/../../b.png", "x\\y.png"])
def test_zip_files_whose_members_lie_elsewhere(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr(name, _bomb(4, 4))
    with pytest.raises(InvalidInput, match="not a file path"):
        examined(tmp_path)


def test_a_zip_file_of_images_that_blows_up(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "data.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", b"\x89PNG\r\n\x1a\n" + bytes(40_000_000))
    tracemalloc.start()
    with pytest.raises(TooLarge):
        examined(tmp_path, limit=30_000_000)
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


def test_a_zip_file_of_images_that_is_broken(tmp_path: Path) -> None:
    path = tmp_path / "data.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", _bomb(4, 4))
    whole = path.read_bytes()
    path.write_bytes(whole[:60] + bytes(8) + whole[68:])
    with pytest.raises(InvalidInput, match="cannot be read"):
        examined(tmp_path)


def test_images_that_are_broken(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", size=(64, 64), shade=7)
    whole = (tmp_path / "a.png").read_bytes()
    for data in (whole[:-30], b"\x89PNG\r\n\x1a\nnothing", b"\xff\xd8\xff\xe0nothing"):
        (tmp_path / "a.png").write_bytes(data)
        with pytest.raises(InvalidInput, match=r"'a\.png' cannot be read"):
            examined(tmp_path)


def test_a_file_called_image_that_is_none(tmp_path: Path) -> None:
    write_image(tmp_path / "cat" / "a.png")
    (tmp_path / "cat" / "b.jpg").write_text("<html>not found</html>")
    with pytest.raises(InvalidInput, match=r"called images and are none: 'cat/b\.jpg'"):
        examined(tmp_path)


@pytest.mark.parametrize("paths", [("a.png", "cat/b.png"), ("x/cat/a.png", "x/dog/b.png")])
def test_images_at_odd_depths(tmp_path: Path, paths: tuple[str, str]) -> None:
    for path in paths:
        write_image(tmp_path / path)
    with pytest.raises(InvalidInput, match="depths"):
        examined(tmp_path)


def test_noise_never_ends_otherwise_than_told(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    buffer = io.BytesIO()
    np.savez(buffer, x=random.random((20, 3)), y=np.arange(20))
    whole = buffer.getvalue()
    for _ in range(150):
        data = bytearray(whole)
        for place in random.integers(0, len(data), 4):
            data[place] = random.integers(0, 256)
        (tmp_path / "data.npz").write_bytes(data)
        try:
            examined(tmp_path)
        except OpenMaaSError as error:
            assert error.status in (413, 422, 400)

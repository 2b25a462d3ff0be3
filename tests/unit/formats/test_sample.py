from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from openmaas.core.errors import InvalidInput, TooLarge
from openmaas.core.made_up import MAX_ELEMENTS, make_up
from openmaas.core.types import TensorSpec
from openmaas.formats import sample
from openmaas.formats.sample import MAX_ROWS, fit, read_sample, split_expected, stretch

X = TensorSpec(name="x", datatype="FP32", shape=(-1, 2))


def put(folder: Path, data: bytes | str) -> Path:
    path = folder / "sample"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def npy(array: np.ndarray, **options: bool) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        npy(np.array([[1.0, 2.0], [3.0, 4.0]])),
        npz(whatever=np.array([[1.0, 2.0], [3.0, 4.0]])),
        "[[1, 2], [3, 4]]",
        '{"instances": [[1, 2], [3, 4]]}',
        '{"x": [[1, 2], [3, 4]]}',
        json.dumps({"inputs": [{"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [1, 2, 3, 4]}]}),
        "a,b\n1,2\n3,4\n",
        '\ufeffa,"b c"\r\n1,2\r\n3,4\r\n',
    ],
)
def test_every_kind_of_file_gives_the_same(tmp_path: Path, data: bytes | str) -> None:
    fitted = fit(read_sample(put(tmp_path, data)), [X])
    assert fitted["x"].dtype == np.float32
    assert fitted["x"].tolist() == [[1, 2], [3, 4]]


def test_columns_of_text_and_numbers(tmp_path: Path) -> None:
    arrays = read_sample(put(tmp_path, "age,city\n20,Köln\n,Bonn\n"))
    assert np.isnan(arrays["age"][1, 0])
    assert arrays["city"].tolist() == [["Köln".encode()], [b"Bonn"]]
    specs = [TensorSpec(name="age", datatype="FP32", shape=(-1, 1)), TensorSpec(name="city", datatype="BYTES", shape=(-1, 1))]
    assert fit(arrays, specs)["city"][0, 0] == "Köln".encode()


def test_only_so_many_rows_are_kept(tmp_path: Path) -> None:
    assert len(read_sample(put(tmp_path, npy(np.zeros((5000, 2)))))[""]) == MAX_ROWS


def test_expected_answers_are_apart(tmp_path: Path) -> None:
    arrays = read_sample(put(tmp_path, npz(x=np.zeros((2, 2)), **{"expected/y": np.ones(2)})))
    inputs, expected = split_expected(arrays)
    assert list(inputs) == ["x"]
    assert expected["y"].tolist() == [1, 1]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00\x01",
        npy(np.array([{}], dtype=object), allow_pickle=True),
        npy(np.zeros((3, 2)))[:-5],
        npz(x=np.zeros((3, 2)))[:-30],
        npy(np.zeros(2))[:10],
        npy(np.array(1.0)),
        npy(np.zeros((0, 2))),
        npy(np.zeros(2, dtype=[("a", "f4")])),
        npy(np.array(["2026-01-01"], dtype="M8[D]")),
        npy(np.zeros(2, complex)),
        "[[1, 2], [3]]",
        "[1, [2]]",
        "{}",
        '{"x": {"y": 1}}',
        '{"inputs": [{"name": "x"}]}',
        '{"inputs": [{"name": "x", "shape": [3], "datatype": "FP32", "data": [1]}]}',
        "[" * 100_000,
        '[[1, "a"]]',
        "1,2\n3,4\n",
        "a,a\n1,2\n",
        "a,b\n1\n",
        "a,b\n",
        'a,b\n"1,2\n',
        "[NaN]",
    ],
)
def test_what_is_no_sample_is_refused(tmp_path: Path, data: bytes | str) -> None:
    with pytest.raises(InvalidInput) as caught:
        fit(read_sample(put(tmp_path, data)), [X])
    assert caught.value.code == "invalid_sample"


def test_a_header_that_promises_more_than_the_file_holds(tmp_path: Path) -> None:
    honest = npy(np.zeros((1, 2)))
    for data in (honest.replace(b"(1, 2)", b"(9, 2)"), honest.replace(b"(1, 2), }      ", b"(1, 99999999), }")):
        assert data != honest
        for content in (data, _zipped(data)):
            with pytest.raises(InvalidInput, match="cannot be read"):
                read_sample(put(tmp_path, content))


def _zipped(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x.npy", data)
    return buffer.getvalue()


def test_sizes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "MAX_BYTES", 10_000)
    with pytest.raises(TooLarge, match="10000"):
        read_sample(put(tmp_path, npy(np.zeros(10_000))))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, x=np.zeros(1_000_000))
    with pytest.raises(InvalidInput, match="when unpacked"):
        read_sample(put(tmp_path, buffer.getvalue()))


@pytest.mark.parametrize(
    ("arrays", "spec", "words"),
    [
        ({"a": np.zeros((2, 1)), "b": np.array([[b"x"], [b"y"]], object)}, X, "columns of numbers"),
        ({"": np.zeros((2, 3))}, X, "shape [2, 3]"),
        ({"": np.zeros(2)}, X, "shape [2]"),
        ({"": np.array([[b"a", b"b"]], object)}, X, "not FP32"),
        ({"": np.zeros((2, 2))}, TensorSpec(name="x", datatype="BYTES", shape=(-1, 2)), "not BYTES"),
        ({"": np.full((2, 2), 1.5)}, TensorSpec(name="x", datatype="INT64", shape=(-1, 2)), "values that are not INT64"),
        ({"": np.full((2, 2), 300)}, TensorSpec(name="x", datatype="UINT8", shape=(-1, 2)), "values that are not UINT8"),
        ({"": np.full((2, 2), np.nan)}, TensorSpec(name="x", datatype="INT32", shape=(-1, 2)), "values that are not INT32"),
    ],
)
def test_a_sample_that_does_not_fit_is_told_so(arrays: dict[str, np.ndarray], spec: TensorSpec, words: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        fit(arrays, [spec])
    assert words in caught.value.message


def test_names_that_do_not_fit_are_listed() -> None:
    specs = [X, TensorSpec(name="mask", datatype="FP32", shape=(-1, 2))]
    with pytest.raises(InvalidInput, match="The sample has 'a', 'b'; the model takes 'mask', 'x'"):
        fit({"a": np.zeros((2, 2)), "b": np.zeros((2, 2))}, specs)


def test_a_fixed_batch_takes_as_many_rows() -> None:
    assert fit({"": np.zeros((9, 2))}, [TensorSpec(name="x", datatype="FP32", shape=(4, 2))])["x"].shape == (4, 2)


def test_stretching() -> None:
    arrays = {"x": np.array([[1], [2], [3]])}
    assert stretch(arrays, 2)["x"].ravel().tolist() == [1, 2]
    assert stretch(arrays, 7)["x"].ravel().tolist() == [1, 2, 3, 1, 2, 3, 1]


def test_made_up_input_is_the_same_each_time_and_fits() -> None:
    specs = [
        TensorSpec(name="ids", datatype="INT64", shape=(-1, -1)),
        TensorSpec(name="image", datatype="FP16", shape=(-1, 3, 8, 8)),
        TensorSpec(name="text", datatype="BYTES", shape=(-1,)),
        TensorSpec(name="flag", datatype="BOOL", shape=(2,)),
        TensorSpec(name="b", datatype="BF16", shape=(-1, 2)),
    ]
    one, two = make_up(specs, 7, length=5), make_up(specs, 7, length=5)
    assert {name: array.shape for name, array in one.items()} == {
        "ids": (7, 5),
        "image": (7, 3, 8, 8),
        "text": (7,),
        "flag": (2,),
        "b": (7, 2),
    }
    assert all(np.array_equal(one[name], two[name]) for name in one)
    assert set(one["ids"].ravel()) <= {0, 1}


def test_an_axis_named_like_the_batch_is_as_long() -> None:
    specs = [TensorSpec(name="x", datatype="FP32", shape=(-1, -1, 4))]
    assert make_up(specs, 7, {"x": ("n", "n", "")})["x"].shape == (7, 7, 4)


@pytest.mark.parametrize("shape", [(-1, 1 << 40), (1 << 62, 1 << 62), (-1, MAX_ELEMENTS + 1), (1 << 30,)])
def test_giant_shapes_are_not_made(shape: tuple[int, ...]) -> None:
    with pytest.raises(TooLarge, match="made"):
        make_up([TensorSpec(name="x", datatype="FP32", shape=shape)], 7)

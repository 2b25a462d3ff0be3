from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from openmaas.cli.rows import read_rows
from openmaas.core.errors import InvalidInput
from openmaas.core.types import Signature, TensorSpec

ONE = Signature(inputs=(TensorSpec(name="X", datatype="FP32", shape=(-1, 2)),), outputs=())
TWO = Signature(
    inputs=(TensorSpec(name="age", datatype="INT64", shape=(-1, 1)), TensorSpec(name="city", datatype="BYTES", shape=(-1, 1))),
    outputs=(),
)


def _read(tmp_path: Path, text: str, signature: Signature = ONE) -> Any:
    path = tmp_path / "rows"
    path.write_text(text)
    return read_rows(str(path), lambda: signature)


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("[1, 2]", [1, 2]),
        ("[[1, 2], [3, 4]]", [[1, 2], [3, 4]]),
        ('{"instances": [[1, 2]]}', [[1, 2]]),
        ('{"instances": [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]}', {"a": [1, 2], "b": ["x", "y"]}),
        ('{"inputs": {"X": [[1, 2]]}}', {"X": [[1, 2]]}),
        ('{"X": [[1, 2]]}', {"X": [[1, 2]]}),
        ("a,b\n1,2.5\n3,4\n", [[1, 2.5], [3, 4]]),
    ],
)
def test_each_form_of_rows(tmp_path: Path, text: str, data: Any) -> None:
    assert _read(tmp_path, text) == data


def test_a_tensor_of_the_open_inference_protocol_takes_its_shape(tmp_path: Path) -> None:
    data = _read(tmp_path, '{"inputs": [{"name": "X", "shape": [2, 2], "datatype": "FP32", "data": [1, 2, 3, 4]}]}')
    assert data["X"].tolist() == [[1, 2], [3, 4]]


def test_a_table_whose_columns_are_the_inputs(tmp_path: Path) -> None:
    assert _read(tmp_path, "city,age\nBonn,20\nUlm,30\n", TWO) == {"city": ["Bonn", "Ulm"], "age": [20, 30]}


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("[1, 2]"))
    assert read_rows("-", lambda: ONE) == [1, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2", "is not JSON"),
        ("", "neither JSON nor a CSV table"),
        ("a,b\n1\n", "neither JSON nor a CSV table"),
        ("a,b\n1,x\n", "'x' is not a number"),
        ('{"inputs": [{"name": "X", "shape": [3], "data": [1]}]}', "do not have the shape"),
        ('{"instances": [{"a": 1}, {"b": 1}]}', "differ in their names"),
    ],
)
def test_what_cannot_be_read_is_told(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        _read(tmp_path, text)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="No such file"):
        read_rows(str(tmp_path / "none"), lambda: ONE)

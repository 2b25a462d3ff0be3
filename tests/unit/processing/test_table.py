"""Tables → tensors: what fits, what does not and how that is told, and that the quick way and the careful way agree."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openmaas.core.errors import InvalidInput, OpenMaaSError
from openmaas.core.processing import Column, Fields, TableInput
from openmaas.core.types import DataType, Signature, TensorSpec
from openmaas.processing.table import Tables

AGE = Column(name="age", datatype="INT64")
INCOME = Column(name="net income", datatype="FP32", nullable=True)
CITY = Column(name="city", datatype="BYTES", categories=("Bonn", "Ulm", "日本"))
MEMBER = Column(name="member", datatype="BOOL")


def matrix(*columns: Column, datatype: DataType = "FP32") -> Tables:
    spec = TensorSpec(name="X", datatype=datatype, shape=(-1, len(columns)))
    return Tables(TableInput(columns=columns, tensor="X"), Signature(inputs=(spec,), outputs=()))


def apart(*columns: Column, axes: tuple[int, ...] = (-1, 1)) -> Tables:
    specs = tuple(TensorSpec(name=column.name, datatype=column.datatype, shape=axes) for column in columns)
    return Tables(TableInput(columns=columns), Signature(inputs=specs, outputs=()))


def raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(value if isinstance(value, bytes) else json.dumps(value).encode())


RECORD = {"age": 30, "net income": 1.5, "city": "Ulm", "member": True}


def test_records_rows_and_columns_give_the_same_matrix() -> None:
    table = matrix(AGE, INCOME, CITY, MEMBER)
    expected = [[30.0, 1.5, 1.0, 1.0], [31.0, 2.0, 2.0, 0.0]]
    second = {"member": False, "city": "日本", "net income": 2, "age": 31}
    for rows in (
        raw([RECORD, second]),
        raw([[30, 1.5, "Ulm", True], [31, 2, "日本", False]]),
        raw(b" [ \n" + json.dumps(RECORD).encode() + b", " + json.dumps(second).encode() + b"]"),
        {name: [RECORD[name], second[name]] for name in RECORD},
        Fields(("city", "age", "member", "net income"), (("Ulm", "30", "TRUE", "1.5"), ("日本", " 31 ", "false", "2"))),
    ):
        found = table.prepare(rows).inputs
        assert found["X"].dtype == np.float32
        assert found["X"].tolist() == expected
    assert table.prepare(raw(RECORD)).inputs["X"].tolist() == expected[:1]
    assert table.prepare(raw([30, 1.5, "Ulm", True])).inputs["X"].tolist() == expected[:1]


def test_a_null_is_nan_where_the_column_may_lack_values() -> None:
    table = matrix(AGE, INCOME)
    for rows in (raw([{"age": 1, "net income": None}]), raw([[1, None]]), {"age": [1], "net income": [None]}):
        assert np.isnan(table.prepare(rows).inputs["X"][0, 1])
    assert np.isnan(table.prepare(Fields(("age", "net income"), (("1", ""),))).inputs["X"][0, 1])


@pytest.mark.parametrize("axes", [(-1,), (-1, 1)])
def test_columns_that_are_inputs_of_their_own(axes: tuple[int, ...]) -> None:
    found = apart(AGE, INCOME, CITY, MEMBER, axes=axes).prepare(raw([RECORD, RECORD])).inputs
    assert {name: array.dtype.kind for name, array in found.items()} == {
        "age": "i",
        "net income": "f",
        "city": "O",
        "member": "b",
    }
    assert all(array.shape == (2, *axes[1:]) for array in found.values())
    assert found["city"].ravel().tolist() == [b"Ulm", b"Ulm"]
    assert found["age"].ravel().tolist() == [30, 30]


def test_integers_are_exact() -> None:
    large = Column(name="id", datatype="INT64")
    assert apart(large, AGE).prepare(raw([[2**63 - 1, -(2**63)]])).inputs["id"].item() == 2**63 - 1
    unsigned = Column(name="id", datatype="UINT64")
    assert apart(unsigned, AGE).prepare(raw([[2**64 - 1, 0]])).inputs["id"].item() == 2**64 - 1
    assert matrix(large).prepare(raw([[2**24]])).inputs["X"].item() == 2**24
    assert matrix(large).prepare(raw([[2**40]])).inputs["X"].item() == 2**40, "beyond 2**24 some are exact still"
    for table, value in (
        (matrix(large), 2**24 + 1),
        (matrix(large, datatype="FP64"), 2**53 + 1),
        (matrix(large, datatype="FP16"), 70_000),
    ):
        with pytest.raises(InvalidInput, match=f"hold exactly; {value} came"):
            table.prepare(raw([[value]]))


def test_a_matrix_of_texts() -> None:
    table = matrix(CITY, Column(name="name", datatype="BYTES"), datatype="BYTES")
    assert table.prepare(raw([["Ulm", "Ada"], ["Bonn", ""]])).inputs["X"].tolist() == [[b"Ulm", b"Ada"], [b"Bonn", b""]]


WRONG = [
    ([RECORD, {"age": 30}], "column_missing", ["Row 1", "'net income'", "FP32"]),
    ([{**RECORD, "agee": 3}], "column_unknown", ["Row 0", "'agee'", "'age'"]),
    ([{**RECORD, "": 3}], "column_unknown", ["Row 0", "''"]),
    ([RECORD, {**RECORD, "age": "30"}], "datatype_mismatch", ["Row 1", "'age'", "whole number", "'30' (text)"]),
    ([{**RECORD, "age": 1.5}], "datatype_mismatch", ["Row 0", "'age'", "whole number", "1.5"]),
    ([{**RECORD, "age": True}], "datatype_mismatch", ["'age'", "true came"]),
    ([{**RECORD, "net income": True}], "datatype_mismatch", ["'net income'", "a number", "true came"]),
    ([{**RECORD, "member": 1}], "datatype_mismatch", ["'member'", "true or false", "1 came"]),
    ([{**RECORD, "city": "Paris"}], "not_a_category", ["'city'", "'Bonn', 'Ulm'", "'Paris'"]),
    ([{**RECORD, "city": 1}], "datatype_mismatch", ["'city'", "'Bonn'", "1 came"]),
    ([{**RECORD, "age": None}], "null_not_allowed", ["'age'", "whole number", "null"]),
    ([{**RECORD, "net income": 1e39}], "datatype_mismatch", ["'net income'", "FP32 can hold", "1e+39"]),
    ([{**RECORD, "age": [1]}], "datatype_mismatch", ["'age'", "a list came"]),
    ([{**RECORD, "age": {"a": 1}}], "datatype_mismatch", ["'age'", "an object came"]),
    ([{**RECORD, "age": 10**40}], "datatype_mismatch", ["'age'", "a larger number came"]),
    ([[1, 2.0, "Ulm"]], "ragged_rows", ["Row 0", "3 values", "4 columns"]),
    ([RECORD, 3], "datatype_mismatch", ["Row 1", "an object", "3 came"]),
    ([], "no_rows", []),
    ({"columns": 1}, "column_missing", ["'age'"]),
    (b"[{]", "invalid_json", []),
    (b'[{"age": NaN, "net income": 1, "city": "Ulm", "member": true}]', "invalid_json", []),
    (b"[" * 100_000, "invalid_json", ["too deep"]),
    (b"\xff\xfe", "invalid_json", []),
    (b"", "invalid_json", []),
]  # fmt: skip


@pytest.mark.parametrize(("rows", "code", "words"), WRONG)
def test_what_does_not_fit_is_named(rows: Any, code: str, words: list[str]) -> None:
    with pytest.raises(InvalidInput) as caught:
        matrix(AGE, INCOME, CITY, MEMBER).prepare(raw(rows))
    assert caught.value.code == code
    for word in words:
        assert word in caught.value.message
    assert len(caught.value.message) < 400


@pytest.mark.parametrize(
    ("columns", "code", "words"),
    [
        ({"age": [1, 2], "net income": [1.0]}, "ragged_columns", ["'age' has 2", "'net income' has 1"]),
        ({"age": 3, "net income": [1]}, "datatype_mismatch", ["'age'", "must be a list"]),
        ({"age": "12", "net income": [1, 2]}, "datatype_mismatch", ["'age'", "must be a list"]),
        ({"age": [1]}, "column_missing", ["'net income'"]),
        ({"age": [1, "x"], "net income": [1, 2]}, "datatype_mismatch", ["Row 1", "'age'", "'x'"]),
        ({"age": [1], "net income": [float("nan")]}, "datatype_mismatch", ["Row 0", "'net income'", "nan came"]),
        ({"age": [1], "net income": [float("inf")]}, "datatype_mismatch", ["'net income'", "inf came"]),
        ({"age": [], "net income": []}, "no_rows", []),
    ],
)
def test_columns_that_do_not_fit(columns: Any, code: str, words: list[str]) -> None:
    with pytest.raises(InvalidInput) as caught:
        matrix(AGE, INCOME).prepare(columns)
    assert caught.value.code == code
    for word in words:
        assert word in caught.value.message


@pytest.mark.parametrize("cell", ["", " ", "x", "1.5", "1_000", "１２", "nan", "inf", "-inf", "0x10", "1e400", "9" * 30])
def test_a_field_that_is_no_whole_number(cell: str) -> None:
    with pytest.raises(InvalidInput, match="Row 0, column 'age'"):
        matrix(AGE).prepare(Fields(("age",), ((cell,),)))


@pytest.mark.parametrize("cell", ["x", "1_000", "１２", "nan", "inf", "-Infinity", "0x10", "1e400", "1,5"])
def test_a_field_that_is_no_number(cell: str) -> None:
    with pytest.raises(InvalidInput, match="Row 0, column 'net income'"):
        matrix(INCOME).prepare(Fields(("net income",), ((cell,),)))


def test_a_column_that_is_there_twice() -> None:
    with pytest.raises(InvalidInput, match="'age' is there twice"):
        matrix(AGE).prepare(Fields(("age", "age"), (("1", "2"),)))


_WORDS = st.sampled_from(["Ulm", "Bonn", "x", ""]) | st.text(max_size=3)
_NUMBERS = st.booleans() | st.integers(-(2**65), 2**65) | st.floats()
_CELLS = st.none() | _NUMBERS | _WORDS | st.lists(st.integers(), max_size=2)
_RECORDS = st.lists(
    st.one_of(
        st.fixed_dictionaries({"age": _CELLS, "net income": _CELLS, "city": _CELLS, "member": _CELLS}),
        st.dictionaries(st.sampled_from(["age", "net income", "city", "member", "other", ""]), _CELLS),
        st.lists(_CELLS, max_size=5),
        _CELLS,
    ),
    max_size=4,
)
_TABLES = (matrix(AGE, INCOME, CITY, MEMBER), apart(AGE, INCOME, CITY, MEMBER))


@given(_RECORDS, st.booleans())
@settings(max_examples=400, deadline=None)
def test_any_rows_give_tensors_or_an_error_of_ours(rows: list[Any], joined: bool) -> None:
    table = _TABLES[joined]
    try:
        prepared = table.prepare(msgspec.Raw(msgspec.json.encode(rows)))
    except OpenMaaSError as error:
        assert len(error.message) < 1000
        return
    assert {len(array) for array in prepared.inputs.values()} == {len(rows) if isinstance(rows[0], list | dict) else 1}


@given(st.binary(max_size=60), st.booleans())
@settings(max_examples=300, deadline=None)
def test_any_bytes_give_tensors_or_an_error_of_ours(data: bytes, joined: bool) -> None:
    with pytest.raises(OpenMaaSError):
        _TABLES[joined].prepare(msgspec.Raw(data))


@given(st.lists(st.fixed_dictionaries({
    "age": st.integers(-(2**53), 2**53), "net income": st.none() | st.floats(width=32, allow_nan=False, allow_infinity=False),
    "city": st.sampled_from(CITY.categories or ()), "member": st.booleans(),
}), min_size=1, max_size=5))  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_the_quick_and_the_careful_way_agree(rows: list[dict[str, Any]]) -> None:
    table = matrix(AGE, INCOME, CITY, MEMBER, datatype="FP64")
    quick = table.prepare(raw(rows)).inputs["X"]
    careful = np.array(table._tensors([table._row(index, row) for index, row in enumerate(rows)])["X"])
    assert np.array_equal(quick, careful, equal_nan=True)
    by_column = table.prepare({name: [row[name] for row in rows] for name in rows[0]}).inputs["X"]
    assert np.array_equal(quick, by_column, equal_nan=True)

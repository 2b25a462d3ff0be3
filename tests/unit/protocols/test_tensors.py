"""Tensors on the wire, every datatype both ways, and what a hostile caller may write instead."""

from __future__ import annotations

import math
from typing import Any, get_args

import ml_dtypes
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from openmaas.core.datatypes import numpy_dtype
from openmaas.core.errors import EngineFailed, InvalidInput
from openmaas.core.types import DataType
from openmaas.protocols.tensors import (
    Form,
    all_finite,
    check_inputs,
    datatype_of,
    from_binary,
    from_json,
    json_ready,
    to_binary,
    to_list,
    with_shape,
)
from tests.unit.protocols.bodies import signature

BF16 = np.dtype(ml_dtypes.bfloat16)
NUMBERS = [name for name in get_args(DataType) if name not in ("BYTES", "BF16")]
bounded = settings(max_examples=60, deadline=None, derandomize=True, database=None)
# numpy tells an overflow, and we tell it once more as an error with the input's name
overflow = pytest.mark.filterwarnings("ignore:overflow encountered in cast")


def raw(text: str | bytes) -> msgspec.Raw:
    return msgspec.Raw(text.encode() if isinstance(text, str) else text)


def refused(text: str, datatype: str = "FP32") -> str:
    with pytest.raises(InvalidInput) as caught:
        from_json("x", datatype, raw(text))
    assert caught.value.code == "invalid_data"
    return str(caught.value)


# ── JSON in ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("datatype", "text", "value"),
    [
        ("BOOL", "[true,false]", [True, False]),
        ("UINT8", "[0,255]", [0, 255]),
        ("INT8", "[-128,127]", [-128, 127]),
        ("UINT16", "[65535]", [65535]),
        ("INT16", "[-32768]", [-32768]),
        ("UINT32", "[4294967295]", [4294967295]),
        ("INT32", "[-2147483648]", [-2147483648]),
        ("UINT64", "[18446744073709551615]", [18446744073709551615]),
        ("INT64", "[-9223372036854775808,9223372036854775807]", [-(2**63), 2**63 - 1]),
        ("FP16", "[65504,-0.5,1]", [65504, -0.5, 1]),
        ("FP32", "[3.4e38,1e-45,1]", [np.float32(3.4e38), np.float32(1e-45), 1]),
        ("FP64", "[1.7e308,-1]", [1.7e308, -1]),
        ("BYTES", '["a","","ä\\u0000"]', [b"a", b"", "ä\0".encode()]),
    ],
)
def test_the_ends_of_every_datatype(datatype: str, text: str, value: list[Any]) -> None:
    array = from_json("x", datatype, raw(text))
    assert array.dtype == numpy_dtype(datatype)
    assert array.tolist() == value


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("[]", (0,)),
        ("[1]", (1,)),
        (" [ 1 , 2 ] ", (2,)),
        ("[[1,2],[3,4],[5,6]]", (3, 2)),
        ("\n[\t[ [1] ] ]", (1, 1, 1)),
        ("[[],[]]", (2, 0)),
        ("[" * 32 + "1" + "]" * 32, (1,) * 32),
    ],
)
def test_the_nesting_is_the_shape(text: str, shape: tuple[int, ...]) -> None:
    assert from_json("x", "FP32", raw(text)).shape == shape


@overflow
@pytest.mark.parametrize(
    ("datatype", "text"),
    [
        ("FP32", "[true]"),
        ("FP32", '["1"]'),
        ("FP32", "[null]"),
        ("FP32", "[{}]"),
        ("FP32", "[NaN]"),
        ("FP32", "[Infinity]"),
        ("FP32", "[1e400]"),
        ("FP32", "[1e39]"),
        ("FP32", "[-1e39]"),
        ("FP16", "[65520]"),
        ("FP64", "[1e309]"),
        ("INT64", "[1.5]"),
        ("INT64", "[1.0]"),
        ("INT64", "[true]"),
        ("INT64", "[9223372036854775808]"),
        ("INT64", "[-9223372036854775809]"),
        ("INT64", "[1" + "0" * 5000 + "]"),
        ("INT8", "[128]"),
        ("INT8", "[-129]"),
        ("UINT8", "[256]"),
        ("UINT8", "[-1]"),
        ("UINT64", "[18446744073709551616]"),
        ("BOOL", "[1]"),
        ("BOOL", "[0]"),
        ("BOOL", '["true"]'),
        ("BYTES", "[1]"),
        ("BYTES", "[null]"),
        ("BYTES", '["\\ud800"]'),
        ("FP32", "1"),
        ("FP32", "null"),
        ("FP32", '"[1]"'),
        ("FP32", "{}"),
        ("FP32", "[1,]"),
        ("FP32", "[01]"),
        ("FP32", "[+1]"),
        ("FP32", "[0x1]"),
        ("FP32", "[1"),
        ("FP32", "[" * 33 + "1" + "]" * 33),
    ],
)
def test_what_is_not_strictly_the_datatype_is_refused(datatype: str, text: str) -> None:
    assert "'x'" in refused(text, datatype)


@pytest.mark.parametrize(
    ("datatype", "text"),
    [
        ("FP32", "[[1],[1,2]]"),
        ("FP32", "[[1,2],[1]]"),
        ("FP32", "[[],[1]]"),
        ("BYTES", '[["a"],["b","c"]]'),
        ("BYTES", '[[["a"]],[["b"],["c"]]]'),
        ("INT64", "[[1],[]]"),
    ],
)
def test_ragged_rows_are_refused_with_the_reason(datatype: str, text: str) -> None:
    assert "rows differ in length" in refused(text, datatype)


@pytest.mark.parametrize("text", ["[1,[2]]", "[[1],2]", "[[1],[[2]]]", "[[[1]],[2]]", '[["a"],"b"]'])
def test_rows_of_different_depth_are_refused(text: str) -> None:
    refused(text, "BYTES" if "a" in text else "FP32")


def test_many_rows_are_the_same_as_few_ones() -> None:
    array = np.arange(70_001 * 2, dtype=np.int64).reshape(-1, 2)
    text = msgspec.json.encode(array.tolist())
    assert np.array_equal(from_json("x", "INT64", raw(text)), array)
    assert "rows differ in length" in refused(text[:-1].decode() + ",[1]]", "INT64")
    assert "rows differ in length" in refused("[" + "[1]," * 70_000 + "[1,2]]", "INT64")
    assert "rows differ in length" in refused("[" + "[1]," * 65536 + "[1,2]]", "INT64")


def test_bf16_needs_binary() -> None:
    with pytest.raises(InvalidInput, match="binary"):
        from_json("x", "BF16", raw("[1]"))


def test_an_error_tells_back_little_of_what_came() -> None:
    assert len(refused('["' + "a" * 100_000 + '"]')) < 500
    assert len(refused("[" + "9" * 100_000 + "]", "INT64")) < 500


@pytest.mark.parametrize("datatype", NUMBERS)
def test_json_there_and_back(datatype: str) -> None:
    @bounded
    @given(
        hnp.arrays(
            numpy_dtype(datatype),
            hnp.array_shapes(min_dims=1, max_dims=4, max_side=4),
            elements={"allow_nan": False, "allow_infinity": False} if datatype.startswith("FP") else None,
        )
    )
    def check(array: Any) -> None:
        nested = msgspec.json.encode(array.tolist())
        back = from_json("x", datatype, raw(nested))
        assert back.dtype == array.dtype
        assert back.shape == array.shape
        assert np.array_equal(back, array)
        flat = msgspec.json.encode(to_list("x", array))
        assert np.array_equal(with_shape("x", from_json("x", datatype, raw(flat)), array.shape), array)

    check()


# ── JSON out ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", BF16])
def test_nan_and_infinity_are_an_error_in_json(value: float, dtype: Any) -> None:
    for array in (np.array([1, value], dtype), np.array([1.0] * 100 + [value], dtype)):
        with pytest.raises(EngineFailed) as caught:
            to_list("y", array)
        assert caught.value.code == "not_finite"


def test_many_large_numbers_are_finite_though_their_sum_is_not() -> None:
    assert all_finite(np.full(10, 1.7e308))
    assert all_finite(np.array(3.0))
    assert all_finite(np.empty((0, 3)))
    assert not all_finite(np.array([math.inf, -math.inf]))


def test_text_of_any_kind_goes_out_as_text() -> None:
    for array in (
        np.array([b"\xc3\xa4", b"b"], object),
        np.array(["ä", "b"]),
        np.array(["ä".encode(), b"b"]),
        np.array(["ä", "b"], object),
    ):
        assert to_list("y", array) == ["ä", "b"]
        assert datatype_of(array) == "BYTES"


def test_bytes_that_are_no_text_are_an_error_in_json_and_fine_in_binary() -> None:
    array = np.array([b"\xff"], object)
    with pytest.raises(EngineFailed) as caught:
        to_list("y", array)
    assert caught.value.code == "not_text"
    assert to_binary(array) == b"\x01\0\0\0\xff"


@pytest.mark.parametrize("array", [np.array([1j]), np.array(["2020-01-01"], "M8[D]"), np.array([(1,)], dtype=[("a", "i4")])])
def test_what_the_protocol_cannot_carry_is_an_error_of_the_model(array: Any) -> None:
    with pytest.raises(EngineFailed):
        datatype_of(array)
    with pytest.raises(EngineFailed):
        json_ready("y", array)


def test_bfloat16_becomes_numbers() -> None:
    assert to_list("y", np.array([1.5, -2], BF16)) == [1.5, -2.0]


# ── binary ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("datatype", [*NUMBERS, "BF16"])
def test_binary_there_and_back(datatype: str) -> None:
    dtype = numpy_dtype(datatype)
    array = np.arange(12).astype(dtype).reshape(3, 4)
    blob = to_binary(array)
    assert len(blob) == 12 * dtype.itemsize
    # At an odd place of a larger body, as behind JSON of any length.
    back = from_binary("x", datatype, [3, 4], memoryview(b"?" + blob)[1:])
    assert back.dtype == dtype
    assert np.array_equal(back, array)
    assert datatype_of(back) == datatype
    assert back.flags.aligned
    assert back.flags.writeable  # as those of JSON are: an engine may work in place


def test_nan_passes_in_binary() -> None:
    blob = np.array([math.nan, math.inf], "<f4").tobytes()
    assert to_binary(from_binary("x", "FP32", [2], memoryview(blob))) == blob


def test_big_endian_and_strided_outputs_go_out_little_endian_and_row_major() -> None:
    big = np.arange(6, dtype=">f4").reshape(2, 3)
    assert to_binary(big) == np.arange(6, dtype="<f4").tobytes()
    assert datatype_of(big) == "FP32"
    assert to_list("y", big.T) == [0, 3, 1, 4, 2, 5]
    assert to_binary(np.arange(6, dtype="<i2").reshape(2, 3).T) == np.array([0, 3, 1, 4, 2, 5], "<i2").tobytes()


@bounded
@given(st.lists(st.binary(max_size=20), max_size=20))
def test_bytes_there_and_back(items: list[bytes]) -> None:
    array = np.empty(len(items), object)
    array[:] = items
    blob = to_binary(array)
    assert from_binary("x", "BYTES", [len(items)], memoryview(blob)).tolist() == items


@pytest.mark.parametrize(
    ("shape", "datatype", "blob"),
    [
        ([1], "FP32", b""),
        ([1], "FP32", b"\0" * 3),
        ([1], "FP32", b"\0" * 5),
        ([0], "FP32", b"\0"),
        ([2**40], "FP32", b"\0" * 4),
        ([10**30], "INT8", b"\0"),
        ([2], "BYTES", b"\x01\0\0\0a"),
        ([1], "BYTES", b"\x01\0\0\0ab"),
        ([1], "BYTES", b"\x02\0\0\0a"),
        ([1], "BYTES", b"\xff\xff\xff\xffa"),
        ([1], "BYTES", b"\x01\0\0"),
        ([1], "BYTES", b""),
        ([0], "BYTES", b"\0\0\0\0"),
        ([10**30], "BYTES", b"\0\0\0\0"),
    ],
)
def test_a_blob_of_another_size_is_refused(shape: list[int], datatype: str, blob: bytes) -> None:
    with pytest.raises(InvalidInput) as caught:
        from_binary("x", datatype, shape, memoryview(blob))
    assert caught.value.code == "invalid_size"
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("datatype", ["FP32", "BOOL", "BYTES", "BF16"])
@pytest.mark.parametrize("shape", [[0, 2**62, 2**62], [2**63, 0], [0, 10**30], [0, 2**64, 3]])
def test_a_giant_shape_without_elements_is_refused(datatype: str, shape: list[int]) -> None:
    with pytest.raises(InvalidInput) as caught:
        from_binary("x", datatype, shape, memoryview(b""))
    assert caught.value.code == "shape_mismatch"
    with pytest.raises(InvalidInput):
        with_shape("x", np.empty(0, np.float32), shape)


@pytest.mark.parametrize("byte", [2, 128, 255])
def test_a_bool_is_0_or_1(byte: int) -> None:
    with pytest.raises(InvalidInput, match="neither 0 nor 1"):
        from_binary("x", "BOOL", [2], memoryview(bytes([1, byte])))


# ── against the signature ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("declared", "ok"), [([2, 3], True), ([3, 2], True), ([6], True), ([1, 6, 1], True), ([7], False), ([2, 2], False)]
)
def test_flat_data_fills_a_shape_or_not(declared: list[int], ok: bool) -> None:
    flat = np.arange(6)
    if ok:
        assert with_shape("x", flat, declared).shape == tuple(declared)
    else:
        with pytest.raises(InvalidInput, match="was declared"):
            with_shape("x", flat, declared)


def test_nested_data_must_have_its_shape() -> None:
    with pytest.raises(InvalidInput, match="was declared"):
        with_shape("x", np.zeros((2, 3)), [3, 2])
    with pytest.raises(InvalidInput):
        with_shape("x", np.zeros(4), [-2, -2])


@pytest.mark.parametrize(
    ("inputs", "code"),
    [
        ({}, "input_missing"),
        ({"x": np.zeros((1, 2), np.float32), "q": np.zeros(1)}, "input_unknown"),
        ({"X": np.zeros((1, 2), np.float32)}, "input_missing"),
        ({"x": np.zeros((1, 2), np.float64)}, "datatype_mismatch"),
        ({"x": np.zeros((1, 2), object)}, "datatype_mismatch"),
        ({"x": np.zeros((1, 2), BF16)}, "datatype_mismatch"),
        ({"x": np.zeros((1, 3), np.float32)}, "shape_mismatch"),
        ({"x": np.zeros((2,), np.float32)}, "shape_mismatch"),
        ({"x": np.zeros((1, 1, 2), np.float32)}, "shape_mismatch"),
    ],
)
def test_inputs_that_do_not_fit_are_told_with_both_sides(inputs: dict[str, Any], code: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_inputs(signature(), inputs)
    assert caught.value.code == code


def test_inputs_that_fit() -> None:
    check_inputs(signature(), {"x": np.zeros((0, 2), np.float32)})
    check_inputs(signature(shape=(-1, -1, 3)), {"x": np.zeros((5, 7, 3), np.float32)})
    check_inputs(signature(shape=()), {"x": np.zeros((), np.float32)})


@pytest.mark.parametrize("number", ["3.4028235677973366e+38", "1e39", "-1e300"])
def test_a_number_that_overflows_is_told_and_never_a_warning(number: str) -> None:
    for text in (f"[{number}]", f"[[1.0, {number}]]"):
        with pytest.raises(InvalidInput, match="too large for FP32"):
            from_json("x", "FP32", msgspec.Raw(text.encode()))
    assert Form("FP32", (1,)).array(msgspec.Raw(f"[{number}]".encode())) is None

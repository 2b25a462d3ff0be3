"""Bodies of plain predictions: every form that is documented, and what becomes of everything else."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openmaas.core.errors import EngineFailed, InvalidInput, OpenMaaSError, TooLarge, UnsupportedMedia
from openmaas.core.processing import Column, Fields, ImageInput, TableInput, TextInput
from openmaas.protocols import plain
from openmaas.protocols.forms import MAX_PARTS
from openmaas.protocols.plain import Decoded, PlainDecoder
from tests.unit.protocols.bodies import signature

JSON = "application/json"
TOKENS = signature("INT64", (-1, -1), mask=("INT64", (-1, -1)))
TEXT = PlainDecoder(TOKENS, TextInput(tensors={"x": "ids", "mask": "attention"}))
PAIRS = PlainDecoder(TOKENS, TextInput(pair=True))
IMAGE = PlainDecoder(signature("FP32", (-1, 3, 8, 8)), ImageInput(tensor="x"))
COLUMNS = (Column(name="age", datatype="INT64"), Column(name="city", datatype="BYTES"))
TABLE = PlainDecoder(signature("FP32", (-1, 2)), TableInput(columns=COLUMNS, tensor="x"))
MATRIX = PlainDecoder(signature("FP32", (-1, 2)), None)
STRINGS = PlainDecoder(signature("BYTES", (-1, 1)), None)
WORDS = PlainDecoder(signature("BYTES", (-1, 2)), None)
SEVERAL = PlainDecoder(signature("FP32", (-1, 2, 2), n=("INT64", (-1, 1))), None)
ALL = {
    "text": TEXT,
    "pairs": PAIRS,
    "image": IMAGE,
    "table": TABLE,
    "matrix": MATRIX,
    "strings": STRINGS,
    "words": WORDS,
    "several": SEVERAL,
}


def body(value: Any) -> bytes:
    return value if isinstance(value, bytes) else msgspec.json.encode(value)


def plainly(decoded: Decoded) -> Any:
    """What was decoded, as lists."""
    if decoded.inputs is not None:
        assert decoded.rows is None
        return {name: array.tolist() for name, array in decoded.inputs.items()}
    rows = decoded.rows
    if isinstance(rows, msgspec.Raw):
        return msgspec.json.decode(rows)
    return rows.tolist() if isinstance(rows, np.ndarray) else rows


PNG = b"\x89PNG\x00\xff"
B64 = base64.b64encode(PNG).decode()

FORMS = [
    ("text", "a", [b"a"]),
    ("text", ["a", "é"], [b"a", "é".encode()]),
    ("text", {"text": "a"}, [b"a"]),
    ("text", {"text": ["a", "b"]}, [b"a", b"b"]),
    ("text", [{"text": "a"}, {"text": "b"}], [b"a", b"b"]),
    ("text", {"instances": ["a", "b"]}, [b"a", b"b"]),
    ("text", {"instances": [{"text": "a"}]}, [b"a"]),
    ("text", {"x": [[1, 2]], "mask": [[1, 1]]}, {"x": [[1, 2]], "mask": [[1, 1]]}),
    ("text", [{"x": [1, 2], "mask": [1, 1]}], {"x": [[1, 2]], "mask": [[1, 1]]}),
    ("pairs", {"text": "a", "pair": "b"}, [[b"a", b"b"]]),
    ("pairs", [{"text": "a", "pair": "b"}, {"text": "c", "pair": "d"}], [[b"a", b"b"], [b"c", b"d"]]),
    ("pairs", {"text": [["a", "b"]]}, [[b"a", b"b"]]),
    ("pairs", ["a"], [b"a"]),
    ("image", B64, [PNG]),
    ("image", [B64, "data:image/png;base64," + B64], [PNG, PNG]),
    ("image", {"image": B64}, [PNG]),
    ("image", {"image": [B64, B64]}, [PNG, PNG]),
    ("image", {"image": {"b64": B64}}, [PNG]),
    ("image", {"instances": [{"b64": B64}, {"image": B64}]}, [PNG, PNG]),
    ("image", {"x": [[[[0.0] * 8] * 8] * 3]}, {"x": [[[[0.0] * 8] * 8] * 3]}),
    ("image", [[[0.0] * 8] * 8] * 3, {"x": [[[[0.0] * 8] * 8] * 3]}),
    ("table", {"age": 3, "city": "Ulm"}, {"age": 3, "city": "Ulm"}),
    ("table", [{"age": 3, "city": "Ulm"}], [{"age": 3, "city": "Ulm"}]),
    ("table", {"instances": [[3, "Ulm"]]}, [[3, "Ulm"]]),
    ("table", {"columns": {"age": [3], "city": ["Ulm"]}}, {"age": [3], "city": ["Ulm"]}),
    ("table", {"age": [3], "city": ["Ulm"]}, {"age": [3], "city": ["Ulm"]}),
    ("table", {"x": [[1, 2]]}, {"x": [[1.0, 2.0]]}),
    ("matrix", [1, 2], {"x": [[1.0, 2.0]]}),
    ("matrix", [[1, 2], [3, 4]], {"x": [[1.0, 2.0], [3.0, 4.0]]}),
    ("matrix", {"x": [1, 2]}, {"x": [[1.0, 2.0]]}),
    ("matrix", {"instances": [[1, 2]]}, {"x": [[1.0, 2.0]]}),
    ("matrix", [{"x": [1, 2]}], {"x": [[1.0, 2.0]]}),
    ("strings", "a", {"x": [[b"a"]]}),
    ("strings", ["a", "b"], {"x": [[b"a"], [b"b"]]}),
    ("strings", {"x": ["a"]}, {"x": [[b"a"]]}),
    ("several", {"x": [[1, 2], [3, 4]], "n": [5]}, {"x": [[[1.0, 2.0], [3.0, 4.0]]], "n": [[5]]}),
    ("several", [{"x": [[1, 2], [3, 4]], "n": 5}], {"x": [[[1.0, 2.0], [3.0, 4.0]]], "n": [[5]]}),
]


@pytest.mark.parametrize(("kind", "sent", "found"), FORMS)
def test_every_form_of_json(kind: str, sent: Any, found: Any) -> None:
    assert plainly(ALL[kind].decode(body(sent), JSON)) == found
    spaced = b" \n" + msgspec.json.format(body(sent), indent=1)
    assert plainly(ALL[kind].decode(spaced, "application/vnd.x+json; charset=utf-8")) == found
    assert plainly(ALL[kind].decode(body(sent), "")) == found, "without a Content-Type"


def form(*parts: tuple[str, bytes], boundary: str = "X", end: str = "--X--\r\n") -> bytes:
    return b"".join(f"--{boundary}\r\n{head}\r\n\r\n".encode() + data + b"\r\n" for head, data in parts) + end.encode()


def field(name: str, data: bytes) -> tuple[str, bytes]:
    return f'Content-Disposition: form-data; name="{name}"', data


def file(data: bytes, name: str = "f", kind: str = "image/png") -> tuple[str, bytes]:
    return f'Content-Disposition: form-data; name="{name}"; filename="a.png"\r\nContent-Type: {kind}', data


MULTIPART = "multipart/form-data; boundary=X"
BODIES = [
    ("text", "text/plain", b"a text", [b"a text"]),
    ("text", "text/plain; charset=utf-8", "\ufeffé".encode(), ["é".encode()]),
    ("text", "text/csv", b'text\na\n"b, c"\n', [b"a", b"b, c"]),
    ("text", MULTIPART, form(field("text", b"a"), field("text", b"b")), [b"a", b"b"]),
    ("text", MULTIPART, form(file(b"from a file", kind="text/plain")), [b"from a file"]),
    ("strings", "text/plain", b"a", {"x": [[b"a"]]}),
    ("strings", "text/csv", b"x\na\nb\n", {"x": [[b"a"], [b"b"]]}),
    ("image", "image/png", PNG, [PNG]),
    ("image", "IMAGE/Whatever", PNG, [PNG]),
    ("image", "application/octet-stream", PNG, [PNG]),
    ("image", "", PNG, [PNG]),
    ("image", MULTIPART, form(file(PNG), file(b"\r\n--Y"), field("image", PNG)), [PNG, b"\r\n--Y", PNG]),
    ("table", "text/csv", b"city,age\nUlm,3\nBonn,4\n", Fields(("city", "age"), (("Ulm", "3"), ("Bonn", "4")))),
    ("table", "text/csv", b'\xef\xbb\xbfcity, age\r\n"U,l""m",3\r\n\r\n', Fields(("city", "age"), (('U,l"m', "3"),))),
    ("table", MULTIPART, form(field("age", b"3"), field("city", b"Ulm")), Fields(("age", "city"), (("3", "Ulm"),))),
    ("table", MULTIPART, form(file(b"age,city\n3,Ulm\n", kind="text/csv")), Fields(("age", "city"), (("3", "Ulm"),))),
    (
        "table",
        MULTIPART,
        form(field("age", b"3"), field("city", b"U"), field("age", b"4"), field("city", b"B")),
        Fields(("age", "city"), (("3", "U"), ("4", "B"))),
    ),
    ("matrix", "text/csv", b"a,b\n1,2.5\n3,4\n", {"x": [[1.0, 2.5], [3.0, 4.0]]}),
    ("words", "text/csv", b"a,b\nx,1\n", {"x": [[b"x", b"1"]]}),
    ("matrix", "text/csv", b"1,2.5\n3,4\n", {"x": [[1.0, 2.5], [3.0, 4.0]]}),
]


@pytest.mark.parametrize(("kind", "content_type", "sent", "found"), BODIES)
def test_every_other_body(kind: str, content_type: str, sent: bytes, found: Any) -> None:
    assert plainly(ALL[kind].decode(sent, content_type)) == found


def test_the_texts_are_kept_for_what_points_into_them() -> None:
    assert TEXT.decode(b'["a", "b"]', JSON).texts == ("a", "b")
    assert PAIRS.decode(b'[{"text": "a", "pair": "b"}]', JSON).texts == ("a",)
    assert IMAGE.decode(PNG, "image/png").texts == ()


@pytest.mark.parametrize(
    ("kind", "content_type", "takes"),
    [
        ("text", "image/png", "application/json, text/plain, text/csv, multipart/form-data"),
        ("image", "text/csv", "application/json, image/*, application/octet-stream, multipart/form-data"),
        ("table", "text/plain", "application/json, text/csv, multipart/form-data"),
        ("matrix", "image/png", "application/json, text/csv"),
        ("several", "text/csv", "application/json"),
        ("several", MULTIPART, "application/json"),
        ("text", "application/x-www-form-urlencoded", "application/json"),
        ("text", "text/html", "application/json"),
        ("text", "nonsense", "application/json"),
    ],
)
def test_what_a_model_cannot_take_gets_what_it_takes(kind: str, content_type: str, takes: str) -> None:
    with pytest.raises(UnsupportedMedia) as caught:
        ALL[kind].decode(b"x", content_type)
    assert takes in caught.value.message and caught.value.status == 415
    assert "Content-Type: application/json" in (caught.value.next_step or "")


WRONG = [
    ("text", JSON, b"", "JSON"),
    ("text", JSON, b"NaN", "JSON"),
    ("text", JSON, b"3", "'3' came"),
    ("text", JSON, b"null", "came"),
    ("text", JSON, b"[]", "no rows"),
    ("text", JSON, b'["a", 3]', "Row 1: expected a text; a number came"),
    ("text", JSON, b'{"txet": "a"}', "'txet'; the model takes 'text'"),
    ("text", JSON, b'{"text": "a", "other": 1}', "unknown field 'other'"),
    ("text", JSON, b'[{"text": "a"}, {}]', "Row 1 lacks 'text'"),
    ("text", JSON, b'[{"text": "a"}, 3]', "Row 1 must be an object; a number came"),
    ("text", JSON, b'{"text": {"a": 1}}', "Row 0: expected a text; an object came"),
    ("text", JSON, b'{"instances": 3}', "Expected a list of rows; a number came"),
    ("text", JSON, b"[" * 100_000, "too deep"),
    ("text", JSON, b'["' + b"\xff" + b'"]', "JSON"),
    ("text", "text/plain", b"\xff", "not UTF-8 text: byte 0xff at 0"),
    ("text", "text/csv", b"a,b\n1,2\n", "expected one column 'text'"),
    ("text", MULTIPART, form(field("other", b"a")), "unknown field 'other'"),
    ("image", JSON, b'["!!!"]', "Row 0: the image is not valid base64"),
    ("image", JSON, b'[3, "a"]', "came|FP32|shape|expected"),
    ("image", JSON, b'{"image": [3]}', "Row 0: expected an image in base64; a number came"),
    ("image", JSON, b'{"b64": 3}', "expected an image in base64"),
    ("image", MULTIPART, form(field("size", b"3")), "unknown field 'size'; expected 'image'"),
    ("image", MULTIPART, form(end="--X--\r\n"), "no parts|broken"),
    ("image", MULTIPART, form(file(PNG), end=""), "cut short"),
    ("image", MULTIPART, b"nonsense", "broken"),
    ("image", "multipart/form-data", form(file(PNG)), "boundary"),
    ("image", MULTIPART, form(("Content-Disposition: form-data", PNG)), "Part 0 of the form has no name"),
    ("image", MULTIPART, form(("X-Other: 1", PNG)), "no name"),
    ("image", MULTIPART, form((f"{field('f', b'')[0]}\r\nContent-Transfer-Encoding: base64", PNG)), "transfer encoding"),
    (
        "table",
        MULTIPART,
        form(field("age", b"3"), field("age", b"4"), field("city", b"U")),
        "'age' came 2 times, 'city' 1 times",
    ),
    ("table", MULTIPART, form(field("age", b"3"), file(b"x")), "one CSV file, or fields"),
    ("table", "text/csv", b"age,city\n1\n", "Line 2 of the CSV table has 1 fields; its first has 2"),
    ("table", "text/csv", b'age,city\n1,"2\n', "Line 2 of the CSV table is broken"),
    ("table", "text/csv", b"age,city\n1," + b"x" * 200_000, "field larger than field limit"),
    ("table", JSON, b'{"columns": [1]}', "must be an object of lists; a list came"),
    ("matrix", JSON, b"[1, 2, 3]", r"must have shape \[-1, 2\]"),
    ("matrix", JSON, b'[1, "a"]', "'x' .FP32."),
    ("matrix", JSON, b'{"y": [1, 2]}', "'y' is unknown"),
    ("matrix", JSON, b'{"x": [1, 2], "y": 1}', "'y' is unknown"),
    ("matrix", JSON, b'"a"', "text came"),
    ("matrix", "text/csv", b"a,b\n1,x\n", "Row 0, field 1: expected a number .FP32.; 'x' came"),
    ("matrix", "text/csv", b"a,b\n1,nan\n", "field 1: expected a number"),
    ("matrix", "text/csv", b"a,b\n1,1e39\n", "too large for FP32"),
    ("matrix", "text/csv", b"a,b\n", "no rows"),
    ("matrix", "text/csv", b"", "no rows"),
    ("words", "text/csv", b"a,b\n", "no rows"),
    ("words", "text/csv", b"a,b,c\nx,y,z\n", "shape"),
    ("several", JSON, b'{"x": [[1, 2], [3, 4]]}', "'n' is missing"),
    ("several", JSON, b"[[1, 2]]", "several inputs"),
]


@pytest.mark.parametrize(("kind", "content_type", "sent", "message"), WRONG)
def test_what_does_not_fit_is_told(kind: str, content_type: str, sent: bytes, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        ALL[kind].decode(sent, content_type)
    assert len(caught.value.message) < 600


def test_limits_of_forms_and_tables() -> None:
    with pytest.raises(TooLarge, match=f"more than {MAX_PARTS} parts"):
        TEXT.decode(form(*[field("text", b"a")] * (MAX_PARTS + 1)), MULTIPART)
    with pytest.raises(TooLarge, match="columns"):
        TABLE.decode(b"a," * 20_000, "text/csv")
    with pytest.raises(InvalidInput, match="broken"):
        TEXT.decode(form(("X: " + "x" * 10_000, b"")), MULTIPART)
    with pytest.raises(InvalidInput, match="broken"):
        TEXT.decode(form(("\r\n".join(f"X-{n}: 1" for n in range(100)), b"")), MULTIPART)
    with pytest.raises(UnsupportedMedia, match="latin-1"):
        TEXT.decode(b"a", "text/plain; charset=latin-1")


# ── KServe V1 ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("kind", "sent", "found"),
    [
        ("text", {"instances": ["a"]}, [b"a"]),
        ("text", {"instances": [{"text": "a"}]}, [b"a"]),
        ("text", {"instances": [{"x": [1], "mask": [1]}]}, {"x": [[1]], "mask": [[1]]}),
        ("text", {"inputs": {"x": [[1]], "mask": [[1]]}}, {"x": [[1]], "mask": [[1]]}),
        ("image", {"instances": [{"b64": B64}]}, [PNG]),
        ("table", {"instances": [{"age": 3, "city": "U"}]}, [{"age": 3, "city": "U"}]),
        ("table", {"instances": [[1, 2]]}, {"x": [[1.0, 2.0]]}),
        ("matrix", {"instances": [[1, 2]]}, {"x": [[1.0, 2.0]]}),
        ("strings", {"instances": ["a"]}, None),
    ],
)
def test_kserve_instances(kind: str, sent: Any, found: Any) -> None:
    if found is None:  # what the protocol always took, and takes as it did
        with pytest.raises(InvalidInput, match="shape"):
            ALL[kind].decode_v1(body(sent))
    else:
        assert plainly(ALL[kind].decode_v1(body(sent))) == found


# ── fuzz ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

_LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4)
_KEYS = st.sampled_from(["text", "pair", "image", "b64", "instances", "columns", "inputs", "age", "city", "x", "n", ""])
_VALUES = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS, inner, max_size=3), max_leaves=12
)


@given(st.sampled_from(sorted(ALL)), _VALUES, st.booleans())
@settings(max_examples=600, deadline=None)
def test_any_json_gives_rows_or_an_error_of_ours(kind: str, value: Any, v1: bool) -> None:
    decoder = ALL[kind]
    try:
        decoded = decoder.decode_v1(body(value)) if v1 else decoder.decode(body(value), JSON)
    except OpenMaaSError as error:
        assert error.status == 400 and len(error.message) < 1000
    else:
        assert (decoded.rows is None) is not (decoded.inputs is None)


_TYPES = st.sampled_from(
    [
        JSON,
        "text/plain",
        "text/csv",
        "image/png",
        "application/octet-stream",
        MULTIPART,
        "",
        "x/y",
        'multipart/form-data; boundary=""',
    ]
)
_SNIPPETS = st.lists(
    st.sampled_from(
        [
            b"--X\r\n",
            b"--X--",
            b"\r\n",
            b'Content-Disposition: form-data; name="text"',
            b"Content-Type: text/csv",
            b"a,b\n",
            b'"',
            b"[",
            b"{",
            b"1",
        ]
    )
    | st.binary(max_size=5),
    max_size=15,
).map(b"".join)


@given(st.sampled_from(sorted(ALL)), _TYPES | st.text(max_size=20), _SNIPPETS)
@settings(max_examples=800, deadline=None)
def test_any_body_gives_rows_or_an_error_of_ours(kind: str, content_type: str, data: bytes) -> None:
    try:
        decoded = ALL[kind].decode(data, content_type)
    except OpenMaaSError as error:
        assert error.status in (400, 413, 415)
    else:
        assert (decoded.rows is None) is not (decoded.inputs is None)


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_object_a_row() -> None:
    outputs: Any = {"y": np.array([[1.0, 2.0], [3.0, 4.0]], np.float32), "label": np.array([b"a", "é".encode()], object)}
    rows = plain.rows_of(outputs, batchable=True)
    assert rows == [{"y": [1.0, 2.0], "label": "a"}, {"y": [3.0, 4.0], "label": "é"}]
    assert plain.rows_of(outputs, batchable=False) == [{"y": [[1.0, 2.0], [3.0, 4.0]], "label": ["a", "é"]}]
    assert plain.rows_of({"a": np.float64(1), "b": np.zeros(2)}, batchable=True) == [{"a": 1.0, "b": [0.0, 0.0]}]  # type: ignore[dict-item]
    with pytest.raises(EngineFailed, match="NaN"):
        plain.rows_of({"y": np.array([np.nan])}, batchable=True)
    answer = plain.encode("m", 7, rows, ({"row": 0, "truncated": True},))
    assert msgspec.json.decode(answer) == {
        "model": "m",
        "version": 7,
        "predictions": rows,
        "notes": [{"row": 0, "truncated": True}],
    }

"""KServe V1: instances as rows or objects, inputs as columns, predictions back."""

from __future__ import annotations

import random
from typing import Any

import ml_dtypes
import msgspec
import numpy as np
import pytest

from openmaas.core.errors import EngineFailed, InvalidInput
from openmaas.core.types import Signature, TensorSpec
from openmaas.protocols.kserve import decode_predict, encode_predict
from tests.unit.protocols.bodies import signature

TWO = signature(z=("BYTES", (-1,)))


def decode(value: Any, sig: Signature | None = None) -> dict[str, Any]:
    content = value if isinstance(value, bytes) else msgspec.json.encode(value)
    return {name: array.tolist() for name, array in decode_predict(content, sig or signature()).items()}


@pytest.mark.parametrize(
    "request_body",
    [
        {"instances": [[1, 2], [3, 4]]},
        {"instances": [{"x": [1, 2]}, {"x": [3, 4]}]},
        {"inputs": [[1, 2], [3, 4]]},
        {"inputs": {"x": [[1, 2], [3, 4]]}},
        {"instances": [[1, 2], [3, 4]], "parameters": {"mine": 1}},
        b' \n{ "instances" :\t[ {"x": [1, 2]} , {"x":[3,4]}]}',
    ],
)
def test_rows_objects_and_columns_say_the_same(request_body: Any) -> None:
    assert decode(request_body) == {"x": [[1, 2], [3, 4]]}


def test_several_inputs_by_row_or_by_column() -> None:
    by_row = {"instances": [{"x": [1, 2], "z": "a"}, {"z": "b", "x": [3, 4]}]}
    by_column = {"inputs": {"z": ["a", "b"], "x": [[1, 2], [3, 4]]}}
    assert decode(by_row, TWO) == decode(by_column, TWO) == {"x": [[1, 2], [3, 4]], "z": [b"a", b"b"]}


def test_a_column_of_scalars_fits_an_input_with_one_column() -> None:
    sig = Signature(inputs=(TensorSpec(name="x", datatype="INT64", shape=(-1, 1)),), outputs=())
    assert decode({"instances": [{"x": 1}, {"x": 2}]}, sig) == {"x": [[1], [2]]}
    assert decode({"instances": [{"x": [1]}, {"x": [2]}]}, sig) == {"x": [[1], [2]]}


@pytest.mark.parametrize(
    ("request_body", "code"),
    [
        (b"", "invalid_json"),
        (b"[]", "invalid_json"),
        (b"{}", "invalid_json"),
        (b"\xff", "invalid_json"),
        (b'{"instances":[{"\xff":1}]}', "invalid_json"),
        (b'{"inputs":{"\xff":1}}', "invalid_json"),
        ({"instance": [[1, 2]]}, "invalid_json"),
        ({"instances": [[1, 2]], "inputs": [[1, 2]]}, "invalid_json"),
        ({"instances": {}}, "invalid_json"),
        ({"instances": [{"x": [1, 2]}, 5]}, "invalid_json"),
        ({"instances": 1}, "invalid_data"),
        ({"instances": None}, "invalid_data"),
        ({"instances": "x"}, "invalid_data"),
        ({"instances": []}, "shape_mismatch"),
        ({"instances": [1, 2]}, "shape_mismatch"),
        ({"instances": [[1, 2], [3]]}, "invalid_data"),
        ({"instances": [[True, 2]]}, "invalid_data"),
        ({"instances": [[None, 2]]}, "invalid_data"),
        ({"instances": [{}]}, "input_missing"),
        ({"instances": [{"x": [1, 2]}, {"y": 1}]}, "input_unknown"),
        ({"instances": [{"x": [1, 2], "q" * 100_000: 1}]}, "input_unknown"),
        ({"instances": [{"x": [1, 2]}, {"x": [1]}]}, "invalid_data"),
        ({"inputs": {}}, "input_missing"),
        ({"inputs": {"q": [1]}}, "input_unknown"),
        ({"inputs": {"x": 1}}, "invalid_data"),
        (b'{"instances":' + b"[" * 100_000, "invalid_json"),
        (b'{"instances":[{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}]}", "invalid_json"),
    ],
)
def test_what_is_wrong_is_told(request_body: Any, code: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        decode(request_body)
    assert caught.value.code == code
    assert len(str(caught.value)) < 1000


def test_rows_without_names_need_a_model_with_one_input() -> None:
    for request_body in ({"instances": [[1, 2]]}, {"inputs": [[1, 2]]}):
        with pytest.raises(InvalidInput, match="several inputs"):
            decode(request_body, TWO)


def test_predictions() -> None:
    def said(outputs: Any, batchable: bool = True) -> Any:
        return msgspec.json.decode(encode_predict(outputs, batchable))["predictions"]

    assert said({"y": np.float32([[1, 2], [3, 4]])}) == [[1, 2], [3, 4]]
    assert said({"label": np.array([b"a", b"b"], object), "p": np.float64([[0.5], [1]])}) == [
        {"label": "a", "p": [0.5]},
        {"label": "b", "p": [1.0]},
    ]
    assert said({"a": np.int8([1, 2]), "b": np.int8([3])}) == {"a": [1, 2], "b": [3]}
    assert said({"a": np.int8([1]), "b": np.int8([3])}, batchable=False) == {"a": [1], "b": [3]}
    assert said({"y": np.array(3.0)}) == 3.0
    assert said({"y": np.empty((0, 2))}) == []
    assert said({"y": np.array([1.5], ml_dtypes.bfloat16)}) == [1.5]


@pytest.mark.parametrize("shape", [(70_000,), (70_001, 1), (3, 30_000), (1, 70_000), (40_000, 2, 1)])
def test_large_predictions_are_the_same_as_small_ones(shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape)).reshape(shape)
    assert msgspec.json.decode(encode_predict({"y": array}, True)) == {"predictions": array.tolist()}


@pytest.mark.parametrize(
    "value", [np.float32([np.nan]), np.array([np.nan], ml_dtypes.bfloat16), np.array([b"\xff"], object), np.array([1j])]
)
def test_what_json_cannot_carry_is_an_error_of_the_model(value: Any) -> None:
    with pytest.raises(EngineFailed):
        encode_predict({"y": value}, True)


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_thousands_of_broken_bodies_are_answered_with_an_error_of_ours() -> None:
    source = random.Random(3)
    seeds = [
        b'{"instances":[{"x":[1,2],"z":"a"},{"x":[3,4],"z":"b"}]}',
        b'{"inputs":{"x":[[1,2]],"z":["a"]}}',
        b'{"instances":[[1,2]]}',
    ]
    pieces = [b"[", b"]", b"{", b"}", b'"', b"1e999", b"null", b"true", b"\xff", b"\0", b",", b":", b'"x"']
    for _ in range(4000):
        changed = bytearray(source.choice(seeds))
        for _ in range(source.randint(1, 3)):
            at = source.randrange(len(changed) + 1)
            changed[at : at + source.choice([0, 1, 5])] = source.choice([*pieces, source.randbytes(2)])
        for sig in (TWO, signature()):
            try:
                decode_predict(bytes(changed), sig)
            except InvalidInput:
                continue

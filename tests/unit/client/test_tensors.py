from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from openmaas.client.tensors import as_inputs, decode_answer, encode_request
from openmaas.core.errors import InvalidInput, OpenMaaSError
from openmaas.core.manifest import Manifest
from openmaas.core.types import Signature, TensorSpec
from openmaas.protocols.oip import decode_infer, encode_infer


def signature(*inputs: tuple[str, str, tuple[int, ...]]) -> Signature:
    specs = tuple(TensorSpec(name=name, datatype=datatype, shape=shape) for name, datatype, shape in inputs)  # type: ignore[arg-type]
    return Signature(inputs=specs, outputs=())


ROWS = signature(("X", "FP32", (-1, 3)))


@pytest.mark.parametrize("data", [[[1, 2, 3]], [1, 2, 3], np.array([1.0, 2.0, 3.0]), {"X": [[1, 2, 3]]}])
def test_what_people_write_becomes_the_declared_type_and_rank(data: Any) -> None:
    array = as_inputs(data, ROWS)["X"]
    assert array.dtype == np.float32
    assert array.tolist() == [[1.0, 2.0, 3.0]]


def test_a_list_of_values_is_a_column_where_one_is_declared() -> None:
    columns = signature(("age", "INT64", (-1, 1)), ("city", "BYTES", (-1, 1)))
    inputs = as_inputs({"age": [20, 30], "city": ["Bonn", "Ulm"]}, columns)
    assert inputs["age"].tolist() == [[20], [30]]
    assert inputs["city"].tolist() == [[b"Bonn"], [b"Ulm"]]


def test_a_data_frame_gives_its_columns_or_its_values() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"age": [20, 30], "city": ["Bonn", "Ulm"]})
    inputs = as_inputs(frame, signature(("age", "INT64", (-1, 1)), ("city", "BYTES", (-1, 1))))
    assert inputs["city"].tolist() == [[b"Bonn"], [b"Ulm"]]
    values = as_inputs(pandas.DataFrame({"a": [1.0], "b": [2.0], "c": [3.0]}), ROWS)
    assert values["X"].tolist() == [[1.0, 2.0, 3.0]]


@pytest.mark.parametrize(
    ("datatype", "values", "message"),
    [
        ("INT64", [1.5], "cannot hold 1.5"),
        ("UINT8", [300], "cannot hold 300"),
        ("INT32", [float("nan")], "cannot hold nan"),
        ("FP16", [1e9], "cannot hold"),
        ("FP32", ["a"], "the values given are text"),
        ("BYTES", [1], "text or bytes"),
        ("FP32", [[1], [1, 2]], "differ in length"),
        ("FP32", [None], "of mixed types"),
    ],
)
def test_a_value_that_the_type_cannot_hold_is_refused(datatype: str, values: list[Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        as_inputs(values, signature(("X", datatype, (-1,))))


def test_infinity_and_nan_stay_what_they_are() -> None:
    array = as_inputs([float("inf"), float("nan")], signature(("X", "FP32", (-1,))))["X"]
    assert np.isinf(array[0])
    assert np.isnan(array[1])


def test_names_that_do_not_fit_are_told_with_those_that_do() -> None:
    two = signature(("a", "FP32", (-1,)), ("b", "FP32", (-1,)))
    with pytest.raises(InvalidInput, match=r"2 inputs: 'a' FP32\[-1\], 'b'"):
        as_inputs([1.0], two)
    with pytest.raises(InvalidInput, match="given were 'a', 'c'"):
        as_inputs({"a": [1.0], "c": [1.0]}, two)


@pytest.mark.parametrize("datatype", ["BOOL", "UINT8", "INT64", "FP16", "FP32", "FP64", "BF16", "BYTES"])
@pytest.mark.parametrize("binary", [True, False])
def test_the_server_reads_what_we_send_and_we_what_it_sends(datatype: str, binary: bool) -> None:
    spec = signature(("X", datatype, (-1, 2)))
    values: Any = [["a", "é"]] if datatype == "BYTES" else [[True, False]] if datatype == "BOOL" else [[1, 2]]
    inputs = as_inputs(values, spec)
    body, json_size = encode_request(inputs, spec)
    request = decode_infer(body, json_size, spec)
    assert request.binary_default
    assert request.inputs["X"].tolist() == inputs["X"].tolist()
    request.binary_default = binary
    answer = encode_infer("m", "1", request, request.inputs)
    decoded = decode_answer(answer.body, answer.json_size)["X"]
    assert decoded.dtype == inputs["X"].dtype
    assert decoded.tolist() == inputs["X"].tolist()
    assert decoded.flags.writeable


@pytest.mark.parametrize("body", [b"", b"{}", b'{"outputs": [{"name": "a", "datatype": "FP32", "shape": [3], "data": [1]}]}'])
def test_an_answer_that_is_none_is_told(body: bytes) -> None:
    with pytest.raises(OpenMaaSError, match="not an inference response"):
        decode_answer(body, -1)


def test_the_manifest_s_signature_is_understood() -> None:
    from openmaas.client.predictions import decode_signature

    manifest = Manifest(format="onnx", engine="onnxruntime", entry="m", signature=ROWS, files=())
    import msgspec

    assert decode_signature(msgspec.to_builtins(manifest)) == ROWS

"""Open Inference Protocol bodies: what clients send, what they get, and what a typing error or an attacker may send instead."""

from __future__ import annotations

import random
from typing import Any

import ml_dtypes
import msgspec
import numpy as np
import pytest

from openmaas.core.errors import EngineFailed, InvalidInput
from openmaas.core.manifest import Manifest
from openmaas.core.types import Signature, TensorSpec
from openmaas.protocols import oip
from openmaas.protocols.oip import InferDecoder, InferRequest, decode_infer, encode_infer
from tests.unit.protocols.bodies import binary, body, signature, tensor

ROW = tensor([1, 2], "FP32", [1, 2])


def refused(content: bytes, json_size: int = -1, sig: Signature | None = None) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        decode_infer(content, json_size, sig or signature())
    assert len(str(caught.value)) < 1500
    return caught.value


# ── JSON ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("data", [[1, 2, 3, 4], [[1, 2], [3, 4]]])
def test_data_may_be_flat_or_nested(data: list[Any]) -> None:
    request = decode_infer(body(tensor([2, 2], "FP32", data)), -1, signature())
    assert request.inputs["x"].tolist() == [[1, 2], [3, 4]]
    assert (request.id, request.wanted, request.binary_default, request.timeout) == (None, None, False, None)


def test_everything_that_a_request_may_hold() -> None:
    content = body(
        ROW | {"parameters": {"note": "mine"}},
        id="r-1",
        parameters={"binary_data_output": True, "timeout": 1_500_000, "my_own": [1]},
        outputs=[{"name": "y", "parameters": {"binary_data": False}}],
    )
    request = decode_infer(content, -1, signature())
    assert (request.id, request.wanted, request.binary, request.timeout) == ("r-1", ("y",), {"y": False}, 1.5)


def test_several_inputs_in_any_order() -> None:
    sig = signature(z=("INT64", (-1,)))
    for tensors in ((ROW, tensor([1], "INT64", [7], "z")), (tensor([1], "INT64", [7], "z"), ROW)):
        inputs = decode_infer(body(*tensors), -1, sig).inputs
        assert inputs["z"].tolist() == [7]
        assert inputs["x"].tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "invalid_json"),
        (b"null", "invalid_json"),
        (b"[]", "invalid_json"),
        (b"{}", "invalid_json"),
        (b'{"inputs":{}}', "invalid_json"),
        (b'{"inputs":[]}', "input_missing"),
        (b'{"inputs":[]} x', "invalid_json"),
        (b'\xef\xbb\xbf{"inputs":[]}', "invalid_json"),
        (b'{"inputs":[{"name":"\xff"}]}', "invalid_json"),
        (b'{"\xff":1}', "invalid_json"),
        (b'{"input":[]}', "invalid_json"),
        (body(ROW | {"datatpye": "FP32"}), "invalid_json"),
        (body(ROW, output=[]), "invalid_json"),
        (body(ROW, outputs=[{"name": "y", "binary": True}]), "invalid_json"),
        (body(ROW, id=7), "invalid_json"),
        (body(ROW | {"name": 1}), "invalid_json"),
        (body(ROW | {"shape": [True, 2]}), "invalid_json"),
        (body(ROW | {"shape": [1.0, 2]}), "invalid_json"),
        (body(ROW | {"shape": "12"}), "invalid_json"),
        (body(ROW | {"shape": [-1, 2]}), "shape_mismatch"),
        (body(ROW | {"shape": [-1, -2]}), "shape_mismatch"),
        (body(ROW | {"shape": [1, 3]}), "shape_mismatch"),
        (body(ROW | {"shape": [2, 1]}), "shape_mismatch"),
        (body(ROW | {"shape": [1] * 33}), "shape_mismatch"),
        (body(ROW | {"shape": [0, 2**62, 2**62], "data": []}), "shape_mismatch"),
        (b'{"inputs":[{"name":"x","datatype":"FP32","data":[],"shape":[0,1' + b"0" * 400 + b"]}]}", "shape_mismatch"),
        (b'{"inputs":[{"name":"x","datatype":"FP32","data":[],"shape":[-1' + b"0" * 400 + b"]}]}", "shape_mismatch"),
        (body(ROW | {"datatype": "FP64"}), "datatype_mismatch"),
        (body(ROW | {"datatype": "fp32"}), "unknown_datatype"),
        (body(ROW | {"name": "q"}), "input_unknown"),
        (body(ROW | {"name": "q" * 100_000}), "input_unknown"),
        (body(ROW, ROW), "input_twice"),
        (body(ROW, ROW | {"name": "q"}), "input_unknown"),
        (body(tensor([1, 2], "FP32")), "invalid_data"),
        (body(ROW | {"data": None}), "invalid_data"),
        (body(ROW, outputs=[{"name": "q"}]), "output_unknown"),
        (body(ROW, outputs=[{"name": "y", "parameters": {"binary_data": 1}}]), "invalid_parameter"),
        (body(ROW, parameters={"binary_data_output": "yes"}), "invalid_parameter"),
        (body(ROW, parameters={"binary_data_output": "y" * 100_000}), "invalid_parameter"),
        (body(ROW, parameters={"timeout": -1}), "invalid_parameter"),
        (body(ROW, parameters={"timeout": True}), "invalid_parameter"),
        (body(ROW, parameters={"timeout": 1.5}), "invalid_parameter"),
        (body(ROW, parameters={"timeout": "1"}), "invalid_parameter"),
        (body(ROW)[:-1] + b',"parameters":{"timeout":' + b"9" * 400 + b"}}", "invalid_parameter"),
        (body(ROW, parameters={"sequence_id": 1}), "parameter_not_supported"),
        (body(ROW, parameters={"priority": 1}), "parameter_not_supported"),
        (body(ROW | {"parameters": {"shared_memory_region": "r"}}), "parameter_not_supported"),
        (body(ROW, outputs=[{"name": "y", "parameters": {"classification": 2}}]), "parameter_not_supported"),
        (b'{"inputs":' + b"[" * 100_000, "invalid_json"),
        (b'{"inputs":[],"parameters":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}", "invalid_json"),
        (
            b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":' + b"[" * 100_000 + b"]" * 100_000 + b"}]}",
            "invalid_json",
        ),
    ],
)
def test_what_is_wrong_is_told_and_nothing_is_guessed(content: bytes, code: str) -> None:
    assert refused(content).code == code


def test_a_timeout_of_0_is_none() -> None:
    assert decode_infer(body(ROW, parameters={"timeout": 0}), -1, signature()).timeout is None


def test_no_outputs_asked_for_means_all() -> None:
    assert decode_infer(body(ROW, outputs=[]), -1, signature()).wanted is None


def test_very_many_inputs_are_refused_before_they_are_read() -> None:
    many = (
        b'{"inputs":['
        + b",".join(b'{"name":"q%d","shape":[1],"datatype":"FP32","data":[1]}' % n for n in range(50_000))
        + b"]}"
    )
    assert refused(many).code == "input_unknown"


# ── the short way ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_short_way_refuses_and_accepts_just_as_the_long_one() -> None:
    """Each body is decoded by a decoder that knows its form, and by a fresh one: same arrays, or the same error."""
    data: list[Any] = [
        [1, 2],
        [[1, 2]],
        [1.5, 2],
        [True, 2],
        ["1", 2],
        [None, 2],
        [1],
        [1, 2, 3],
        [[1], [2]],
        [[1, 2], [3, 4]],
        [],
        [[]],
    ]
    data += [[[[1, 2]]], [1, [2]], [1e39, 1], [-1, 300], [2**70, 1], {}, 1, "x", None]
    for datatype, good in (("FP32", [1, 2]), ("INT8", [1, 2]), ("BOOL", [True, False]), ("UINT64", [1, 2]), ("FP16", [1, 2])):
        sig = signature(datatype)
        experienced = InferDecoder(sig)
        experienced.decode(body(tensor([1, 2], datatype, good)), -1)
        for one in [*data, good, [good]]:
            for shape in ([1, 2], [2, 1], [2, 2], [2], [-1, 2]):
                content = msgspec.json.encode({"inputs": [{"name": "x", "shape": shape, "datatype": datatype, "data": one}]})
                assert outcome(experienced, content) == outcome(InferDecoder(sig), content), content


def outcome(decoder: InferDecoder, content: bytes) -> Any:
    try:
        with np.errstate(over="ignore"):
            request = decoder.decode(content, -1)
    except InvalidInput as error:
        return error.code, error.message
    return {name: (array.dtype, array.shape, array.tolist()) for name, array in request.inputs.items()}


def test_the_short_way_needs_every_input_once() -> None:
    sig = signature(z=("FP32", (-1,)))
    decoder = InferDecoder(sig)
    other = tensor([1], "FP32", [3], "z")
    decoder.decode(body(ROW, other), -1)
    for tensors in ((ROW,), (ROW, ROW), (ROW, other, other), (other, other)):
        with pytest.raises(InvalidInput):
            decoder.decode(body(*tensors), -1)
    assert decoder.decode(body(other, ROW), -1).inputs["z"].tolist() == [3]


def test_a_decoder_remembers_a_bounded_number_of_forms() -> None:
    decoder = InferDecoder(signature(shape=(-1,)))
    for count in range(1, 1200):
        assert decoder.decode(body(tensor([count], "FP32", [0] * count)), -1).inputs["x"].shape == (count,)
    assert len(decoder._known) <= 1024


# ── binary ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_blobs_follow_in_the_order_of_the_tensors() -> None:
    content, size = binary(([1, 2], "FP32", np.float32([1, 2]).tobytes()), ([2], "BYTES", b"\1\0\0\0a\0\0\0\0"))
    inputs = decode_infer(content, size, signature(z=("BYTES", (-1,)))).inputs
    assert inputs["x"].tolist() == [[1, 2]]
    assert inputs["z"].tolist() == [b"a", b""]


def test_json_and_binary_may_be_mixed() -> None:
    head = body(tensor([1], "INT64", [5], "z"), tensor([1, 2], "FP32", parameters={"binary_data_size": 8}))
    inputs = decode_infer(head + np.float32([1, 2]).tobytes(), len(head), signature(z=("INT64", (-1,)))).inputs
    assert (inputs["z"].tolist(), inputs["x"].tolist()) == ([5], [[1, 2]])


def test_all_json_with_a_length_is_fine() -> None:
    content = body(ROW)
    assert decode_infer(content, len(content), signature()).inputs["x"].tolist() == [[1, 2]]


def test_bf16_comes_and_goes_in_binary_only() -> None:
    array = np.array([[1.5, -2]], ml_dtypes.bfloat16)
    content, size = binary(([1, 2], "BF16", array.tobytes()))
    request = decode_infer(content, size, signature("BF16"))
    answer = encode_infer("m", "1", request, {"y": request.inputs["x"]})
    assert answer.body[answer.json_size :] == array.tobytes()


BLOB = np.float32([1, 2]).tobytes()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda content, size: (content, size + len(content)), "invalid_size"),
        (lambda content, size: (content, 10**18), "invalid_size"),
        (lambda content, size: (content, size - 1), "invalid_json"),
        (lambda content, size: (content, size + 1), "invalid_json"),
        (lambda content, size: (content, -1), "invalid_json"),
        (lambda content, size: (content[:-1], size), "invalid_size"),
        (lambda content, size: (content + b"x", size), "invalid_size"),
    ],
)
def test_a_length_that_does_not_fit_is_refused(change: Any, code: str) -> None:
    assert refused(*change(*binary(([1, 2], "FP32", BLOB)))).code == code


@pytest.mark.parametrize("size", [-1, 9, 7, True, "8", 8.0, None, [8], 10**400, 2**63])
def test_a_blob_size_that_is_none_is_refused(size: Any) -> None:
    text = str(10**400) if size == 10**400 else msgspec.json.encode(size).decode()
    head = b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","parameters":{"binary_data_size":' + text.encode() + b"}}]}"
    assert refused(head + BLOB, len(head)).code in ("invalid_size", "invalid_data")


def test_data_and_a_blob_at_once_are_refused() -> None:
    head = body(ROW | {"parameters": {"binary_data_size": 8}})
    assert refused(head + BLOB, len(head)).code == "invalid_data"


@pytest.mark.parametrize("shape", [[0, 2**62, 2**62], [2**63, 0], [0, 10**40]])
def test_giant_shapes_without_elements_are_refused_in_binary_too(shape: list[int]) -> None:
    head = b'{"inputs":[{"name":"x","shape":%s,"datatype":"FP32","parameters":{"binary_data_size":0}}]}' % str(shape).encode()
    assert refused(head, len(head), signature(shape=(-1,) * len(shape))).code == "shape_mismatch"


# ── raw ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("shape", "size", "found"),
    [
        ((-1, 2), 24, (3, 2)),
        ((3, 2), 24, (3, 2)),
        ((-1, -1), 8, (1, 2)),
        ((2, -1), 24, (2, 3)),
        ((-1,), 0, (0,)),
        ((-1, 2), 0, (0, 2)),
    ],
)
def test_the_shape_of_a_raw_body_is_found_from_its_size(shape: tuple[int, ...], size: int, found: tuple[int, ...]) -> None:
    request = decode_infer(bytes(size), 0, signature(shape=shape))
    assert request.inputs["x"].shape == found
    assert request.binary_default


@pytest.mark.parametrize(
    ("sig", "size", "code"),
    [
        (signature(), 15, "invalid_size"),
        (signature(shape=(3, 2)), 8, "invalid_size"),
        (signature(shape=(-1, -1, -1)), 8, "raw_not_possible"),
        (signature("BYTES"), 8, "raw_not_possible"),
        (signature(z=("FP32", (1,))), 8, "raw_not_possible"),
        (signature(shape=(-1, 0)), 8, "invalid_size"),
    ],
)
def test_a_raw_body_that_fits_nothing(sig: Signature, size: int, code: str) -> None:
    assert refused(bytes(size), 0, sig).code == code


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def read(answer: oip.InferResponse) -> tuple[dict[str, Any], bytes]:
    size = len(answer.body) if answer.json_size < 0 else answer.json_size
    return msgspec.json.decode(answer.body[:size]), answer.body[size:]


def test_an_answer_in_json() -> None:
    answer = encode_infer("m", "3", InferRequest({}, id="r"), {"y": np.float32([[1, 2.5]]), "n": np.array(["a"])})
    assert answer.json_size == -1
    assert read(answer)[0] == {
        "model_name": "m",
        "model_version": "3",
        "id": "r",
        "outputs": [
            {"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.5]},
            {"name": "n", "datatype": "BYTES", "shape": [1], "data": ["a"]},
        ],
    }


def test_an_answer_without_rows_keeps_its_fields() -> None:
    said, _ = read(encode_infer("m", "1", InferRequest({}, id=""), {"y": np.empty((0, 2), np.float32)}))
    assert said["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [0, 2], "data": []}]
    assert said["id"] == ""


def test_an_answer_in_part_binary_in_the_caller_s_order() -> None:
    request = InferRequest({}, wanted=("b", "a"), binary={"b": True, "a": False})
    said, blobs = read(encode_infer("m", "1", request, {"a": np.int64([1]), "b": np.float32([2]), "c": np.float32([3])}))
    assert said["outputs"] == [
        {"name": "b", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": 4}},
        {"name": "a", "datatype": "INT64", "shape": [1], "data": [1]},
    ]
    assert blobs == np.float32([2]).tobytes()


def test_nan_is_an_error_in_json_and_passes_in_binary() -> None:
    outputs = {"y": np.float32([np.nan])}
    with pytest.raises(EngineFailed) as caught:
        encode_infer("m", "1", InferRequest({}), outputs)
    assert caught.value.code == "not_finite"
    _, blobs = read(encode_infer("m", "1", InferRequest({}, binary_default=True), outputs))
    assert np.isnan(np.frombuffer(blobs, "<f4")).all()


def test_an_output_that_the_model_did_not_give_is_the_model_s_error() -> None:
    with pytest.raises(EngineFailed) as caught:
        encode_infer("m", "1", InferRequest({}, wanted=("y",)), {"other": np.float32([1])})
    assert caught.value.code == "output_missing"


# ── any bytes ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_thousands_of_broken_bodies_are_answered_with_an_error_of_ours() -> None:
    """Cut, doubled, swapped and random bytes in good bodies: a request comes out, or InvalidInput, and nothing else."""
    source = random.Random(20)
    sig = signature(z=("BYTES", (-1,)), a=("INT64", (-1, -1)))
    words = tensor([2], "BYTES", ["p", "q"], "z")
    seeds = [
        (body(ROW, words, tensor([1, 1], "INT64", [3], "a"), id="r", parameters={"timeout": 5}, outputs=[{"name": "y"}]), -1),
        binary(([1, 2], "FP32", BLOB), ([1], "BYTES", b"\1\0\0\0a"), ([1, 1], "INT64", bytes(8))),
    ]
    pieces = [
        b"[",
        b"]",
        b"{",
        b"}",
        b'"',
        b"-",
        b"1e999",
        b"null",
        b"true",
        b"99999999999999999999",
        b"\xff",
        b"\0",
        b"\\u",
        b",",
        b"0",
    ]
    decoder = InferDecoder(sig)
    good = 0
    for _ in range(6000):
        content, size = source.choice(seeds)
        changed = bytearray(content)
        for _ in range(source.randint(1, 3)):
            at = source.randrange(len(changed) + 1)
            end = at + source.choice([0, 0, 1, 3, 20])
            changed[at:end] = source.choice([*pieces, source.randbytes(source.randint(0, 4))])
        try:
            decoder.decode(bytes(changed), size if source.random() < 0.8 else source.randint(-1, len(changed) + 2))
            good += 1
        except InvalidInput:
            pass
    assert 0 < good < 3000


# ── what a model says of itself ──────────────────────────────────────────────────────────────────────────────────────


def manifest(**changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "format": "onnx",
        "engine": "onnxruntime",
        "entry": "",
        "signature": signature("BYTES"),
        "files": (),
    }
    return Manifest(**(fields | changes))


def test_metadata_and_config() -> None:
    assert oip.model_metadata("m", ["1", "2"], manifest()) == {
        "name": "m",
        "versions": ["1", "2"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "x", "datatype": "BYTES", "shape": [-1, 2]}],
        "outputs": [{"name": "y", "datatype": "BYTES", "shape": [-1, 2]}],
    }
    config = oip.model_config("m", manifest(batchable=True), 16)
    assert (config["max_batch_size"], config["input"]) == (16, [{"name": "x", "data_type": "TYPE_STRING", "dims": [2]}])
    config = oip.model_config("m", manifest(), 16)
    assert (config["max_batch_size"], config["input"][0]["dims"]) == (0, [-1, 2])


def test_rows() -> None:
    assert oip.rows_of({"a": np.zeros((3, 1)), "b": np.zeros(3)}) == 3
    for inputs in ({"a": np.zeros(3), "b": np.zeros(2)}, {"a": np.zeros(())}, {"a": np.zeros((0, 2))}):
        with pytest.raises(InvalidInput):
            oip.rows_of(inputs)


def test_every_request_of_the_specification_s_datatypes() -> None:
    for spec in (TensorSpec(name="x", datatype="BOOL", shape=(-1,)), TensorSpec(name="x", datatype="UINT16", shape=(-1,))):
        sig = Signature(inputs=(spec,), outputs=())
        value = True if spec.datatype == "BOOL" else 7
        assert decode_infer(body(tensor([1], spec.datatype, [value])), -1, sig).inputs["x"].tolist() == [value]

"""numpy arrays ↔ the body of an Open Inference Protocol request, with the binary tensor extension.

The server keeps its own, stricter copy of these rules: this one turns what people write into what was declared.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from openmaas.core.datatypes import numpy_dtype
from openmaas.core.errors import InvalidInput, OpenMaaSError
from openmaas.core.types import DataType, Signature, TensorSpec

Tensor: TypeAlias = NDArray[Any]
Data: TypeAlias = Tensor | Sequence[Any] | Mapping[str, Any] | float | str | bytes
"""One input's values (array, nested list, scalar), or the values of each input by its name."""

_LENGTH = struct.Struct("<I")


class _Output(msgspec.Struct):
    name: str
    datatype: DataType
    shape: list[int]
    parameters: dict[str, Any] = {}
    data: Any = None


class _Answer(msgspec.Struct):
    outputs: list[_Output]


# ── to the server ────────────────────────────────────────────────────────────────────────────────────────────────────


def as_inputs(data: Data, signature: Signature) -> dict[str, Tensor]:
    """What a person gave as one array per declared input, of the declared type.

    A mapping, or a data frame by its columns, gives inputs by name; anything else is the only input. One axis less than
    declared is one row, or one column where the declaration ends in 1.
    Raises InvalidInput for unknown or missing inputs and for values that the type cannot hold.
    """
    specs = {spec.name: spec for spec in signature.inputs}
    columns = getattr(data, "columns", None)
    if columns is not None and (len(specs) > 1 or set(columns) == set(specs)):
        data = {name: np.asarray(data[name]) for name in columns}  # type: ignore[index]
    if not isinstance(data, Mapping):
        if len(specs) != 1:
            raise InvalidInput(
                f"The model has {len(specs)} inputs: {_listed(specs)}.",
                code="input_missing",
                next_step="Give a mapping of input names to values.",
            )
        data = {next(iter(specs)): data}
    if set(data) != set(specs):
        given = ", ".join(repr(name) for name in data) or "none"
        raise InvalidInput(f"The model has the inputs {_listed(specs)}; given were {given}.", code="input_unknown")
    return {name: _fit(_typed(data[name], spec), spec) for name, spec in specs.items()}


def _listed(specs: Mapping[str, TensorSpec]) -> str:
    return ", ".join(f"{spec.name!r} {spec.datatype}{list(spec.shape)}" for spec in specs.values())


def _typed(value: Any, spec: TensorSpec) -> Tensor:
    try:
        # Bytes would lose the zeros at their end in an array of their own type.
        array = np.asarray(value, dtype=object) if spec.datatype == "BYTES" else np.asarray(value)
    except ValueError:
        raise InvalidInput(f"The rows given for {spec.name!r} differ in length.", code="shape_mismatch") from None
    if spec.datatype == "BYTES":
        return _bytes_array(array, spec)
    if array.dtype.kind not in "biuf" and array.dtype != numpy_dtype(spec.datatype):
        raise InvalidInput(
            f"Input {spec.name!r} is {spec.datatype}; the values given are {_kind(array)}.", code="datatype_mismatch"
        )
    return _converted(array, spec)


def _kind(array: Tensor) -> str:
    return {"U": "text", "S": "bytes", "O": "of mixed types or of unequal length"}.get(array.dtype.kind, str(array.dtype))


def _converted(array: Tensor, spec: TensorSpec) -> Tensor:
    """Rounding to a shorter float is accepted; a changed integer, a lost fraction or an overflow is not."""
    target = numpy_dtype(spec.datatype)
    if array.dtype == target:
        return array
    with np.errstate(all="ignore"):
        converted = array.astype(target)
        lost = converted != array if target.kind in "biu" else np.isinf(converted) & ~np.isinf(array)
    if np.any(lost):
        raise InvalidInput(
            f"Input {spec.name!r} is {spec.datatype}, which cannot hold {array[lost].flat[0]}.", code="datatype_mismatch"
        )
    return converted


def _bytes_array(array: Tensor, spec: TensorSpec) -> Tensor:
    flat = [_element(value, spec) for value in array.reshape(-1).tolist()]
    result = np.empty(len(flat), dtype=object)
    result[:] = flat
    return result.reshape(array.shape)


def _element(value: Any, spec: TensorSpec) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes):
        return value
    raise InvalidInput(f"Input {spec.name!r} is BYTES: text or bytes; {value!r:.80} was given.", code="datatype_mismatch")


def _fit(array: Tensor, spec: TensorSpec) -> Tensor:
    if array.ndim != len(spec.shape) - 1:
        return array
    row, column = array[None], array[..., None]
    return column if _fits(column, spec) and not _fits(row, spec) else row


def _fits(array: Tensor, spec: TensorSpec) -> bool:
    return all(declared in (-1, size) for declared, size in zip(spec.shape, array.shape, strict=True))


def encode_request(inputs: Mapping[str, Tensor], signature: Signature) -> tuple[bytes, int]:
    """The body of an infer request and the length of its JSON part; the answer is asked for in binary."""
    blobs = {spec.name: _blob(inputs[spec.name], spec) for spec in signature.inputs}
    described = [
        {
            "name": spec.name,
            "datatype": spec.datatype,
            "shape": inputs[spec.name].shape,
            "parameters": {"binary_data_size": len(blobs[spec.name])},
        }
        for spec in signature.inputs
    ]
    head = msgspec.json.encode({"inputs": described, "parameters": {"binary_data_output": True}})
    return head + b"".join(blobs.values()), len(head)


def _blob(array: Tensor, spec: TensorSpec) -> bytes:
    if spec.datatype == "BYTES":
        return b"".join(_LENGTH.pack(len(element)) + element for element in array.reshape(-1))
    return np.ascontiguousarray(array).tobytes()


# ── from the server ──────────────────────────────────────────────────────────────────────────────────────────────────


def decode_answer(body: bytes, json_size: int) -> dict[str, Tensor]:
    """Output arrays by name, in the order sent. json_size: Inference-Header-Content-Length, -1 where the body is all JSON."""
    head, blobs = (body, b"") if json_size < 0 else (body[:json_size], body[json_size:])
    try:
        answer = msgspec.json.decode(head, type=_Answer)
        outputs, position = {}, 0
        for output in answer.outputs:
            size = output.parameters.get("binary_data_size", 0)
            outputs[output.name] = _array(output, blobs[position : position + size])
            position += size
    except (msgspec.MsgspecError, ValueError, TypeError, struct.error) as error:
        raise OpenMaaSError(f"The answer is not an inference response: {error}.", code="bad_answer") from None
    return outputs


def _array(output: _Output, blob: bytes) -> Tensor:
    dtype = numpy_dtype(output.datatype)
    if "binary_data_size" not in output.parameters:
        if output.datatype == "BYTES":
            flat = [str(value).encode() for value in np.asarray(output.data, dtype=object).reshape(-1)]
            return np.array(flat, dtype=object).reshape(output.shape)
        return np.asarray(output.data, dtype=dtype).reshape(output.shape)
    if output.datatype == "BYTES":
        return np.array(_elements(blob), dtype=object).reshape(output.shape)
    return np.frombuffer(bytearray(blob), dtype=dtype).reshape(output.shape)


def _elements(blob: bytes) -> list[bytes]:
    elements, position = [], 0
    while position < len(blob):
        (size,) = _LENGTH.unpack_from(blob, position)
        position += _LENGTH.size + size
        elements.append(blob[position - size : position])
    return elements

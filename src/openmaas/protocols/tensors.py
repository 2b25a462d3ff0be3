"""Tensors on the wire: JSON data and binary blobs ↔ numpy arrays, checked against a signature.

A shape is believed only when the data that came has exactly that many elements: nothing is allocated on a caller's word.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, TypeAlias, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from openmaas.core.datatypes import numpy_dtype
from openmaas.core.errors import EngineFailed, InvalidInput
from openmaas.core.types import DataType, Signature, TensorSpec

Tensor: TypeAlias = NDArray[np.generic]
_NAMES: dict[np.dtype[Any], str] = {numpy_dtype(name): name for name in get_args(DataType) if name != "BF16"}
_MAX_RANK = 32
_FEW = 64
PIECE = 64 * 1024
"""Rows beyond which lists become arrays, or arrays text, piece by piece: the interpreter's lock is held over each."""
_BRACKET = ord("[")
_all = np.logical_and.reduce  # what ndarray.all does, without its detour through Python
_LENGTH = struct.Struct("<I")
_JSON_KIND: dict[str, type] = {"BOOL": bool, "BYTES": str, "FP16": float, "FP32": float, "FP64": float}


def datatype_of(array: Tensor) -> str:
    """The protocol's name of an array's type; text of any kind is BYTES."""
    name = _NAMES.get(array.dtype)
    if name is not None:
        return name
    if array.dtype.kind in "SU":
        return "BYTES"
    if array.dtype.name == "bfloat16":
        return "BF16"
    name = _NAMES.get(array.dtype.newbyteorder("="))
    if name is not None:
        return name
    raise EngineFailed(f"The model answered with the type {array.dtype}, which the protocol cannot carry.")


# ── JSON ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@cache
def _decoder(kind: type, depth: int) -> msgspec.json.Decoder[Any]:
    shape: Any = kind
    for _ in range(depth):
        shape = list[shape]
    return msgspec.json.Decoder(shape)


def _depth(raw: memoryview | bytes) -> int:
    """How many lists are open before the first element."""
    depth = 0
    for byte in bytes(raw[: 4 * _MAX_RANK]):
        if byte == _BRACKET:
            depth += 1
        elif byte not in b" \t\r\n":
            break
    return depth


def from_json(name: str, datatype: str, raw: msgspec.Raw) -> Tensor:
    """The array of a JSON list, in the shape of its nesting. Strict: no true for 1, no 1.5 for an integer."""
    if datatype == "BF16":
        raise InvalidInput(f"Input {name!r} is BF16, which JSON cannot carry.", next_step="Send it as binary data.")
    dtype = numpy_dtype(datatype)
    text = memoryview(raw)
    depth = _depth(text)
    if not 1 <= depth <= _MAX_RANK:
        raise InvalidInput(f"Input {name!r}: data must be a list, nested at most {_MAX_RANK} deep.", code="invalid_data")
    try:
        values = _decoder(_JSON_KIND.get(datatype, int), depth).decode(text)
        return _array(values, dtype, depth)
    except (msgspec.DecodeError, ValueError, OverflowError) as error:
        raise InvalidInput(f"Input {name!r} ({datatype}): {_reason(error)}.", code="invalid_data") from None


def _array(values: list[Any], dtype: np.dtype[Any], depth: int) -> Tensor:
    if dtype.kind == "O":
        return _object_array(values, depth)
    with np.errstate(over="ignore"):  # it is told below
        array = _numbers(values, dtype)
    if array.ndim != depth:
        raise ValueError("the rows differ in length")
    if dtype.kind == "f" and not all_finite(array):
        raise ValueError(f"a number is too large for {_NAMES[dtype]}")
    return array


def _numbers(values: list[Any], dtype: np.dtype[Any]) -> Tensor:
    if len(values) <= PIECE:
        return np.array(values, dtype)
    return np.concatenate([np.array(values[start : start + PIECE], dtype) for start in range(0, len(values), PIECE)])


class Form:
    """A JSON tensor of numbers whose datatype and shape have been found to fit: how to read another one quickly."""

    __slots__ = ("_count", "_dtype", "_flat", "_nested", "_real", "_shape")

    def __init__(self, datatype: str, shape: tuple[int, ...]) -> None:
        kind = _JSON_KIND.get(datatype, int)
        self._dtype = numpy_dtype(datatype)
        self._real = kind is float
        self._shape = shape
        self._count = math.prod(shape)
        self._flat = _decoder(kind, 1).decode
        self._nested = _decoder(kind, max(1, len(shape))).decode

    @staticmethod
    def fits(datatype: str) -> bool:
        return datatype not in ("BYTES", "BF16")

    def array(self, raw: msgspec.Raw) -> Tensor | None:
        """The array, or None where the data is not plainly what was declared."""
        text = memoryview(raw)
        nested = len(text) > 1 and text[1] == _BRACKET
        try:
            values = self._nested(text) if nested else self._flat(text)
            array = _numbers(values, self._dtype)
        except (msgspec.DecodeError, ValueError, OverflowError, RuntimeWarning):  # the last where warnings are errors
            return None
        if not nested:
            if len(values) != self._count:
                return None
            array = array.reshape(self._shape)
        elif array.shape != self._shape:
            return None
        return array if not self._real or all_finite(array) else None


def all_finite(array: Tensor) -> bool:
    """Whether no element is NaN or Infinity."""
    if array.size <= _FEW and math.isfinite(sum(array.ravel().tolist())):
        return True  # a sum of a few numbers costs less than the machinery for many, and hides neither NaN nor Infinity
    return bool(_all(np.isfinite(array), axis=None))


def _object_array(values: list[Any], depth: int) -> Tensor:
    """Strings as UTF-8 bytes; numpy itself would make fixed-width text of them."""
    array = np.array(values, dtype=object)
    if array.ndim != depth:
        raise ValueError("the rows differ in length")
    flat = array.reshape(-1)
    flat[:] = [value.encode() for value in flat]
    return array


def _reason(error: Exception) -> str:
    text = str(error)
    ragged = "inhomogeneous" in text or "concatenation axis" in text
    return "the rows differ in length" if ragged else text.rstrip(".")


def to_list(name: str, array: Tensor) -> list[Any]:
    """An output's elements as JSON can carry them, flat and row-major. Raises EngineFailed for what JSON cannot carry."""
    return json_ready(name, array).ravel().tolist()


def json_ready(name: str, array: Tensor) -> Tensor:
    """An array whose `tolist` is plain JSON. What JSON cannot carry, as NaN, is an error instead of a silent null."""
    kind = array.dtype.kind
    if kind == "V" and array.dtype.name == "bfloat16":  # the name of a type is made anew at each look, so its kind comes first
        array, kind = array.astype(np.float32), "f"
    if kind == "f" and not all_finite(array):
        raise EngineFailed(
            f"Output {name!r} holds NaN or Infinity, which JSON cannot carry.",
            code="not_finite",
            next_step="Ask for binary output, or look into the input and the model.",
        )
    if kind in "OS":
        return _as_text(name, array)
    if kind not in "biufU":
        raise EngineFailed(f"The model answered with the type {array.dtype}, which the protocol cannot carry.")
    return array


def _as_text(name: str, array: Tensor) -> Tensor:
    try:
        flat = [item.decode() if isinstance(item, bytes) else str(item) for item in array.ravel()]
    except UnicodeDecodeError:
        raise EngineFailed(
            f"Output {name!r} holds bytes that are not UTF-8 text, which JSON cannot carry.",
            code="not_text",
            next_step="Ask for binary output.",
        ) from None
    return _objects(flat).reshape(array.shape)


def _objects(items: list[Any]) -> NDArray[np.object_]:
    """One object an item, whatever it is: numpy itself would look into sequences."""
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array


# ── binary ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def from_binary(name: str, datatype: str, shape: Sequence[int], blob: memoryview) -> Tensor:
    """The array of a little-endian blob. Raises InvalidInput when the blob does not have exactly the shape's size."""
    count = math.prod(shape)
    if datatype == "BYTES":
        return _reshaped(name, _from_length_prefixed(name, count, blob), shape)
    dtype = numpy_dtype(datatype)
    if count * dtype.itemsize != len(blob):
        raise InvalidInput(
            f"Input {name!r}: shape {short(shape)} of {datatype} takes {short(count * dtype.itemsize)} bytes, "
            f"{len(blob)} came.",
            code="invalid_size",
        )
    if datatype == "BOOL" and (np.frombuffer(blob, np.uint8) > 1).any():
        raise InvalidInput(f"Input {name!r}: a BOOL byte is neither 0 nor 1.", code="invalid_data")
    # A copy: aligned and writable, as the arrays of JSON and of joined batches are, wherever the blob lay in the body.
    return _reshaped(name, np.frombuffer(blob, dtype).copy(), shape)


def _from_length_prefixed(name: str, count: int, blob: memoryview) -> Tensor:
    items: list[bytes] = []
    data, position, size = bytes(blob), 0, len(blob)
    while position + 4 <= size and len(items) < count:
        start = position + 4
        end = start + _LENGTH.unpack_from(data, position)[0]
        if end > size:
            break
        items.append(data[start:end])
        position = end
    if position != size or len(items) != count:
        raise InvalidInput(
            f"Input {name!r}: {short(count)} BYTES elements were declared; {len(items)} whole ones take {position} of the "
            f"{size} bytes that came.",
            code="invalid_size",
        )
    return _objects(items)


def to_binary(array: Tensor) -> bytes:
    """An output as the binary extension wants it: little-endian, row-major; BYTES with their lengths."""
    if array.dtype.kind in "OSU":
        parts: list[bytes] = []
        for item in array.ravel():
            data = item if isinstance(item, bytes) else str(item).encode()
            parts += (len(data).to_bytes(4, "little"), data)
        return b"".join(parts)
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    return array.tobytes()


# ── against the signature ────────────────────────────────────────────────────────────────────────────────────────────


def with_shape(name: str, array: Tensor, shape: Sequence[int]) -> Tensor:
    """A JSON array in the shape that was declared beside it: nested data must have it, flat data must fill it."""
    if array.shape == tuple(shape):
        return array
    if array.ndim == 1 and math.prod(shape) == array.size and all(axis >= 0 for axis in shape):
        return _reshaped(name, array, shape)
    raise InvalidInput(
        f"Input {name!r}: shape {short(shape)} was declared, data of shape {list(array.shape)} came.", code="shape_mismatch"
    )


def _reshaped(name: str, array: Tensor, shape: Sequence[int]) -> Tensor:
    """The array in a shape of as many elements. Without any, a shape may still be more than numpy can address."""
    try:
        return array.reshape(shape)
    except ValueError:
        raise InvalidInput(f"Input {name!r}: shape {short(shape)} is not a shape.", code="shape_mismatch") from None


def short(value: int | Sequence[int]) -> str:
    """A caller's own numbers, of which only so many are told back."""
    if isinstance(value, int):
        return str(value) if value.bit_length() <= 64 else "more than 2**64"
    return f"[{', '.join(short(axis) for axis in value[:_MAX_RANK])}]"


def check_inputs(signature: Signature, inputs: Mapping[str, Tensor]) -> None:
    """Names, datatypes and shapes as the signature has them, or InvalidInput that names the input and both sides."""
    for spec in signature.inputs:
        array = inputs.get(spec.name)
        if array is None:
            raise InvalidInput(
                f"Input {spec.name!r} is missing; the model takes {_names(signature.inputs)}.", code="input_missing"
            )
        _check_one(spec, array)
    if len(inputs) != len(signature.inputs):
        known = {spec.name for spec in signature.inputs}
        raise unknown_input(next(name for name in inputs if name not in known), signature)


def unknown_input(name: str, signature: Signature) -> InvalidInput:
    return InvalidInput(f"Input {name[:80]!r} is unknown; the model takes {_names(signature.inputs)}.", code="input_unknown")


def _check_one(spec: TensorSpec, array: Tensor) -> None:
    if array.dtype != numpy_dtype(spec.datatype):
        raise InvalidInput(f"Input {spec.name!r} must be {spec.datatype}; {datatype_of(array)} came.", code="datatype_mismatch")
    fits = array.ndim == len(spec.shape) and all(want in (-1, have) for want, have in zip(spec.shape, array.shape, strict=True))
    if not fits:
        raise InvalidInput(
            f"Input {spec.name!r} must have shape {list(spec.shape)} (-1 is any); {list(array.shape)} came.",
            code="shape_mismatch",
        )


def _names(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{spec.name!r} {spec.datatype} {list(spec.shape)}" for spec in specs)

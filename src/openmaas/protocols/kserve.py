"""KServe V1: `{"instances": [...]}` or `{"inputs": ...}` → `{"predictions": [...]}`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import numpy as np

from openmaas.core.errors import InvalidInput
from openmaas.core.types import Signature, TensorSpec
from openmaas.protocols.tensors import PIECE, Tensor, check_inputs, from_json, json_ready

_NEXT = 'Send {"instances": [row, …]}, or {"inputs": …} with columns.'


class _Body(msgspec.Struct):
    instances: msgspec.Raw = msgspec.Raw()
    inputs: msgspec.Raw = msgspec.Raw()


_decode_body = msgspec.json.Decoder(_Body).decode
_decode_rows = msgspec.json.Decoder(list[dict[str, msgspec.Raw]]).decode
_decode_columns = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def decode_predict(body: bytes, signature: Signature) -> dict[str, Tensor]:
    """The instances as arrays that fit the signature. Raises InvalidInput with the field, what was expected and what came."""
    try:
        request = _decode_body(body)
        if bool(request.instances) == bool(request.inputs):
            raise InvalidInput('The body needs either "instances" or "inputs".', code="invalid_json", next_step=_NEXT)
        inputs = read_rows(request.instances, signature) if request.instances else read_columns(request.inputs, signature)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(
            f"The body is not a prediction request: {str(error)[:500]}.", code="invalid_json", next_step=_NEXT
        ) from None
    except RecursionError:
        raise InvalidInput("The JSON is nested too deep.", code="invalid_json") from None
    check_inputs(signature, inputs)
    return inputs


def instances_of(body: bytes) -> msgspec.Raw:
    """The instances as they came; empty where there are none, or where the body cannot be read at all."""
    try:
        return _decode_body(body).instances
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return msgspec.Raw()


def read_rows(raw: msgspec.Raw, signature: Signature) -> dict[str, Tensor]:
    """Inputs from a list of rows, which are objects by input name where there are several. Nothing is checked yet."""
    if bytes(raw).lstrip(b"[ \t\r\n")[:1] != b"{":
        return {_only(signature).name: from_json(_only(signature).name, _only(signature).datatype, raw)}
    rows = _decode_rows(raw)
    _refuse_unknown(rows, signature)
    return {spec.name: _column(spec, rows) for spec in signature.inputs}


def _column(spec: TensorSpec, rows: list[dict[str, msgspec.Raw]]) -> Tensor:
    """One input gathered from all rows; a row holds it without the batch axis."""
    parts: list[bytes] = []
    for index, row in enumerate(rows):
        if spec.name not in row:
            raise InvalidInput(f"Instance {index} lacks {spec.name!r}.", code="input_missing")
        parts.append(bytes(row[spec.name]))
    array = from_json(spec.name, spec.datatype, msgspec.Raw(b"[" + b",".join(parts) + b"]"))
    column_of_scalars = array.ndim == 1 and len(spec.shape) == 2 and spec.shape[1] in (1, -1)
    return array.reshape(-1, 1) if column_of_scalars else array


def _refuse_unknown(rows: list[dict[str, msgspec.Raw]], signature: Signature) -> None:
    known = {spec.name for spec in signature.inputs}
    for index, row in enumerate(rows):
        if extra := next((name for name in row if name not in known), None):
            raise InvalidInput(
                f"Instance {index} has {extra[:80]!r}; the model takes {', '.join(sorted(known))}.", code="input_unknown"
            )


def read_columns(raw: msgspec.Raw, signature: Signature) -> dict[str, Tensor]:
    """Inputs from an object by input name, or from the only input's values. Nothing but the names is checked yet."""
    text = bytes(raw)
    if text.lstrip()[:1] != b"{":
        return {_only(signature).name: from_json(_only(signature).name, _only(signature).datatype, msgspec.Raw(text))}
    types = {spec.name: spec.datatype for spec in signature.inputs}
    columns = _decode_columns(text)
    for name in columns:
        if name not in types:
            raise InvalidInput(
                f"Input {name[:80]!r} is unknown; the model takes {', '.join(sorted(types))}.", code="input_unknown"
            )
    return {name: from_json(name, types[name], value) for name, value in columns.items()}


def _only(signature: Signature) -> TensorSpec:
    if len(signature.inputs) != 1:
        names = ", ".join(spec.name for spec in signature.inputs)
        raise InvalidInput(f"The model has several inputs ({names}): each instance must be an object with these names.")
    return signature.inputs[0]


def encode_predict(outputs: Mapping[str, Tensor], batchable: bool) -> bytes:
    """`{"predictions": …}`: a value a row, or an object a row where the model has several outputs."""
    ready = {name: json_ready(name, array) for name, array in outputs.items()}
    predictions: Any
    if len(ready) == 1:
        (array,) = ready.values()
        if array.size > PIECE and array.ndim:
            return b'{"predictions":[%s]}' % b",".join(_pieces(array))
        predictions = array.tolist()
    elif batchable and len({len(np.atleast_1d(array)) for array in ready.values()}) == 1:
        columns = [array.tolist() for array in ready.values()]
        predictions = [dict(zip(ready, row, strict=True)) for row in zip(*columns, strict=True)]
    else:
        predictions = {name: array.tolist() for name, array in ready.items()}
    return msgspec.json.encode({"predictions": predictions})


def _pieces(array: Tensor) -> Iterator[bytes]:
    """The rows of a large array as JSON without the outer brackets, so many at a time."""
    rows = max(1, PIECE * len(array) // array.size)
    for start in range(0, len(array), rows):
        yield msgspec.json.encode(array[start : start + rows].tolist())[1:-1]

"""Open Inference Protocol V2 over REST, with the binary tensor extension (specification: kserve/open-inference-protocol)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from openmaas.core.datatypes import numpy_dtype
from openmaas.core.errors import EngineFailed, InvalidInput
from openmaas.core.manifest import Manifest
from openmaas.core.types import Signature, TensorSpec
from openmaas.protocols.tensors import (
    Form,
    Tensor,
    check_inputs,
    datatype_of,
    from_binary,
    from_json,
    short,
    to_binary,
    to_list,
    unknown_input,
    with_shape,
)

_KNOWN_FORMS = 1024
BINARY_CONTENT_TYPE = "application/octet-stream"
_REFUSED = {
    "sequence_id": "stateful sequences",
    "sequence_start": "stateful sequences",
    "sequence_end": "stateful sequences",
    "priority": "request priorities",
    "classification": "the classification extension",
    "shared_memory_region": "shared memory",
}


_ABSENT = msgspec.Raw()


class _Tensor(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] | None = None
    data: msgspec.Raw = _ABSENT


class _Requested(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    parameters: dict[str, Any] | None = None


class _Request(msgspec.Struct, forbid_unknown_fields=True):
    inputs: list[_Tensor]
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[_Requested] | None = None


class InferRequest(msgspec.Struct):
    """A decoded request. wanted: output names in the caller's order, or None for all. binary: which of them go out as blobs.

    timeout: seconds that the caller allows, from the `timeout` parameter (microseconds), or None. raw: the input is the public
    one, which still has to become the engine's.
    """

    inputs: dict[str, Tensor]
    id: str | None = None
    wanted: tuple[str, ...] | None = None
    binary: Mapping[str, bool] = {}
    binary_default: bool = False
    timeout: float | None = None
    raw: bool = False


_decode_request = msgspec.json.Decoder(_Request).decode
_encode = msgspec.json.Encoder().encode


class InferDecoder:
    """Request bodies as typed arrays that fit one signature.

    public: the signature as callers see it, where texts or images stand for the engine's inputs; either may be sent.
    JSON tensors of a name, datatype and shape that fitted before take a short way: only their numbers are still checked.
    """

    def __init__(self, signature: Signature, public: Signature | None = None) -> None:
        self._signature = signature
        self._public = public or signature
        self._outputs = frozenset(spec.name for one in (signature, self._public) for spec in one.outputs)
        (raw, *_) = self._public.inputs or (None,)
        self._raw = raw if raw not in signature.inputs else None
        self._known: dict[tuple[Any, ...], Form] = {}

    def decode(self, body: bytes, json_size: int) -> InferRequest:
        """The request. json_size: Inference-Header-Content-Length; -1 when there was none (all JSON), 0 for one raw tensor
        without JSON. Raises InvalidInput with the field, what was expected and what came.
        """
        if json_size == 0:
            return _decode_raw(body, self._signature)
        if json_size > len(body):
            raise InvalidInput(
                f"Inference-Header-Content-Length is {json_size}, the body has {len(body)} bytes.", code="invalid_size"
            )
        view = memoryview(body)
        head, blobs = (view, view[:0]) if json_size < 0 else (view[:json_size], view[json_size:])
        request = _parse(head)
        inputs = self._short_way(request.inputs) if json_size < 0 else None
        raw = inputs is None and self._is_raw(request.inputs)
        if inputs is None:
            inputs = self._long_way(request.inputs, blobs, self._public if raw else self._signature)
        if request.parameters is None and request.outputs is None:
            return InferRequest(inputs, request.id, raw=raw)
        decoded = _with_options(request, inputs, self._outputs)
        decoded.raw = raw
        return decoded

    def _is_raw(self, tensors: list[_Tensor]) -> bool:
        """Whether it is the public input that came: it may have the name of an engine's input, but not its type."""
        raw = self._raw
        return raw is not None and any(tensor.name == raw.name and tensor.datatype == raw.datatype for tensor in tensors)

    def _short_way(self, tensors: list[_Tensor]) -> dict[str, Tensor] | None:
        """The arrays, or None where something has to be looked at more closely."""
        inputs: dict[str, Tensor] = {}
        for tensor in tensors:
            form = self._known.get((tensor.name, tensor.datatype, *tensor.shape))
            if form is None or tensor.parameters is not None or not tensor.data:
                return None
            array = form.array(tensor.data)
            if array is None:
                return None
            inputs[tensor.name] = array
        return inputs if len(inputs) == len(tensors) == len(self._signature.inputs) else None

    def _long_way(self, tensors: list[_Tensor], blobs: memoryview, signature: Signature) -> dict[str, Tensor]:
        names = {spec.name for spec in signature.inputs}
        inputs: dict[str, Tensor] = {}
        position = 0
        for tensor in tensors:
            if tensor.name not in names:  # before its data is looked at: many of these would cost much
                raise unknown_input(tensor.name, self._public)
            if tensor.name in inputs:
                raise InvalidInput(f"Input {tensor.name[:80]!r} came twice.", code="input_twice")
            inputs[tensor.name], taken = _decode_tensor(tensor, blobs[position:])
            position += taken
        if position != len(blobs):
            raise InvalidInput(f"{len(blobs) - position} bytes follow the last binary tensor.", code="invalid_size")
        if signature is not self._signature:
            return {name: _one_a_row(array, signature.inputs[0]) for name, array in inputs.items()}
        check_inputs(signature, inputs)
        for tensor in tensors:
            if Form.fits(tensor.datatype) and len(self._known) < _KNOWN_FORMS:
                self._known[tensor.name, tensor.datatype, *tensor.shape] = Form(tensor.datatype, tuple(tensor.shape))
        return inputs


def _one_a_row(array: Tensor, spec: TensorSpec) -> Tensor:
    """Texts or images [N], which clients also send as [N, 1]."""
    column = array.reshape(-1) if array.ndim == 2 and array.shape[1] == 1 and len(spec.shape) == 1 else array
    check_inputs(Signature(inputs=(spec,), outputs=()), {spec.name: column})
    return column


def decode_infer(body: bytes, json_size: int, signature: Signature) -> InferRequest:
    """One request body, as InferDecoder decodes it."""
    return InferDecoder(signature).decode(body, json_size)


def _parse(head: memoryview) -> _Request:
    try:
        request = _decode_request(head)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"The request is not an inference request: {str(error)[:500]}.", code="invalid_json") from None
    except RecursionError:
        raise InvalidInput("The JSON is nested too deep.", code="invalid_json") from None
    if request.parameters:
        _refuse(request.parameters)
    return request


def _refuse(parameters: Mapping[str, Any]) -> None:
    """A parameter that changes what the answer means is refused rather than ignored."""
    for name in parameters:
        if what := _REFUSED.get(name):
            raise InvalidInput(f"Parameter {name!r}: {what} are not supported.", code="parameter_not_supported")


def _decode_tensor(tensor: _Tensor, blobs: memoryview) -> tuple[Tensor, int]:
    """The array, and how many bytes of the blobs it took."""
    name = tensor.name[:80]
    if any(axis < 0 for axis in tensor.shape) or len(tensor.shape) > 32:
        raise InvalidInput(f"Input {name!r}: shape {short(tensor.shape)} is not a shape.", code="shape_mismatch")
    parameters = tensor.parameters or {}
    _refuse(parameters)
    size = parameters.get("binary_data_size")
    if size is None:
        if not tensor.data:
            raise InvalidInput(f"Input {name!r} has neither data nor binary_data_size.", code="invalid_data")
        return with_shape(name, from_json(name, tensor.datatype, tensor.data), tensor.shape), 0
    if tensor.data:
        raise InvalidInput(f"Input {name!r} has both data and binary_data_size.", code="invalid_data")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= len(blobs):
        raise InvalidInput(
            f"Input {name!r}: binary_data_size is {_told(size)}, {len(blobs)} bytes are left.", code="invalid_size"
        )
    return from_binary(name, tensor.datatype, tensor.shape, blobs[:size]), size


def _decode_raw(body: bytes, signature: Signature) -> InferRequest:
    """A raw binary request: one input, its only dynamic axis found from the size; an axis of the batch stands for one row."""
    if len(signature.inputs) != 1 or signature.inputs[0].datatype == "BYTES":
        raise InvalidInput("A raw binary request needs a model with one input that is not BYTES.", code="raw_not_possible")
    spec = signature.inputs[0]
    shape = _raw_shape(spec, len(body))
    inputs = {spec.name: from_binary(spec.name, spec.datatype, shape, memoryview(body))}
    check_inputs(signature, inputs)
    return InferRequest(inputs, binary_default=True)


def _raw_shape(spec: TensorSpec, size: int) -> list[int]:
    shape = list(spec.shape)
    dynamic = [index for index, axis in enumerate(shape) if axis == -1]
    if len(dynamic) > 1 and dynamic[0] == 0:
        shape[0] = 1
        dynamic.pop(0)
    if len(dynamic) > 1:
        raise InvalidInput(
            f"A raw binary request cannot tell the shape of {spec.name!r} {list(spec.shape)}.", code="raw_not_possible"
        )
    if dynamic:
        known = numpy_dtype(spec.datatype).itemsize
        for axis in shape:
            known *= axis if axis >= 0 else 1
        shape[dynamic[0]] = size // known if known else 0
    return shape


def _with_options(request: _Request, inputs: dict[str, Tensor], known: frozenset[str]) -> InferRequest:
    decoded = InferRequest(inputs, id=request.id)
    if request.parameters:
        decoded.binary_default = _flag(request.parameters, "binary_data_output")
        decoded.timeout = _timeout(request.parameters)
    if request.outputs is not None:
        binary: dict[str, bool] = {}
        for output in request.outputs:
            if output.name not in known:
                raise InvalidInput(
                    f"Output {output.name[:80]!r} is unknown; the model gives {', '.join(sorted(known))}.",
                    code="output_unknown",
                )
            parameters = output.parameters or {}
            _refuse(parameters)
            binary[output.name] = _flag(parameters, "binary_data", decoded.binary_default)
        if binary:
            decoded.wanted, decoded.binary = tuple(binary), binary
    return decoded


def _flag(parameters: Mapping[str, Any], name: str, default: bool = False) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise InvalidInput(f"Parameter {name!r} must be true or false; {_told(value)} came.", code="invalid_parameter")
    return value


def _timeout(parameters: Mapping[str, Any]) -> float | None:
    value = parameters.get("timeout")
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**64:
        raise InvalidInput(f"Parameter 'timeout' is {_told(value)}; it must be whole microseconds.", code="invalid_parameter")
    return value / 1e6 if value else None


def _told(value: object) -> str:
    """A caller's own value, of which only so much is told back."""
    return short(value) if isinstance(value, int) else repr(value)[:80]


class InferResponse(msgspec.Struct):
    """An encoded answer. json_size: Inference-Header-Content-Length, -1 where the body is all JSON."""

    body: bytes
    json_size: int = -1


class _Output(msgspec.Struct, omit_defaults=True):
    name: str
    datatype: str
    shape: tuple[int, ...]
    data: list[Any] | None = None
    parameters: dict[str, int] | None = None


class _Response(msgspec.Struct, omit_defaults=True):
    model_name: str
    model_version: str
    outputs: list[_Output]
    id: str | None = None
    parameters: dict[str, str] | None = None


def encode_infer(
    model: str, version: str, request: InferRequest, outputs: Mapping[str, Tensor], notes: Sequence[Mapping[str, Any]] = ()
) -> InferResponse:
    """The answer's body: JSON, with a blob behind it for each output that was asked for in binary.

    notes: what must be told of single rows; a parameter of the answer, JSON in a string, since parameters are scalars.
    """
    described: list[_Output] = []
    blobs: list[bytes] = []
    for name in request.wanted or outputs:
        array = outputs.get(name)
        if array is None:
            raise EngineFailed(f"The model gave no output {name!r}, which its signature has.", code="output_missing")
        datatype = datatype_of(array)
        if request.binary.get(name, request.binary_default) or datatype == "BF16":
            blob = to_binary(array)
            blobs.append(blob)
            described.append(_Output(name, datatype, array.shape, None, {"binary_data_size": len(blob)}))
        else:
            described.append(_Output(name, datatype, array.shape, to_list(name, array)))
    parameters = {"notes": _encode(notes).decode()} if notes else None
    head = _encode(_Response(model, version, described, request.id, parameters))
    return InferResponse(head + b"".join(blobs), len(head)) if blobs else InferResponse(head)


def model_metadata(name: str, versions: list[str], manifest: Manifest, public: Signature | None = None) -> dict[str, Any]:
    """`GET /v2/models/{name}`. public: the signature as callers see it, where that is not the manifest's."""
    public = public or manifest.signature
    return {
        "name": name,
        "versions": versions,
        "platform": f"{manifest.engine}_{manifest.format}" if manifest.engine != manifest.format else manifest.engine,
        "inputs": [_described(spec) for spec in public.inputs],
        "outputs": [_described(spec) for spec in public.outputs],
    }


def _described(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}


def model_config(name: str, manifest: Manifest, max_batch: int, public: Signature | None = None) -> dict[str, Any]:
    """`GET /v2/models/{name}/config`, in the words of Triton's model configuration: without the batch axis in `dims`."""
    public = public or manifest.signature
    skip = 1 if manifest.batchable else 0
    return {
        "name": name,
        "platform": manifest.engine,
        "backend": manifest.engine,
        "max_batch_size": max_batch if manifest.batchable else 0,
        "input": [_configured(spec, skip) for spec in public.inputs],
        "output": [_configured(spec, skip) for spec in public.outputs],
    }


def _configured(spec: TensorSpec, skip: int) -> dict[str, Any]:
    datatype = "STRING" if spec.datatype == "BYTES" else spec.datatype
    return {"name": spec.name, "data_type": f"TYPE_{datatype}", "dims": list(spec.shape[skip:])}


def rows_of(inputs: Mapping[str, Tensor]) -> int:
    """Rows along the batch axis. Raises InvalidInput where the inputs disagree or an input is a scalar."""
    sizes = {array.shape[0] if array.ndim else 0 for array in inputs.values()}
    if len(sizes) != 1:
        raise InvalidInput(
            f"The inputs differ in rows: {', '.join(f'{name!r} {list(array.shape)}' for name, array in inputs.items())}.",
            code="shape_mismatch",
        )
    rows = sizes.pop()
    if rows == 0:
        raise InvalidInput("The request has no rows.", code="shape_mismatch", next_step="Send at least one row.")
    return rows

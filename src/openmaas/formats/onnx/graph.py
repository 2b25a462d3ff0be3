"""An ONNX file read as data: nothing runs, no external data is opened. What it declares, and whether it may be loaded."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from openmaas.core.errors import InvalidInput, OpenMaaSError, Refused
from openmaas.core.packed import is_packed, plain_file
from openmaas.core.types import DataType, Signature, TensorSpec
from openmaas.formats.files import file_inside
from openmaas.formats.wire import BYTES, VARINT, NotProtobuf, walk

_IR_VERSION, _GRAPH = 1, 7  # fields of onnx.ModelProto
_FIELDS = {
    1: VARINT,
    2: BYTES,
    3: BYTES,
    4: BYTES,
    5: VARINT,
    6: BYTES,
    7: BYTES,
    8: BYTES,
    14: BYTES,
    20: BYTES,
    25: BYTES,
    26: BYTES,
}
_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
_DATATYPES: dict[str, DataType] = {
    "FLOAT": "FP32", "DOUBLE": "FP64", "FLOAT16": "FP16", "BFLOAT16": "BF16", "BOOL": "BOOL", "STRING": "BYTES",
    "INT8": "INT8", "INT16": "INT16", "INT32": "INT32", "INT64": "INT64",
    "UINT8": "UINT8", "UINT16": "UINT16", "UINT32": "UINT32", "UINT64": "UINT64",
}  # fmt: skip
_INFERRED = {f"tensor({name.lower()})": name for name in _DATATYPES}  # as onnxruntime writes them


def is_onnx(path: Path) -> bool:
    """Whether the file's outermost layer is an ONNX model's, and nothing else's; it may be cut short, or packed."""
    if not path.stat().st_size:
        return False
    try:
        with plain_file(path) as plain:
            return _is_model(plain)
    except InvalidInput:  # a packed file that is damaged may be anything
        return False


def _is_model(path: Path) -> bool:
    numbers = set()
    try:
        for field in walk(path):
            if _FIELDS.get(field.number) != field.kind:
                return False
            numbers.add(field.number)
    except NotProtobuf:
        return False
    return {_IR_VERSION, _GRAPH} <= numbers


def read_model(path: Path) -> Any:
    """The file as an onnx.ModelProto, without its external data. Raises InvalidInput when it is cut short or damaged."""
    import onnx

    with plain_file(path) as plain:
        size = plain.stat().st_size
        end = max(field.end for field in walk(plain))
        data = plain.read_bytes() if end <= size else b""
    if end > size:
        raise InvalidInput(
            f"The ONNX file {path.name!r} is cut short: it has {size} bytes and declares {end}.",
            code="truncated",
            next_step="Copy it again, and compare its size with the original's.",
        )
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:
        raise InvalidInput(f"The ONNX file {path.name!r} is damaged: {str(error)[:200]}.", code="damaged") from None
    if not model.graph.node and not model.graph.output:
        raise InvalidInput(f"The ONNX file {path.name!r} holds an empty graph.", code="damaged")
    return model


# ── may it be loaded? ────────────────────────────────────────────────────────────────────────────────────────────────


def check_operators(model: Any) -> None:
    """Refuse operators that only somebody's own library could run."""
    local = {(function.domain, function.name) for function in model.functions}
    foreign = {
        f"{node.domain}::{node.op_type}"
        for node in _nodes(model)
        if node.domain not in _DOMAINS and (node.domain, node.op_type) not in local
    }
    if foreign:
        raise Refused(
            f"The model uses operators that onnxruntime does not bring: {', '.join(sorted(foreign)[:8])}.",
            code="custom_operator",
            next_step="Export it with operators of ONNX itself (domains ai.onnx, ai.onnx.ml, com.microsoft).",
        )


def check_external_data(model: Any, file: Path, folder: Path) -> list[str]:
    """The files, relative to `folder`, that hold tensors outside of `file`: beside it or below, and long enough.

    Raises Refused for one that lies elsewhere, InvalidInput for one that is missing or too short.
    """
    found = set()
    for tensor in _tensors(model):
        if tensor.data_location == tensor.EXTERNAL or tensor.external_data:
            found.add(_external_file(tensor, file.parent).relative_to(folder).as_posix())
    if found and is_packed(file):
        raise Refused(
            f"The packed file {file.name!r} keeps tensors in {len(found)} other files, which its reader would not find.",
            code="external_data",
            next_step="Pack a model that holds all of its tensors, or push it unpacked.",
        )
    return sorted(found)


def _external_file(tensor: Any, folder: Path) -> Path:
    fields = {entry.key: entry.value for entry in tensor.external_data}
    location = fields.get("location", "")
    try:
        path = file_inside(folder, location, "The external data file")
    except OpenMaaSError as error:
        if error.code == "file_missing":
            raise InvalidInput(
                f"Tensor {tensor.name[:80]!r} keeps its data in {location[:120]!r}, which was not pushed.",
                code="file_missing",
                next_step="Push the folder that holds the model and its data.",
            ) from None
        raise Refused(
            f"Tensor {tensor.name[:80]!r} keeps its data in {location[:120]!r}; only files beside the model are read.",
            code="external_data",
            next_step="Save the model again with its data in the same folder.",
        ) from None
    _check_span(tensor, fields, path)
    return path


def _check_span(tensor: Any, fields: dict[str, str], path: Path) -> None:
    size = path.stat().st_size
    span = {key: fields.get(key, "0") for key in ("offset", "length")}
    if not all(text.isascii() and text.isdigit() and len(text) < 19 for text in span.values()):
        raise InvalidInput(
            f"Tensor {tensor.name[:80]!r} has an external offset or length that is not a number.", code="damaged"
        )
    length = int(span["length"]) or _byte_size(tensor)
    if int(span["offset"]) + length > size:
        raise InvalidInput(
            f"Tensor {tensor.name[:80]!r} needs bytes {span['offset']} to {int(span['offset']) + length} of {path.name!r}, "
            f"which has {size}.",
            code="truncated",
        )


def _byte_size(tensor: Any) -> int:
    from onnx import helper

    itemsize = int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    elements: int = math.prod(tensor.dims)
    return elements * itemsize


def _graphs(model: Any) -> Iterator[Any]:
    """The graph, its subgraphs, and what has nodes like one: local functions and training graphs."""
    waiting = [model.graph, *model.functions]
    for info in model.training_info:
        waiting += [info.initialization, info.algorithm]
    while waiting:
        graph = waiting.pop()
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                waiting += [attribute.g] if attribute.HasField("g") else []
                waiting += attribute.graphs


def _nodes(model: Any) -> Iterator[Any]:
    return (node for graph in _graphs(model) for node in graph.node)


def _tensors(model: Any) -> Iterator[Any]:
    for graph in _graphs(model):
        yield from getattr(graph, "initializer", ())
        for sparse in getattr(graph, "sparse_initializer", ()):
            yield from (sparse.values, sparse.indices)
        for node in graph.node:
            for attribute in node.attribute:
                yield from _attribute_tensors(attribute)


def _attribute_tensors(attribute: Any) -> Iterator[Any]:
    yield from [attribute.t] if attribute.HasField("t") else []
    yield from attribute.tensors
    alone = [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
    for sparse in (*alone, *attribute.sparse_tensors):
        yield from (sparse.values, sparse.indices)


# ── what does it declare? ────────────────────────────────────────────────────────────────────────────────────────────


def read_signature(model: Any) -> Signature:
    """Inputs and outputs of the graph; constants that older exporters also list as inputs are left out.

    An axis is -1 where the file gives no fixed length. Outputs that are no tensors are left out beside others that are.
    Raises Refused for an input, or the only outputs, of another kind.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    constants |= {sparse.values.name for sparse in model.graph.sparse_initializer}
    inputs = tuple(_spec(value) for value in model.graph.input if value.name not in constants)
    outputs = [value for value in model.graph.output if _is_tensor(value)] or model.graph.output
    return Signature(inputs=inputs, outputs=tuple(_spec(value) for value in outputs))


def left_out(model: Any) -> list[str]:
    """Names of outputs that are no tensors, where there are others that are."""
    others = [value.name for value in model.graph.output if not _is_tensor(value)]
    return others if len(others) < len(model.graph.output) else []


def _is_tensor(value: Any) -> bool:
    return bool(value.type.WhichOneof("value") == "tensor_type")


def add_missing_types(model: Any, inferred: Mapping[str, str]) -> None:
    """Give outputs that the file leaves untyped the type that the engine infers, written as `tensor(float)`.

    An output that was picked out of a larger graph often comes without one.
    """
    from onnx import TensorProto

    for value in model.graph.output:
        name = _INFERRED.get(inferred.get(value.name, ""))
        if value.type.WhichOneof("value") is None and name is not None:
            value.type.tensor_type.elem_type = TensorProto.DataType.Value(name)


def unknown_ranks(model: Any) -> frozenset[str]:
    """Names of inputs and outputs whose shape the file does not give at all."""
    values = (*model.graph.input, *model.graph.output)
    return frozenset(value.name for value in values if not value.type.tensor_type.HasField("shape"))


def axis_names(model: Any) -> dict[str, tuple[str, ...]]:
    """The names that the file gives to the axes of each input, empty where there is none: equal names mean equal lengths."""
    return {value.name: tuple(axis.dim_param for axis in value.type.tensor_type.shape.dim) for value in model.graph.input}


def _spec(value: Any) -> TensorSpec:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        raise Refused(
            f"{value.name[:80]!r} is a {(kind or 'value without a type').removesuffix('_type')}; only tensors can be served.",
            code="unsupported_type",
            next_step="Export the model so that its inputs and outputs are tensors (scikit-learn: options={'zipmap': False}).",
        )
    tensor = value.type.tensor_type
    shape = tuple(axis.dim_value if axis.HasField("dim_value") and axis.dim_value >= 0 else -1 for axis in tensor.shape.dim)
    return TensorSpec(name=value.name, datatype=_datatype(value.name, tensor.elem_type), shape=shape)


def _datatype(name: str, code: int) -> DataType:
    from onnx import TensorProto

    text = TensorProto.DataType.Name(code) if code in TensorProto.DataType.values() else str(code)
    if text not in _DATATYPES:
        raise Refused(
            f"{name[:80]!r} has the element type {text}, which the Open Inference Protocol cannot carry.",
            code="unsupported_type",
            next_step="Cast it to another type in the model.",
        )
    return _DATATYPES[text]

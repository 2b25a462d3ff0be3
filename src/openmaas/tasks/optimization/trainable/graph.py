"""An ONNX graph made plain before it is lifted: constants are initializers, and what computes nothing is gone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from openmaas.core.errors import Refused
from openmaas.tasks.optimization.trainable.functions import FUNCTIONS, Node, Unsupported

_OLDEST, _NEWEST = 13, 26
_MOST_BYTES = 2**31 - 2**20
_FOLDED_BYTES = 1 << 20
_DOMAINS = {"": "", "ai.onnx": "", "com.microsoft": "com.microsoft", "ai.onnx.ml": "ai.onnx.ml"}
_FOREIGN = {"com.microsoft": {"Gelu"}, "ai.onnx.ml": {"Scaler"}}
_DTYPES = {
    TensorProto.FLOAT: torch.float32, TensorProto.DOUBLE: torch.float64, TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16, TensorProto.INT64: torch.int64, TensorProto.INT32: torch.int32,
    TensorProto.INT16: torch.int16, TensorProto.INT8: torch.int8, TensorProto.UINT8: torch.uint8, TensorProto.BOOL: torch.bool,
}  # fmt: skip
Constants = dict[str, Tensor]


def plain(model: Any) -> tuple[Any, Constants]:
    """A copy of the model, and its constants by name (those that torch can hold).

    Every node has a name of its own; constants are initializers; Identity, Dropout, casts that change nothing and what can be
    computed of constants alone are gone. Raises Refused for a model too large or too old.
    """
    model = _renewed(model)
    _check(model)
    model = onnx.inliner.inline_local_functions(model) if model.functions else _copy(model)
    _name_nodes(model.graph)
    _constants_to_initializers(model.graph)
    _drop_idle(model)
    constants = {tensor.name: held for tensor in model.graph.initializer if (held := _tensor(tensor)) is not None}
    _fold(model, constants)
    _drop_unused(model.graph, constants)
    return model, constants


def read_node(node: Any, opsets: Mapping[str, int]) -> Node:
    """What functions ask of a node. Raises Unsupported for a tensor attribute that torch cannot hold."""
    attributes = {attribute.name: _attribute(attribute) for attribute in node.attribute}
    if node.op_type == "Cast":
        attributes["to"] = _DTYPES.get(attributes.get("to", 0))
        if attributes["to"] is None:
            raise Unsupported("a cast to a type that torch has not")
    opset = opsets.get(node.domain or "", opsets.get("ai.onnx", 0))
    return Node(node.name, node.op_type, opset, len(node.output), attributes)


def opsets_of(model: Any) -> dict[str, int]:
    return {_DOMAINS.get(entry.domain, entry.domain): entry.version for entry in model.opset_import}


def has_function(node: Any) -> bool:
    domain = _DOMAINS.get(node.domain, node.domain)
    return node.op_type in FUNCTIONS and (
        node.op_type in _FOREIGN[domain] if domain in _FOREIGN else not domain and node.op_type != "Scaler"
    )


def live_nodes(graph: Any, wanted: list[str]) -> list[Any]:
    """Nodes that `wanted` values hang on, in the graph's order."""
    needed, kept = set(wanted), list[Any]()
    for node in reversed(graph.node):
        if needed & set(node.output):
            needed |= set(node.input)
            kept.append(node)
    return kept[::-1]


def _check(model: Any) -> None:
    if model.ByteSize() > _MOST_BYTES:
        raise Refused(
            f"The model has {model.ByteSize()} bytes; at most {_MOST_BYTES} can be trained.", code="pass_not_applicable"
        )
    version = opsets_of(model).get("", 0)
    if not _OLDEST <= version <= _NEWEST:
        raise Refused(
            f"The model uses version {version} of ONNX's operators; {_OLDEST} to {_NEWEST} can be trained.",
            code="pass_not_applicable",
            next_step=f"Export it with opset_version={max(_OLDEST, min(version, 20))} and push it again.",
        )
    if model.graph.sparse_initializer:
        raise Refused("The model has sparse initializers, which cannot be trained.", code="pass_not_applicable")


def _renewed(model: Any) -> Any:
    """The model in the oldest operator set that there are functions for, if it is older and can be brought there."""
    if opsets_of(model).get("", 0) >= _OLDEST or model.ByteSize() > _MOST_BYTES:
        return model
    try:
        return onnx.version_converter.convert_version(model, _OLDEST)
    except Exception:  # whatever its adapters have not learned
        return model


def _copy(model: Any) -> Any:
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    return copied


def _name_nodes(graph: Any) -> None:
    taken: set[str] = set()
    for number, node in enumerate(graph.node):
        name = base = node.name or f"{node.op_type}_{number}"
        while name in taken:
            name = f"{base}_{number}"
            base = name
        taken.add(name)
        node.name = name


def _constants_to_initializers(graph: Any) -> None:
    outputs = {value.name for value in graph.output}
    for node in list(graph.node):
        if node.op_type != "Constant" or node.output[0] in outputs:
            continue
        (attribute,) = node.attribute
        value = helper.get_attribute_value(attribute)
        if attribute.name == "value":
            tensor = onnx.TensorProto()
            tensor.CopyFrom(value)
        elif attribute.name.startswith(("value_float", "value_int")):
            kind = np.float32 if "float" in attribute.name else np.int64
            tensor = numpy_helper.from_array(np.asarray(value, kind))
        else:
            continue
        tensor.name = node.output[0]
        graph.initializer.append(tensor)
        graph.node.remove(node)
    held = {tensor.name for tensor in graph.initializer}
    for value in [value for value in graph.input if value.name in held]:
        graph.input.remove(value)


def _drop_idle(model: Any) -> None:
    """Take out nodes that pass on what they get."""
    graph = model.graph
    types = _types(model)
    outputs = {value.name for value in graph.output}
    instead: dict[str, str] = {}
    for node in list(graph.node):
        for at, name in enumerate(node.input):
            node.input[at] = instead.get(name, name)
        if not node.input or node.output[0] in outputs or any(node.output[1:]):
            continue
        to = next((attribute.i for attribute in node.attribute if attribute.name == "to"), None)
        same = node.op_type == "Cast" and to is not None and types.get(node.input[0]) == to
        training = len(node.input) > 2 and node.input[2]
        if same or node.op_type == "Identity" or (node.op_type == "Dropout" and not training):
            instead[node.output[0]] = node.input[0]
            graph.node.remove(node)


def _types(model: Any) -> dict[str, int]:
    graph = model.graph
    found = {tensor.name: tensor.data_type for tensor in graph.initializer}
    try:
        graph = onnx.shape_inference.infer_shapes(model).graph
    except Exception:
        graph = model.graph
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.HasField("tensor_type"):
            found[value.name] = value.type.tensor_type.elem_type
    return found


def _fold(model: Any, constants: Constants) -> None:
    graph, opsets = model.graph, opsets_of(model)
    outputs = {value.name for value in graph.output}
    for node in list(graph.node):
        given = [constants.get(name) if name else None for name in node.input]
        known = all(name in constants or not name for name in node.input)
        if not known or len(node.output) != 1 or node.output[0] in outputs or not has_function(node):
            continue
        try:
            made = FUNCTIONS[node.op_type](read_node(node, opsets), *given)
        except (Unsupported, RuntimeError, ValueError, IndexError, TypeError):
            continue
        size = made.numel() * made.element_size()
        if size > _FOLDED_BYTES + 2 * sum(one.numel() * one.element_size() for one in given if one is not None):
            continue
        constants[node.output[0]] = made.contiguous()
        graph.initializer.append(to_proto(made, node.output[0]))
        graph.node.remove(node)


def _drop_unused(graph: Any, constants: Constants) -> None:
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    used |= {name for node in graph.node for attribute in node.attribute for name in _inner(attribute)}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)
        constants.pop(tensor.name, None)


def _inner(attribute: Any) -> Iterator[str]:
    """Names that subgraphs use: they see the outer graph's values."""
    for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
        for node in graph.node:
            yield from node.input
            for deeper in node.attribute:
                yield from _inner(deeper)
        yield from (value.name for value in graph.output)


def to_proto(tensor: Tensor, name: str) -> Any:
    return numpy_helper.from_array(np.ascontiguousarray(tensor.detach().numpy()), name)


def _tensor(proto: Any) -> Tensor | None:
    if proto.data_type == TensorProto.BFLOAT16:
        return torch.from_numpy(numpy_helper.to_array(proto).astype(np.float32)).to(torch.bfloat16)
    if proto.data_type not in _DTYPES:
        return None
    return torch.from_numpy(np.array(numpy_helper.to_array(proto)))


def _attribute(attribute: Any) -> Any:
    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, onnx.TensorProto):
        held = _tensor(value)
        if held is None:
            raise Unsupported(f"attribute {attribute.name} of a type that torch has not")
        return held
    return list(value) if hasattr(value, "__len__") and not isinstance(value, str) else value

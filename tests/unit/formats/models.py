"""Small ONNX models, made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Shape = Sequence[int | str | None] | None


def value(name: str, shape: Shape, kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def model(
    nodes: Sequence[Any], inputs: Sequence[Any], outputs: Sequence[Any], constants: Sequence[Any] = (), **more: Any
) -> Any:
    graph = helper.make_graph(list(nodes), "graph", list(inputs), list(outputs), list(constants))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3), *more.pop("opsets", [])]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9, **more)


def weights(rows: int = 4, columns: int = 3) -> Any:
    values = np.random.default_rng(3).standard_normal((rows, columns)).astype(np.float32)
    return numpy_helper.from_array(values, "W")


def linear(rows: Shape = (None, 4), answer: Shape = (None, 3)) -> Any:
    """y = x W, four features to three."""
    return model([helper.make_node("MatMul", ["x", "W"], ["y"])], [value("x", rows)], [value("y", answer)], [weights()])


def mixing() -> Any:
    """y = x - mean(x over the batch): a row's answer depends on its batch-mates."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["x", "m"], ["y"]),
    ]
    return model(nodes, [value("x", ["n", 4])], [value("y", ["n", 4])])


def identity(kind: int, shape: Shape = (None, 2)) -> Any:
    return model([helper.make_node("Identity", ["x"], ["y"])], [value("x", shape, kind)], [value("y", shape, kind)])


def save(proto: Any, folder: Path, name: str = "model.onnx") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    onnx.save(proto, path)
    return path


def save_external(folder: Path, location: str = "weights.bin", **fields: str) -> Path:
    """A linear model whose weights lie in another file, it says where; 48 bytes are in weights.bin."""
    proto = linear()
    tensor = proto.graph.initializer[0]
    data = tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, text in {"location": location, **fields}.items():
        tensor.external_data.add(key=key, value=text)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights.bin").write_bytes(data)
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def old_operators(rows: Shape = (None, 4), opset: int = 6) -> Any:
    """y = relu(x W + b) as it was written before version 7: the sum says itself that it broadcasts."""
    bias = numpy_helper.from_array(np.array([1, -2, 3], np.float32), "b")
    matrix = weights()
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["z"]),
        helper.make_node("Add", ["z", "b"], ["s"], broadcast=1),
        helper.make_node("Relu", ["s"], ["y"]),
    ]
    constants = [value("W", [4, 3]), value("b", [3])]  # which the first versions also list as inputs
    graph = helper.make_graph(nodes, "graph", [value("x", rows), *constants], [value("y", [*rows[:1], 3])], [matrix, bias])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=3)


def fixed_batch(mixing_rows: bool = False) -> Any:
    """One row [1, 8] as an image [1, 2, 2, 2], flattened again and multiplied, the 1 written everywhere."""
    first, last = (numpy_helper.from_array(np.array(shape), name) for name, shape in (("s", [1, 2, 2, 2]), ("f", [1, -1])))
    nodes = [
        helper.make_node("Reshape", ["x", "s"], ["image"]),
        helper.make_node("Softmax", ["image"], ["soft"], axis=0 if mixing_rows else 1),
        helper.make_node("Reshape", ["soft", "f"], ["flat"]),
        helper.make_node("MatMul", ["flat", "W"], ["y"]),
    ]
    return model(nodes, [value("x", [1, 8])], [value("y", [1, 3])], [weights(8), first, last])

"""Padding left out of what is computed position by position.

Rows of different lengths share a batch as long as the longest of them. Linear layers, normalisations and activations look at
one position at a time; they are given the positions that hold something, in one long list, and attention sees them in their
rows again. (Effective Transformer; Zhai et al., ByteTransformer, 2023, "zero padding".)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from openmaas.tasks.optimization.graphs import answers_of, array_of, constants, tensor_of

MASK: Final = "attention_mask"
_BY_POSITION: Final = frozenset(
    {
        "Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Reciprocal", "Exp", "Erf", "Gelu", "Tanh", "Relu", "LeakyRelu", "Sigmoid",
        "HardSigmoid", "HardSwish", "Identity", "Clip", "Min", "Max", "LayerNormalization",
    }
)  # fmt: skip
_STEP: Final = 8
"""Engines prepare for each number of positions that is new to them; so it is rounded up to a multiple of this."""

_SHAPES: Final = ((3, 7), (2, 11))  # rows and positions that the model is tried with: what has them in both follows them
_PREFIX: Final = "positions/"


def without_padding(model: Any, inputs: Mapping[str, NDArray[Any]]) -> tuple[Any, int]:
    """A copy of an onnx.ModelProto, and how many of its layers pass over padding now; 0: it is as it was.

    inputs: a few rows with an input MASK [rows, positions], which must be of any length. That answers do not depend on what is
    behind the mask is for the caller to prove. The first position of a row always counts.
    """
    import onnx

    widths = _widths(model, inputs)
    held = {name: array_of(tensor) for name, tensor in constants(model).items()}
    inside = _inside(model, widths, held)
    layers = sum(node.op_type == "MatMul" for node in inside.values())
    if not layers:
        return model, 0
    made = onnx.ModelProto()
    made.CopyFrom(model)
    outside = {name for node in made.graph.node if node.output[0] not in inside for name in node.input}
    outside |= {value.name for value in made.graph.output}
    nodes, listed = _head(made.graph), dict[str, str]()
    for node in made.graph.node:
        name = node.output[0]
        if name not in inside:
            nodes.append(node)
            continue
        for place, read in enumerate(node.input):
            if read in widths and read not in listed:
                listed[read] = f"{_PREFIX}{read}"
                nodes += _list(read, listed[read])
            node.input[place] = listed.get(read, read)
        for attribute in node.attribute:
            if attribute.name == "axis":
                attribute.i = -1
        node.output[0] = listed[name] = f"{_PREFIX}{name}"
        nodes.append(node)
        if name in outside:  # padding is given what another position has; nobody looks at it
            nodes.append(onnx.helper.make_node("Gather", [listed[name], f"{_PREFIX}places"], [name], name=f"{name}/rows"))
    del made.graph.node[:], made.graph.value_info[:]
    made.graph.node.extend(nodes)
    return made, layers


def _widths(model: Any, inputs: Mapping[str, NDArray[Any]]) -> dict[str, int]:
    """Values with a vector of that many numbers at each position of each row."""
    names = [name for node in model.graph.node for name in node.output[:1] if name]
    found: list[dict[str, int]] = []
    for rows, positions in _SHAPES:
        given = {name: _resized(array, inputs[MASK].shape, rows, positions) for name, array in inputs.items()}
        given[MASK] = np.ones_like(given[MASK])
        answers = answers_of(model, given, names)
        along = {name: one.shape for name, one in answers.items() if one.ndim == 3 and one.shape[:2] == (rows, positions)}
        found.append({name: shape[2] for name, shape in along.items()})
    first, second = found
    return {name: width for name, width in first.items() if second.get(name) == width}


def _resized(array: NDArray[Any], shape: tuple[int, ...], rows: int, positions: int) -> NDArray[Any]:
    return np.resize(array, (rows, positions) if array.shape == shape else (rows, *array.shape[1:]))


def _inside(model: Any, widths: Mapping[str, int], held: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Nodes that compute position by position, by what they give: from a normalisation or a layer with weights on.

    What is combined with something that the mask decides stays outside, for there the padding may be told from the rest.
    """
    inside: dict[str, Any] = {}
    masked = {MASK}
    for node in model.graph.node:
        read = [name for name in node.input if name]
        along = [name for name in read if name in widths]
        fixed = [held[name] for name in read if name in held]
        alike = along and len(along) + len(fixed) == len(read) and node.output[0] in widths and len(node.output) == 1
        if alike and not node.domain:
            unmasked = all(name in inside or name not in masked for name in along)
            match node.op_type:
                case "MatMul":
                    fits = along == read[:1] and fixed[0].ndim == 2
                case "LayerNormalization":
                    fits = unmasked and all(one.i in (-1, 2) for one in node.attribute if one.name == "axis")
                case op:
                    fits = op in _BY_POSITION and unmasked and any(name in inside for name in along)
            if fits and (node.op_type == "MatMul" or all(array.ndim < 2 for array in fixed)):
                inside[node.output[0]] = node
        if masked & set(read):
            masked |= set(node.output)
    return inside


def _head(graph: Any) -> list[Any]:
    """Nodes that find from the mask where the positions are (`index`), and where each is in the list of them (`places`)."""
    from onnx import TensorProto, helper

    def name(value: str) -> str:
        return f"{_PREFIX}{value}"

    numbers = {"zero": 0, "one": 1, "step": _STEP, "all": [-1]}
    graph.initializer.extend(tensor_of(np.array(value, np.int64), name(key)) for key, value in numbers.items())

    def node(op: str, inputs: str, output: str, **attributes: Any) -> Any:
        read = [one if one == MASK else name(one) for one in inputs.split()]
        return helper.make_node(op, read, [name(output)], name=name(output), **attributes)

    return [
        node("Shape", MASK, "shape"),
        node("Gather", "shape one", "length"),
        node("Range", "zero length one", "range"),
        node("Equal", "range zero", "first"),
        node("Cast", MASK, "given", to=TensorProto.BOOL),
        node("Or", "given first", "kept"),
        node("Reshape", "kept all", "flat"),
        node("Cast", "flat", "ones", to=TensorProto.INT64),
        # places: how many were before it.
        node("CumSum", "ones zero", "counted"),
        node("Sub", "counted one", "before"),
        node("Reshape", "before shape", "places"),
        # index: padded with the first position to a multiple of the step, unless that were more than all there is.
        node("NonZero", "flat", "found"),
        node("Reshape", "found all", "real"),
        node("Shape", "real", "count"),
        node("Shape", "flat", "size"),
        node("Neg", "count", "negative"),
        node("Mod", "negative step", "missing"),
        node("Sub", "size count", "room"),
        node("Min", "missing room", "more"),
        helper.make_node(
            "ConstantOfShape", [name("more")], [name("filling")], name=name("filling"),
            value=tensor_of(np.array([0], np.int64), "value"),
        ),
        node("Concat", "real filling", "index", axis=0),
    ]  # fmt: skip


def _list(value: str, listed: str) -> list[Any]:
    """Nodes that make of [rows, positions, width] the list [positions that hold something, width]."""
    from onnx import helper

    return [
        helper.make_node("Flatten", [value], [f"{listed}/all"], name=f"{listed}/all", axis=2),
        helper.make_node("Gather", [f"{listed}/all", f"{_PREFIX}index"], [listed], name=listed),
    ]

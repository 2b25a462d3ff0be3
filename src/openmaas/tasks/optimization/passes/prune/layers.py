"""The layers of an ONNX graph whose weights can be pruned."""

from __future__ import annotations

import difflib
import fnmatch
from typing import Any, NamedTuple

from numpy.typing import NDArray

from openmaas.core.recipes import Prune
from openmaas.tasks.optimization.base import cannot
from openmaas.tasks.optimization.graphs import array_of, constants, label_of

_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_QUANTIZED = ("DequantizeLinear", "QLinearConv", "QLinearMatMul", "MatMulInteger", "ConvInteger", "MatMulNBits")


class Layer(NamedTuple):
    """node: its name. weight: of the constant. along: the axis of its inputs."""

    node: str
    weight: str
    array: NDArray[Any]
    along: int


def find_layers(model: Any, parameters: Prune) -> list[Layer]:
    """Convolutions and linear layers with constant weights of floating point, without those excluded.

    Raises Refused where there are none, or `exclude` names one that is not there.
    """
    known, layers = constants(model), list[Layer]()
    for node in model.graph.node:
        if node.op_type not in _WEIGHTED or node.domain not in ("", "ai.onnx"):
            continue
        place = next((place for place in (1, 0) if node.input[place] in known), None)
        if place is None or (place == 0 and node.op_type not in ("MatMul", "Gemm")):
            continue
        array = array_of(known[node.input[place]])
        if array.dtype.kind == "f" and array.ndim >= 2:
            layers.append(Layer(label_of(node), node.input[place], array, _along(node, place, array.ndim)))
    names = [layer.node for layer in layers]
    check_exclude(parameters, names)
    kept = [layer for layer in layers if not excluded(parameters, layer.node)]
    if not kept:
        raise _none(model, parameters, names)
    return kept


def excluded(parameters: Prune, node: str) -> bool:
    return any(fnmatch.fnmatchcase(node, pattern) for pattern in parameters.exclude)


def check_exclude(parameters: Prune, names: list[str]) -> None:
    """Raises Refused for a pattern that matches no layer, with names that are near."""
    for pattern in parameters.exclude:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
            near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.3) or names[:3]
            raise cannot(
                parameters,
                f"exclude {pattern!r} is no layer of the graph",
                f"There are {len(names)}, among them {', '.join(map(repr, near))}." if near else "The graph has none.",
            )


def _along(node: Any, place: int, axes: int) -> int:
    """The axis that is summed over."""
    flags = {attribute.name: attribute.i for attribute in node.attribute if attribute.name in ("transA", "transB")}
    if node.op_type == "Conv":
        return 1
    if node.op_type == "ConvTranspose":
        return 0
    turned = bool(flags.get("transA" if place == 0 else "transB", 0))
    # left @ right sums over the last axis of the left and the last but one of the right.
    last = (place == 0) != turned
    return axes - 1 if last else axes - 2


def _none(model: Any, parameters: Prune, names: list[str]) -> Exception:
    if names:
        return cannot(parameters, f"all of its {len(names)} layers are excluded", "Exclude fewer.")
    low = next((node for node in model.graph.node if node.op_type in _QUANTIZED), None)
    if low is not None:
        return cannot(
            parameters, f"the weights are quantised (node {label_of(low)!r}, {low.op_type})", "Put prune before quantize."
        )
    trees = any("TreeEnsemble" in node.op_type for node in model.graph.node)
    return cannot(
        parameters,
        "the graph has no convolution or linear layer with constant weights",
        "Use method trees." if trees else "Leave the step out.",
    )

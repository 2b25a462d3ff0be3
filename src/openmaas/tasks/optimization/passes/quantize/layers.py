"""Which nodes of a graph hold weights that can have fewer bits."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final

from openmaas.core.errors import InvalidInput
from openmaas.core.recipes import Pass
from openmaas.tasks.optimization.base import cannot
from openmaas.tasks.optimization.graphs import constants, label_of

FLOATS: Final = frozenset({1, 10, 11, 16})  # FLOAT, FLOAT16, DOUBLE and BFLOAT16 of onnx.TensorProto
_PLACES: Final = {
    "MatMul": (1,), "Gemm": (1,), "Conv": (1,), "ConvTranspose": (1,), "Gather": (0,), "LSTM": (1, 2), "GRU": (1, 2),
    "RNN": (1, 2),
}  # fmt: skip
_LEAST: Final = 32
"""Weights below which the numbers that a quantised tensor needs besides are as many as it has."""

_SHARED: Final = 4
"""Weights of a channel below which its scale is no gain. (The scales of a table's rows are looked up like a table's rows.)"""


@dataclass(frozen=True)
class Layer:
    """A node with weights: its name, its operator, and the names of its float weights with the axis of their channels."""

    name: str
    op: str
    weights: tuple[tuple[str, int], ...]


def name_nodes(model: Any) -> None:
    """Give nodes without a name, or with another's, one of their own, so that each can be excluded."""
    taken: Counter[str] = Counter()
    for node in model.graph.node:
        name = node.name or f"{node.op_type}_{node.output[0]}"
        while taken[name]:
            name = f"{node.name or node.op_type}_{sum(taken.values())}"
        taken[name] += 1
        node.name = name


def find_layers(model: Any) -> list[Layer]:
    """In the graph's order."""
    tensors = {
        name: tensor
        for name, tensor in constants(model).items()
        if tensor.data_type in FLOATS and len(tensor.dims) >= 2 and _size(tensor) >= _LEAST
    }
    found = []
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx"):
            continue
        names = [node.input[place] for place in _PLACES.get(node.op_type, ()) if place < len(node.input)]
        weights = [(name, _channel(node, len(tensors[name].dims))) for name in names if name in tensors]
        weights = [(name, axis) for name, axis in weights if _size(tensors[name]) >= _SHARED * tensors[name].dims[axis]]
        if weights and not (node.op_type == "Gather" and _attribute(node, "axis", 0) != 0):
            found.append(Layer(node.name, node.op_type, tuple(weights)))
    return found


def require_layers(step: Pass, model: Any, ops: Collection[str]) -> list[Layer]:
    """Those of the operators `ops`. Raises Refused that says what there is instead when there is none."""
    layers = [layer for layer in find_layers(model) if layer.op in ops]
    if layers:
        return layers
    counted = Counter(node.op_type for node in model.graph.node)
    held = ", ".join(f"{count} {op}" for op, count in counted.most_common(8))
    looked = [label_of(node) for node in model.graph.node if node.op_type in ops][:4]
    why = (
        f"; {', '.join(map(repr, looked))} computes with what it is given, with weights of fewer than {_LEAST} numbers, "
        "or with weights that have few bits already"
        if looked
        else ""
    )
    trees = any(op.startswith("TreeEnsemble") for op in counted)
    raise cannot(
        step,
        f"nothing can be quantised: the graph has {held}, and no {_either(sorted(ops))} with float weights{why}",
        "Prune its trees instead: prune: {method: trees}." if trees else "Leave the step out.",
    )


def exclude(step: Pass, model: Any, layers: Sequence[Layer], patterns: Sequence[str]) -> tuple[list[Layer], list[str]]:
    """The layers that are left, and the names of all nodes that the patterns name.

    Raises InvalidInput for a pattern that names no node, Refused where no layer is left.
    """
    names = [node.name for node in model.graph.node]
    named = excluded_names(names, patterns)
    left = [layer for layer in layers if layer.name not in named]
    if not left:
        raise cannot(step, f"exclude names all of its {len(layers)} layers", "Exclude fewer nodes.")
    return left, sorted(named)


def excluded_names(names: Sequence[str], patterns: Sequence[str]) -> set[str]:
    """Names that are equal to a pattern or match it as a glob. Raises InvalidInput for a pattern that names none."""
    named: set[str] = set()
    for pattern in patterns:
        matched = {name for name in names if name == pattern or fnmatchcase(name, pattern)}
        if not matched:
            near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.3) or list(names[:3])
            raise InvalidInput(
                f"exclude names {pattern[:120]!r}, and the graph has no such node.",
                code="unknown_node",
                next_step=f"Similar are {', '.join(map(repr, near))}; a glob such as '/encoder/*' names several.",
            )
        named |= matched
    return named


def _channel(node: Any, axes: int) -> int:
    if node.op_type == "MatMul":
        return axes - 1
    if node.op_type == "Gemm":
        return 0 if _attribute(node, "transB", 0) else 1
    return 1 if node.op_type in ("ConvTranspose", "LSTM", "GRU", "RNN") else 0


def _attribute(node: Any, name: str, default: int) -> int:
    return next((int(one.i) for one in node.attribute if one.name == name), default)


def _size(tensor: Any) -> int:
    size = 1
    for length in tensor.dims:
        size *= length
    return size


def _either(words: Sequence[str]) -> str:
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))

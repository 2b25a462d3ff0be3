"""Attention as torch's exporter writes it, with fewer nodes.

It turns keys by way of three axes, and asks of each share whether it is a number: there is none for a position that may look at
no other. With a large negative number in the place of minus infinity there always is one.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from openmaas.tasks.optimization.graphs import array_of, constants, drop_unused, tensor_of, uses

_HIDDEN: Final = -3e4
"""Far below any score, and a number in 16 bits too."""


def simpler_attention(model: Any) -> tuple[Any, int]:
    """A copy of an onnx.ModelProto, and how many nodes fewer it has.

    The caller proves that answers stay: a position that sees no other gets a mean of all where it had zero.
    """
    import onnx

    made = onnx.ModelProto()
    made.CopyFrom(model)
    before = len(made.graph.node)
    givers = {name: node for node in made.graph.node for name in node.output}
    _turn_keys_at_once(made, givers)
    _leave_out_questions(made, givers)
    _drop_unread(made)
    return made, before - len(made.graph.node)


def _turn_keys_at_once(model: Any, givers: dict[str, Any]) -> None:
    """[b, s, h, d] → [b, h, s, d] → [b·h, s, d] → [b·h, d, s] → [b, h, d, s] by one transposition."""
    from onnx import helper

    for last in model.graph.node:
        chain = [last]
        for op in ("Transpose", "Reshape", "Transpose"):
            chain.append(givers.get(chain[-1].input[0]) if chain[-1] is not None and chain[-1].input else None)
            if chain[-1] is None or chain[-1].op_type != op:
                break
        else:
            _, inner, _, first = chain
            if last.op_type == "Reshape" and (_turn(inner), _turn(first)) == ([0, 2, 1], [0, 2, 1, 3]):
                last.op_type = "Transpose"
                del last.input[:], last.attribute[:]
                last.input.append(first.input[0])
                last.attribute.append(helper.make_attribute("perm", [0, 2, 3, 1]))


def _turn(node: Any) -> list[int]:
    return next((list(one.ints) for one in node.attribute if one.name == "perm"), [])


def _leave_out_questions(model: Any, givers: dict[str, Any]) -> None:
    """Where(IsNaN(Softmax(scores + Where(seen, 0, -∞))), 0, …) becomes the Softmax."""
    tensors = constants(model)
    hidden = "attention/hidden"
    instead: dict[str, str] = {}
    for node in model.graph.node:
        asked = givers.get(node.input[0]) if node.op_type == "Where" else None
        shares = givers.get(node.input[2]) if asked is not None and asked.op_type == "IsNaN" else None
        if asked is None or shares is None or shares.op_type != "Softmax" or asked.input[0] != node.input[2]:
            continue
        total = givers.get(shares.input[0])
        added = [givers[name] for name in total.input if name in givers] if total is not None and total.op_type == "Add" else []
        for mask in added:
            if mask.op_type != "Where" or not (mask.input[2] == hidden or _is_lowest(tensors.get(mask.input[2]))):
                continue
            mask.input[2] = hidden
            instead[node.output[0]] = shares.output[0]
    if instead:
        model.graph.initializer.append(tensor_of(np.asarray(_HIDDEN, np.float32), hidden))
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = instead.get(name, name)


def _is_lowest(tensor: Any) -> bool:
    return tensor is not None and tensor.data_type == 1 and bool(np.isneginf(array_of(tensor)).all())


def _drop_unread(model: Any) -> None:
    while True:
        read = uses(model)
        idle = [node for node in model.graph.node if not any(name in read for name in node.output)]
        if not idle:
            break
        for node in idle:
            model.graph.node.remove(node)
    drop_unused(model)

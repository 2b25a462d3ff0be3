"""Weights alone get fewer bits: methods affine and weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from openmaas.core.recipes import Quantize
from openmaas.tasks.optimization.graphs import array_of, constants
from openmaas.tasks.optimization.passes.quantize.layers import Layer
from openmaas.tasks.optimization.passes.quantize.rounding import Codes, quantise, quantise_groups, shared_axes
from openmaas.tasks.optimization.passes.quantize.storing import Store, with_nibbles

OPS: Final = frozenset({"MatMul", "Gemm", "Conv", "ConvTranspose", "Gather", "LSTM", "GRU", "RNN"})


def prepared(model: Any, parameters: Quantize) -> Any:
    """The model in an operator set that can hold what the method writes."""
    fewest = min(parameters.bits, parameters.tables or parameters.bits)
    return with_nibbles(model) if fewest <= 4 or parameters.group else model


def store(model: Any, layers: Sequence[Layer], parameters: Quantize, seed: int) -> Any:
    """The model, changed in place: these layers' weights are kept as codes."""
    random = np.random.default_rng(seed) if parameters.rounding == "stochastic" else None
    wanted = {layer.name: layer for layer in layers}
    tensors, store_ = constants(model), Store(model)
    made: dict[tuple[str, int], Codes] = {}
    for node in list(model.graph.node):
        bits = parameters.tables if node.op_type == "Gather" and parameters.tables else parameters.bits
        for weight, channel in wanted[node.name].weights if node.name in wanted else ():
            array, place = array_of(tensors[weight]), list(node.input).index(weight)
            group = _group(array.shape, node.op_type, parameters) if store_.nibbles else 0
            if group:
                axis = array.ndim - 2 if node.op_type == "MatMul" else 1
                codes = quantise_groups(array, bits, axis, group, parameters.symmetric)
                store_.compact(node, place, codes, bits, axis, group)
                continue
            if (weight, bits) not in made:
                axes = shared_axes(array.shape, channel, parameters.per_channel)
                made[weight, bits] = quantise(array, bits, axes, parameters.symmetric, random)
            codes, datatype = made[weight, bits], tensors[weight].data_type
            if node.op_type == "Gather":
                store_.gathered(node, codes, bits, datatype)
            elif parameters.method == "weights" and node.op_type == "MatMul" and datatype == 1:
                store_.compact(node, place, codes, bits, channel)
            else:
                store_.restored(node, place, codes, bits, datatype)
    store_.finish()
    return model


def _group(shape: tuple[int, ...], op: str, parameters: Quantize) -> int:
    """Neighbours that share a scale; 0 where a whole channel does, as where it is no multiple of the group."""
    if parameters.method != "weights" or not parameters.group or len(shape) != 2:
        return 0
    length = {"MatMul": shape[0], "Gather": shape[1] if parameters.bits <= 4 else 0}.get(op, 0)
    return parameters.group if length and length % parameters.group == 0 else 0

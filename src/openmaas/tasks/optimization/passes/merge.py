"""One model of several: the mean of their weights, TIES, or a chain."""

from __future__ import annotations

from openmaas.core.recipes import Merge
from openmaas.tasks.optimization.base import Bench, Piece
from openmaas.tasks.optimization.chaining import chain
from openmaas.tasks.optimization.weights import merge_weights

TAKES = ("onnx",)


def run(piece: Piece, parameters: Merge, bench: Bench) -> Piece:
    """Raises Refused that names the first node or tensor in which the models are not alike, or that cannot be joined."""
    if parameters.method == "chain":
        return chain(piece, parameters, bench)
    return merge_weights(piece, parameters, bench)

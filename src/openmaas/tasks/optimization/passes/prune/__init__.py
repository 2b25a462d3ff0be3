"""Weights taken away: single ones, n of each m neighbours, whole channels, or trees of an ensemble.

- global, layer: the smallest by magnitude (Han et al. 2015), of all layers together or of each
- l1: global, after training with an L1 term, which makes weights small that the answers need least
- n:m: n of each m neighbours along the input axis stay (Mishra et al. 2021, arXiv 2104.08378)
- channels: whole channels, and the layers shrink (see channels.py)
- trees: the last ones of an ensemble (see ../trees.py)
"""

from __future__ import annotations

from openmaas.core.recipes import Prune
from openmaas.tasks.optimization.base import Bench, Piece

TAKES = ("onnx",)


def run(piece: Piece, parameters: Prune, bench: Bench) -> Piece:
    """Facts: `prune`, with the sparsity or shape of each layer and the losses of training. Raises Refused."""
    if parameters.method == "trees":
        from openmaas.tasks.optimization.passes.trees import prune_trees

        return prune_trees(piece, parameters, bench)
    if parameters.method == "channels":
        from openmaas.tasks.optimization.passes.prune.channels import prune_channels

        return prune_channels(piece, parameters, bench)
    from openmaas.tasks.optimization.passes.prune.weights import prune_weights

    return prune_weights(piece, parameters, bench)

"""A smaller model that is trained to answer as a larger one does."""

from __future__ import annotations

from openmaas.core.recipes import Distil
from openmaas.tasks.optimization.base import Bench, Piece

TAKES = ("onnx",)


def run(piece: Piece, parameters: Distil, bench: Bench) -> Piece:
    """Raises Refused where teacher and student do not go together, and names the node of a student that cannot be trained."""
    from openmaas.tasks.optimization.distillation import distil

    return distil(piece, parameters, bench)

"""Which layers suffer most: each one quantised alone, by how far the model's answers move."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from openmaas.core.recipes import Quantize
from openmaas.tasks.optimization.base import Bench, Piece
from openmaas.tasks.optimization.checks import opened, relative_error
from openmaas.tasks.optimization.graphs import write_graph
from openmaas.tasks.optimization.passes.quantize.layers import Layer
from openmaas.tasks.optimization.rows import row_batches

_ROWS: Final = 64
_BATCH: Final = 32
_SECONDS: Final = 900.0
"""That a search may take; layers that it did not come to count as not sensitive."""


def rank(
    piece: Piece, layers: Sequence[Layer], quantised: Callable[[Sequence[Layer]], Any], bench: Bench
) -> list[tuple[str, float]]:
    """Layers with the mean squared change of the answers relative to full precision, the worst first.

    quantised: the model with only these layers quantised.
    """
    assert bench.training is not None
    batches = row_batches(piece.manifest, bench.training, _ROWS, bench.seed, _BATCH)
    source = opened(piece.artifact, piece.folder, piece)
    expected = [source.run(dict(batch)) for batch in batches]
    folder = bench.folder / "trial"
    folder.mkdir()
    found, end = [], time.monotonic() + _SECONDS
    for number, layer in enumerate(layers):
        bench.progress(f"how sensitive is {layer.name}", number, len(layers))
        if time.monotonic() > end:
            bench.log(f"The search took {_SECONDS:.0f} s; {len(layers) - number} layers were not tried.")
            break
        trial = opened(write_graph(quantised([layer]), folder), folder, piece)
        error = relative_error(expected, [trial.run(dict(batch)) for batch in batches])
        found.append((layer.name, error if math.isfinite(error) else math.inf))
    for path in sorted(folder.iterdir()):
        path.unlink()
    folder.rmdir()
    return sorted(found, key=lambda one: -one[1])


def worst(ranking: Sequence[tuple[str, float]], layers: int, parameters: Quantize) -> set[str]:
    """Names of the layers that stay in float: their share, rounded up, and never all."""
    count = min(math.ceil(parameters.keep_worst * layers), layers - 1)
    return {name for name, _ in ranking[:count]}

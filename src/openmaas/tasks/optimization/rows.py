"""Rows of a training set in batches, as an engine is given them: sequences without padding."""

from __future__ import annotations

from typing import Any

import numpy as np

from openmaas.core.manifest import Manifest
from openmaas.tasks.examples import Examples
from openmaas.tasks.optimization.base import Arrays


def row_batches(manifest: Manifest, training: Examples, rows: int, seed: int, size: int) -> list[Arrays]:
    """A seeded sample of `rows` rows (all of them where there are fewer), `size` in a batch.

    Rows of different lengths come one by one, each cut to its own length. A model with a fixed batch gets batches of that, the
    last one filled up with rows that it has.
    """
    chosen = np.sort(np.random.default_rng(seed).permutation(training.rows)[:rows])
    if training.lengths is not None and manifest.padding is not None:
        return [_cut(training, row, manifest.padding.pad) for row in chosen.tolist()]
    fixed = [spec.shape[0] for spec in manifest.signature.inputs if spec.shape and spec.shape[0] > 0]
    size = fixed[0] if fixed else size
    parts = [chosen[start : start + size] for start in range(0, len(chosen), size)]
    if fixed and len(parts[-1]) < size:
        parts[-1] = np.resize(parts[-1], size)
    return [{name: array[part] for name, array in training.inputs.items()} for part in parts]


def _cut(training: Examples, row: int, sequences: Any) -> Arrays:
    assert training.lengths is not None
    length = int(training.lengths[row])
    return {
        name: np.ascontiguousarray(array[row : row + 1, :length] if name in sequences else array[row : row + 1])
        for name, array in training.inputs.items()
    }

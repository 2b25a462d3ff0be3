"""Two runnable forms of one model held against each other on the same inputs, at several batch sizes and lengths."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmaas.core.errors import OpenMaaSError
from openmaas.core.manifest import Comparison, Parity
from openmaas.core.types import Signature
from openmaas.formats.compare import ATOL, RTOL, compare
from openmaas.formats.sample import stretch

Arrays = dict[str, NDArray[Any]]
Run = Callable[[Arrays], Mapping[str, NDArray[Any]]]
BATCHES = (1, 2, 7)


def hold_against(source: Run, target: Run, inputs: Arrays, signature: Signature) -> tuple[tuple[Comparison, ...], str | None]:
    """What to store, and what is wrong (None when nothing is). Where axis 0 is fixed, the inputs are run as they are."""
    comparisons: list[Comparison] = []
    reason: str | None = None
    for batch, some in _cases(inputs, signature):
        try:
            comparison, wrong = compare(batch, target(some), source(some))
        except OpenMaaSError as error:
            return tuple(comparisons), f"At batch {batch}: {error.message}"
        comparisons.append(comparison)
        reason = reason or wrong
    return tuple(comparisons), f"{reason}." if reason else None


def _cases(inputs: Arrays, signature: Signature) -> list[tuple[int, Arrays]]:
    if not all(spec.shape[:1] == (-1,) for spec in signature.inputs):
        return [(max((spec.shape[0] for spec in signature.inputs if spec.shape), default=1), inputs)]
    cases = [(batch, stretch(inputs, batch)) for batch in BATCHES]
    sequences = {spec.name for spec in signature.inputs if spec.shape[1:2] == (-1,)}
    lengths = {inputs[name].shape[1] for name in sequences}
    if len(lengths) == 1 and (length := lengths.pop()) > 3:
        some = stretch(inputs, BATCHES[1])
        half = (length + 1) // 2
        cases.append((BATCHES[1], {n: np.ascontiguousarray(a[:, :half]) if n in sequences else a for n, a in some.items()}))
    return cases


def parity_of(
    target: str, origin: str, comparisons: tuple[Comparison, ...], reason: str | None, *, source: str | None = None
) -> Parity:
    import torch

    return Parity(
        source=source or f"torch {torch.__version__}",
        target=target,
        passed=reason is None,
        sample=origin,
        rtol=RTOL,
        atol=ATOL,
        comparisons=comparisons,
        reason=reason,
    )

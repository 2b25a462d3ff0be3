"""What a model's answers show about it that its file does not say, or says wrongly. Pure functions on arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmaas.core.datatypes import datatype_name
from openmaas.core.types import Signature, TensorSpec

Arrays = Mapping[str, NDArray[Any]]


def correct_outputs(signature: Signature, answers: Arrays, unknown: frozenset[str], notes: list[str]) -> Signature:
    """Output shapes as the model really answers: an axis whose declared length is not kept becomes -1, and is noted.

    unknown: the outputs whose shape the file does not give at all.
    """
    outputs = tuple(_corrected(spec, answers[spec.name].shape, unknown, notes) for spec in signature.outputs)
    return Signature(inputs=signature.inputs, outputs=outputs)


def _corrected(spec: TensorSpec, seen: tuple[int, ...], unknown: frozenset[str], notes: list[str]) -> TensorSpec:
    if spec.name in unknown and not spec.shape:
        return TensorSpec(name=spec.name, datatype=spec.datatype, shape=(-1,) * len(seen))
    if len(seen) == len(spec.shape) and all(want in (-1, have) for want, have in zip(spec.shape, seen, strict=True)):
        return spec
    notes.append(f"Output {spec.name!r} is declared as {list(spec.shape)} and came as {list(seen)}.")
    return TensorSpec(name=spec.name, datatype=spec.datatype, shape=_loosened(spec.shape, seen))


def _loosened(declared: Sequence[int], seen: Sequence[int]) -> tuple[int, ...]:
    if len(declared) != len(seen):
        return (-1,) * len(seen)
    return tuple(want if want == have else -1 for want, have in zip(declared, seen, strict=True))


def specs_of(arrays: Arrays) -> tuple[TensorSpec, ...]:
    """The arrays as a signature would list them, axis 0 free."""
    return tuple(
        TensorSpec(name=name, datatype=datatype_name(array.dtype), shape=(-1, *array.shape[1:]))
        for name, array in arrays.items()
    )


def not_finite(answers: Arrays) -> str:
    """The outputs that hold NaN or Infinity, in words; empty when none does."""
    return ", ".join(repr(name) for name, array in answers.items() if array.dtype.kind == "f" and not np.isfinite(array).all())

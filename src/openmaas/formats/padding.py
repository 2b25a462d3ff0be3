"""Whether rows of different lengths may share a batch: each alone, and all of them padded, must give the same answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmaas.core.datatypes import numpy_dtype
from openmaas.core.errors import InvalidInput, OpenMaaSError
from openmaas.core.lengths import real_lengths
from openmaas.core.processing import Padding
from openmaas.core.types import Signature, TensorSpec
from openmaas.formats.base import Task
from openmaas.formats.compare import compare, rows, stack
from openmaas.formats.description import FILE_NAME
from openmaas.formats.observed import not_finite
from openmaas.formats.sample import stretch
from openmaas.formats.trial import Trial

Arrays = dict[str, NDArray[Any]]
Run = Callable[[Arrays], Arrays]
_ROWS = 7


def prove_declared(
    task: Task, run: Run, signature: Signature, first: Trial, batchable: bool, notes: list[str]
) -> Padding | None:
    """The padding that openmaas.yaml declares, proved on the sample that was given; None where it declares none.

    What does not hold is refused with InvalidInput if a person wrote it, and dropped with a note if a conversion did.
    """
    declared = task.description.padding
    if declared is None:
        return None
    reason = _misfit(declared, signature) or _disproof(run, declared, first, batchable)
    if reason is None:
        return declared
    if task.description.converted is not None:
        notes.append(f"Requests of different lengths do not share a batch: padding is not proved here. {reason}")
        return None
    raise InvalidInput(
        f"{FILE_NAME} says padding. {reason}",
        code="padding_not_proved",
        next_step=f"Correct 'padding' in {FILE_NAME} or remove it: only rows of one length then share a batch.",
    )


def prove_rows(run: Run, alone: Sequence[Arrays], declared: Padding, length: int) -> str | None:
    """Rows one by one as they are, and all at once, padded to `length`: what is wrong, None where the answers are equal.

    alone: one row each, [1, L, …] for the inputs that are padded. length: as long as the longest of them, or longer.
    """
    lengths = [next(one[name].shape[1] for name in declared.pad) for one in alone]
    try:
        singles = [run(one) for one in alone]
        joint = run(stack([_padded(one, declared, length) for one in alone]))
    except OpenMaaSError as error:
        return error.message
    if reason := _misshapen(joint, singles, lengths, declared, length):
        return reason
    expected, actual = {}, {}
    for name, array in joint.items():
        if name in declared.trim:
            expected[name] = np.concatenate([single[name][0] for single in singles])
            actual[name] = np.concatenate([array[row, :kept] for row, kept in enumerate(lengths)])
        else:
            expected[name], actual[name] = np.concatenate([single[name] for single in singles]), array
    if names := not_finite(expected):
        return f"Output {names} holds NaN or Infinity, which shows nothing."
    return compare(len(alone), actual, expected)[1]


def _padded(row: Arrays, declared: Padding, length: int) -> Arrays:
    return {
        name: np.pad(
            array, [(0, 0), (0, length - array.shape[1]), *[(0, 0)] * (array.ndim - 2)], constant_values=declared.pad[name]
        )
        if name in declared.pad
        else array
        for name, array in row.items()
    }


def _misshapen(joint: Arrays, singles: Sequence[Arrays], lengths: Sequence[int], declared: Padding, length: int) -> str | None:
    """An output that cannot be told apart by rows, or whose length is not what `trim` says."""
    for name, array in joint.items():
        trimmed = name in declared.trim
        if array.shape[: 1 + trimmed] != (len(singles), length)[: 1 + trimmed]:
            return f"Output {name!r} has shape {list(array.shape)} for {len(singles)} rows of length {length}."
        for single, own in zip(singles, lengths, strict=True):
            wanted = (1, own, *array.shape[2:]) if trimmed else (1, *array.shape[1:])
            if single[name].shape != wanted:
                return (
                    f"Output {name!r} has shape {list(single[name].shape)} for a row of length {own} alone, and "
                    f"{list(array.shape)} for {len(singles)} rows padded to {length}."
                )
    return None


# ── what was declared ────────────────────────────────────────────────────────────────────────────────────────────────


def _misfit(declared: Padding, signature: Signature) -> str | None:
    """Why the model's signature rules it out."""
    if not declared.pad:
        return "It names no input in 'pad'."
    for field, names, specs in (("pad", declared.pad, signature.inputs), ("trim", declared.trim, signature.outputs)):
        known = {spec.name: spec for spec in specs}
        for name in names:
            if name not in known:
                return f"{field} names {name[:80]!r}; the model has {', '.join(map(repr, known)) or 'none'}."
            if not _is_sequence(known[name]):
                return f"Axis 1 of {name!r} {known[name].datatype} {list(known[name].shape)} is no sequence of any length."
    for spec in signature.inputs:
        if spec.name in declared.pad and not _holds(spec, declared.pad[spec.name]):
            return f"{str(declared.pad[spec.name])[:40]}, with which {spec.name!r} is filled up, is no {spec.datatype}."
    return None


def _is_sequence(spec: TensorSpec) -> bool:
    return len(spec.shape) > 1 and spec.shape[1] == -1 and spec.datatype != "BYTES"


def _holds(spec: TensorSpec, value: int) -> bool:
    try:
        with np.errstate(over="ignore"):
            return int(np.array(value).astype(numpy_dtype(spec.datatype))) == value
    except OverflowError:
        return False


def _disproof(run: Run, declared: Padding, first: Trial, batchable: bool) -> str | None:
    """The first rows of the sample, cut to different lengths, alone and padded to the length that the sample has."""
    if not batchable:
        return "Its rows may not share a batch."
    if first.origin != "given":
        return "It is proved on real rows: push with a sample (--sample FILE)."
    lengths = {name: first.inputs[name].shape[1] for name in declared.pad}
    length = min(lengths.values())
    if length < 2 or len(set(lengths.values())) > 1:
        return f"It is proved on rows of two tokens or more, equally many in each input; the sample has {lengths}."
    seven = stretch(first.inputs, _ROWS)
    kept = [max(1, int(real) * (row + 1) // (_ROWS + 1)) for row, real in enumerate(real_lengths(seven, declared.pad))]
    alone = [
        {name: array[:, :end] if name in declared.pad else array for name, array in rows(seven, row, row + 1).items()}
        for row, end in enumerate(kept)
    ]
    return prove_rows(run, alone, declared, length)

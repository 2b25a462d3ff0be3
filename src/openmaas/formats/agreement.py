"""Whether an engine that computes otherwise still gives the model's answers.

Full precision has the tolerance of compare.py: room for another order of summing and for nothing else.

An engine that computes in bfloat16 rounds every number to 8 bits, and single values differ by percents of their own size where
the row as a whole points the same way. What callers use is the row: its direction (embeddings, search), its largest value
(classes), its size. So reduced precision is held against four bounds, on every row:

    cosine      between the two rows, at least what OPENMAAS_ENGINE_COSINE says
    length      of the row: differs by no more than a direction may, √(2 · (1 - cosine)): 1.4% at 0.9999
    largest     value of scores at the same place; two values closer than bfloat16 can tell apart, 2⁻⁸ of the largest, are a tie
    labels      integers, booleans and text are equal

The largest value says something of scores and nothing of a direction. So it does not count in an output that is declared as an
embedding, whose rows all have the length one (unless they sum to one, as probabilities do), or that has more than two axes and
no declared labels of tokens: those are the scores of one token each.
A row of a single number has no direction; it may differ by the same √(2 · (1 - cosine)) of the output's largest number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from openmaas.core.manifest import Comparison
from openmaas.core.processing import Embedding, Labels, Output
from openmaas.formats.compare import UNBOUNDED, Array, compare, difference, is_number

_TIE = 2.0**-8
Matrix = NDArray[np.float64]


def hold_against(
    batch: int,
    actual: Mapping[str, Array],
    expected: Mapping[str, Array],
    *,
    precision: str,
    least_cosine: float,
    declared: Output | None = None,
) -> tuple[Comparison, str | None]:
    """An engine's answers against the reference: what to store, and what is wrong (None when nothing is).

    precision: of the engine, empty for full. declared: what the manifest says of the outputs. Axis 0 are the rows.
    """
    comparison, wrong = compare(batch, actual, expected)
    if any(name not in actual or actual[name].shape != array.shape for name, array in expected.items()):
        return comparison, wrong
    pairs = {name: _rows(actual[name], array) for name, array in expected.items() if is_number(array)}
    wide = {name: pair for name, pair in pairs.items() if pair[0].shape[1] > 1}
    shares = {
        name: _share_of_same_largest(*scores)
        for name in wide
        if (scores := _scores(actual[name], expected[name], _declared_for(name, declared, pairs))) is not None
    }
    comparison = msgspec.structs.replace(
        comparison,
        cosine=min((float(_cosines(*pair).min(initial=1.0)) for pair in wide.values()), default=None),
        top1=min(shares.values(), default=None),
    )
    if not precision:
        return comparison, wrong
    found = [f"output {name!r} {reason}" for name, pair in pairs.items() if (reason := _too_far(*pair, least_cosine))]
    found += [
        f"output {name!r} has its largest value at another place in {1 - share:.1%} of the rows"
        for name, share in shares.items()
        if share < 1.0
    ]
    labels = {name: difference(actual[name], array).reason for name, array in expected.items() if not is_number(array)}
    found += [f"output {name!r}: {reason}" for name, reason in labels.items() if reason]
    return comparison, f"at batch {batch} {'; '.join(found)}" if found else None


class RowAgreement(NamedTuple):
    """Answers of two versions to the same rows, row by row.

    max_abs_diff: of all numbers. cosines: [N], the least of any output with rows of two numbers or more. classes: [N] each
    (actual, expected), what the largest score says, or a single whole number. numbers: [N] each, of an output with one number a
    row. None where no output is such.
    """

    max_abs_diff: float
    cosines: Matrix | None
    classes: tuple[NDArray[np.int64], NDArray[np.int64]] | None
    numbers: tuple[Matrix, Matrix] | None


def agree(actual: Mapping[str, Array], expected: Mapping[str, Array], declared: Output | None = None) -> RowAgreement | None:
    """Of outputs that both have with equal shapes; single outputs are the same whatever they are called. None without any."""
    if len(actual) == len(expected) == 1:
        actual = {next(iter(expected)): next(iter(actual.values()))}
    common = {name: array for name, array in expected.items() if name in actual and actual[name].shape == array.shape}
    numeric = {name: _rows(actual[name], array) for name, array in common.items() if is_number(array) and array.ndim}
    if not common:
        return None
    wide = {name: pair for name, pair in numeric.items() if pair[0].shape[1] > 1}
    scores = [
        found
        for name in wide
        if (found := _scores(actual[name], expected[name], _declared_for(name, declared, numeric))) is not None
        and len(found[0]) == len(expected[name])
    ]
    labels = [
        (actual[name].reshape(-1).astype(np.int64), array.reshape(-1).astype(np.int64))
        for name, array in common.items()
        if array.dtype.kind in "iub" and array.size == len(array)
    ]
    top = (scores[0][0].argmax(axis=1), scores[0][1].argmax(axis=1)) if scores else labels[0] if labels else None
    single = next((pair for pair in numeric.values() if pair[0].shape[1] == 1), None)
    return RowAgreement(
        max_abs_diff=max((difference(actual[name], expected[name]).max_abs for name in numeric), default=0.0),
        cosines=np.min([_cosines(*pair) for pair in wide.values()], axis=0) if wide else None,
        classes=top,
        numbers=(single[0].reshape(-1), single[1].reshape(-1)) if single is not None else None,
    )


def _declared_for(name: str, declared: Output | None, outputs: Mapping[str, Any]) -> Output | None:
    """What is declared of this output; a declaration without a name is about the only one."""
    fits = declared is not None and (declared.output == name or (not declared.output and len(outputs) == 1))
    return declared if fits else None


def _scores(actual: Array, expected: Array, declared: Output | None) -> tuple[Matrix, Matrix] | None:
    """Both as rows of scores; None where the output's largest value says nothing."""
    if isinstance(declared, Labels):
        classes = expected.shape[-1]
        a, b = _rows(actual, expected)
        return (a.reshape(-1, classes), b.reshape(-1, classes)) if declared.tokens else (a, b)
    if isinstance(declared, Embedding) or expected.ndim != 2:
        return None
    a, b = _rows(actual, expected)
    bounded = bool((np.abs(b) <= 1.001).all())
    directions = bounded and _all_one(np.linalg.norm(b, axis=1)) and not _all_one(b.sum(axis=1))
    return None if directions else (a, b)


def _all_one(values: Matrix) -> bool:
    return bool(np.allclose(values, 1.0, atol=1e-3))


def _rows(actual: Array, expected: Array) -> tuple[Matrix, Matrix]:
    """Both as rows of numbers. Where the reference is not finite, equal values count as none."""
    a, b = (_matrix(array) for array in (actual, expected))
    same = ~np.isfinite(b) & ((a == b) | (np.isnan(a) & np.isnan(b)))
    return np.where(same, 0.0, a), np.where(same, 0.0, b)


def _matrix(array: Array) -> Matrix:
    values = array.astype(np.float64)
    return values.reshape(len(values), -1) if values.ndim > 1 and len(values) else values.reshape(-1, 1)


def _cosines(a: Matrix, b: Matrix) -> Matrix:
    """Of each pair of rows; 1 where both are zero, 0 where one of them is, or something is not finite."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        a, b = (side / _largest(side) for side in (a, b))
        lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        cosines = np.where(lengths > 0, (a * b).sum(axis=1) / lengths, 0.0)
    both_zero = ~a.any(axis=1) & ~b.any(axis=1)
    found: Matrix = np.nan_to_num(np.where(both_zero, 1.0, np.minimum(cosines, 1.0)), nan=0.0)
    return found


def _largest(rows: Matrix) -> Matrix:
    """The largest value of each row, 1 where all are zero: divided by it, no square overflows or vanishes."""
    largest: Matrix = np.abs(rows).max(axis=1, keepdims=True, initial=0.0)
    return np.where(largest > 0, largest, 1.0)


def _share_of_same_largest(a: Matrix, b: Matrix) -> float:
    if not b.size:
        return 1.0
    at = a.argmax(axis=1)
    index = np.arange(len(b))
    tie = _TIE * np.abs(b).max(axis=1)
    return float((b[index, at] >= b.max(axis=1) - tie).mean())


def _too_far(a: Matrix, b: Matrix, least_cosine: float) -> str | None:
    if not b.size:
        return None
    apart = math.sqrt(2.0 * (1.0 - least_cosine))
    if b.shape[1] == 1:
        return _too_far_alone(a, b, apart)
    cosine = float(_cosines(a, b).min())
    if cosine < least_cosine:
        return f"has a row of cosine {cosine:.6f}, less than {least_cosine}"
    unit = _largest(b)  # so that no square overflows
    lengths = np.linalg.norm(b / unit, axis=1)
    change = np.abs(np.linalg.norm(a / unit, axis=1) - lengths) / np.where(lengths > 0, lengths, 1.0)
    longest = float(change.max())
    return f"has a row whose length differs by {longest:.2%}, more than {apart:.2%}" if longest > apart else None


def _too_far_alone(a: Matrix, b: Matrix, apart: float) -> str | None:
    gap = float(np.nan_to_num(np.abs(a - b), nan=UNBOUNDED, posinf=UNBOUNDED).max())
    most = apart * float(np.abs(b).max())
    return f"differs by up to {gap:.3g}, more than {most:.3g}" if gap > most else None


def misfit(answers: Mapping[str, Any], reference: Mapping[str, Any]) -> str | None:
    """The output that holds NaN or Infinity where the reference has a number, in a sentence; None where none does.

    Without a number to hold it against, an answer of the reference itself is no better: nothing can be said of others by it.
    """
    for name, expected in reference.items():
        if not is_number(expected):
            continue
        known, given = (np.isfinite(side.astype(np.float64)) for side in (expected, answers[name]))
        if expected.size and not known.any():
            return f"Every value of the output {name!r} is NaN or Infinity, also in the reference."
        if bad := int((known & ~given).sum()):
            return f"{bad} of {expected.size} values of the output {name!r} are NaN or Infinity."
    return None

"""Truth and answers of the rows that a figure is of: as arrays, and as they are kept."""

from __future__ import annotations

import base64
import binascii
import zlib
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from openmaas.core.errors import InvalidInput, Refused
from openmaas.core.evaluations import Outcomes

MOST_ROWS: Final = 50_000
"""Rows that outcomes hold: about 0.5 MiB in JSON where they are numbers, so that a job's report stays below 1 MiB."""

Kind = Literal["classes", "values", "losses"]

Array = NDArray[Any]

_DTYPES: Final[dict[str, Any]] = {"classes": np.dtype("<i4"), "values": np.dtype("<f4"), "losses": np.dtype("<f4")}


@dataclass(frozen=True)
class Answered:
    """Outcomes as arrays: truth [N] and answers [N] of their rows, and the digest of which rows these are.

    kind: classes are int64 indices, values float64, losses float64 with the weight of each row as its truth.
    groups: int64 [N], of losses: which rows belong together, so that they are resampled together.
    """

    kind: Kind
    truth: Array
    answers: Array
    rows: str
    groups: Array | None = None

    def __len__(self) -> int:
        return len(self.truth)


def encode_outcomes(kind: Kind, truth: Array, answers: Array, rows: str, groups: Array | None = None) -> Outcomes:
    """truth and answers: [N]; of losses, their weights and themselves. rows: Examples.digest. groups: as Answered has them.

    Raises Refused for more than MOST_ROWS rows and for numbers that float32 does not hold.
    """
    together = "" if groups is None else _packed("classes", groups)
    return Outcomes(kind=kind, truth=_packed(kind, truth), answers=_packed(kind, answers), rows=rows, groups=together)


def decode_outcomes(outcomes: Outcomes) -> Answered:
    """Raises InvalidInput for what `encode_outcomes` cannot have made, before it takes memory."""
    truth, answers = (_unpacked(outcomes.kind, text) for text in (outcomes.truth, outcomes.answers))
    if len(truth) != len(answers) or not len(truth):
        raise InvalidInput(f"The outcomes have {len(truth)} truths and {len(answers)} answers.", code="invalid_outcomes")
    groups = _unpacked("classes", outcomes.groups) if outcomes.groups else None
    if groups is not None and len(groups) != len(truth):
        raise InvalidInput(f"The outcomes have {len(truth)} truths and {len(groups)} groups.", code="invalid_outcomes")
    return Answered(outcomes.kind, truth, answers, outcomes.rows, groups)


def require_answered(outcomes: Outcomes | Answered) -> Answered:
    """Raises Refused where there is no row, and for numbers that are none."""
    known = decode_outcomes(outcomes) if isinstance(outcomes, Outcomes) else outcomes
    if not len(known):
        raise Refused("There is no row to tell a figure of.", code="no_rows")
    for noun, array in (("truth", known.truth), ("answer", known.answers)):
        wrong = np.flatnonzero(~np.isfinite(array))
        if len(wrong):
            raise Refused(
                f"The {noun} of {len(wrong)} of {len(known)} rows is NaN or Infinity; the first is row {int(wrong[0])}.",
                code="not_finite",
            )
    return known


def grouped(known: Answered, groups: Array | None) -> Answered:
    """Losses with a row for each group, of the weighed mean of its rows and of all their weight."""
    if groups is None or known.kind != "losses":
        return known
    places = np.unique(groups, return_inverse=True)[1]
    weights, sums = np.bincount(places, known.truth), np.bincount(places, known.truth * known.answers)
    means = np.divide(sums, weights, out=np.zeros(len(sums)), where=weights > 0)
    return Answered(known.kind, weights, means, known.rows)


def _packed(kind: Kind, array: Array) -> str:
    if len(array) > MOST_ROWS:
        raise Refused(f"There are {len(array)} rows; the outcomes of at most {MOST_ROWS} are kept.", code="too_many_rows")
    with np.errstate(over="ignore"):
        plain = np.asarray(array).astype(_DTYPES[kind])
    if kind != "classes" and not np.isfinite(plain).all():
        raise Refused("There are numbers that float32 does not hold.", code="not_finite")
    return base64.b64encode(zlib.compress(plain.tobytes(), 9)).decode()


def _unpacked(kind: Kind, text: str) -> Array:
    dtype = _DTYPES[kind]
    most = MOST_ROWS * dtype.itemsize
    if len(text) > 2 * most:
        raise InvalidInput("The outcomes are larger than any that are kept.", code="invalid_outcomes")
    try:
        body = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), most + 1)
    except (binascii.Error, ValueError, zlib.error):
        raise InvalidInput("The outcomes are damaged.", code="invalid_outcomes") from None
    if len(body) > most or len(body) % dtype.itemsize:
        raise InvalidInput("The outcomes are damaged, or more than are kept.", code="invalid_outcomes")
    array = np.frombuffer(body, dtype).astype(np.int64 if kind == "classes" else np.float64)
    if not np.isfinite(array).all() or (kind == "classes" and (array < 0).any()):
        raise InvalidInput("The outcomes hold what is no class and no number.", code="invalid_outcomes")
    return array

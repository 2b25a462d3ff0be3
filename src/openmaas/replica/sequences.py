"""Rows of different lengths in one call: filled up with padding, and the answers cut back to each row's own length.

A version says so itself (core.processing.Padding), and it was proved at push that padding changes none of its answers. The
sequence is axis 1 of the inputs that are padded and of the outputs that are trimmed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from openmaas.core.errors import EngineFailed
from openmaas.core.lengths import real_lengths
from openmaas.core.processing import Padding
from openmaas.replica.waiting import Limits
from openmaas.replica.work import Tensors, Work

Lengths: TypeAlias = NDArray[np.intp]

# What one more call costs, told in tokens: rows of a request go into a call of their own only where that spares more padding.
_CALL: Final = 32


def measure(work: Work, padding: Padding) -> None:
    """Find out how long a request's rows are, and with whom they may share a batch.

    What a caller filled up himself, at the end of a row, counts as padding, unless an output would have to be told for it.
    A request whose inputs differ in length stays as it is, so that the model says what is wrong with it.
    """
    axes = {array.shape[1] if array.ndim > 1 and array.dtype != object else 0 for array in _padded(work, padding)}
    length = axes.pop() if len(axes) == 1 else 0
    if not length:
        work.lengths = None
        return
    work.key = (
        "padded",
        *[(name, array.shape[2:] if name in padding.pad else array.shape[1:]) for name, array in sorted(work.inputs.items())],
    )
    if work.lengths is None and not padding.trim:
        work.lengths = _real(work, padding)
    if work.lengths is not None:
        work.lengths = np.clip(np.asarray(work.lengths, np.intp), 1, length)
        length = int(work.lengths.max())
    work.length = length


def _padded(work: Work, padding: Padding) -> list[NDArray[np.generic]]:
    return [array for name, array in work.inputs.items() if name in padding.pad]


def _real(work: Work, padding: Padding) -> Lengths | None:
    """How long each row is without the padding at its end; None where no row has any."""
    if any((array[:, -1] != padding.pad[name]).all() for name, array in work.inputs.items() if name in padding.pad):
        return None
    return real_lengths(work.inputs, padding.pad)


def slices(lengths: Lengths, limits: Limits) -> list[Lengths]:
    """Which rows go into which call: within the limits, so that padding and calls together cost least.

    Sorted by length, the best slices are neighbours; which ones is found by dynamic programming over the place of the last cut.
    """
    count = len(lengths)
    order = np.argsort(lengths, kind="stable")
    longest = lengths[order]
    if count <= limits.rows and count * longest[-1] <= limits.tokens and _spares_nothing(longest):
        return [np.arange(count)]
    costs = np.zeros(count + 1, np.int64)
    cuts = np.zeros(count + 1, np.intp)
    for end in range(1, count + 1):
        length = int(longest[end - 1])
        most = max(1, min(limits.rows, limits.tokens // length, end))
        rows = np.arange(most, 0, -1)
        choices = costs[end - most : end] + rows * length + _CALL
        best = int(np.argmin(choices))
        costs[end], cuts[end] = choices[best], end - most + best
    found = []
    end = count
    while end:
        found.append(np.sort(order[cuts[end] : end]))
        end = int(cuts[end])
    return found[::-1]


def _spares_nothing(ascending: Lengths) -> bool:
    """Whether all padding of one call is less than what another call costs."""
    return bool(len(ascending) * ascending[-1] - ascending.sum() <= _CALL)


class Part(NamedTuple):
    """Rows of one request within a call. rows: of the request. at: of the call. whole: all that the request has."""

    work: int
    rows: slice | Lengths
    at: slice
    whole: bool


class Call:
    """Some rows of a batch that the engine gets together. length: of the longest of them. tokens: without padding."""

    __slots__ = ("inputs", "length", "parts", "rows", "tokens")

    def __init__(self, batch: Sequences, rows: Lengths) -> None:
        lengths = batch.lengths[rows]
        self.rows = len(rows)
        self.length = int(lengths.max())
        self.tokens = int(lengths.sum())
        self.parts = batch.parts(rows)
        self.inputs = {name: self._join(batch, name) for name in batch.works[0].inputs}

    @property
    def padded(self) -> int:
        """Tokens with the padding."""
        return self.rows * self.length

    def _join(self, batch: Sequences, name: str) -> NDArray[np.generic]:
        """One array that is written once."""
        pieces = [batch.works[part.work].inputs[name][part.rows] for part in self.parts]
        pad = batch.padding.pad.get(name)
        if pad is not None:
            pieces = [piece[:, : self.length] for piece in pieces]
        if len({piece.shape[1:] for piece in pieces}) == 1:
            return np.concatenate(pieces) if len(pieces) > 1 else np.ascontiguousarray(pieces[0])
        joined = np.full((self.rows, self.length, *pieces[0].shape[2:]), pad, pieces[0].dtype)
        for part, piece in zip(self.parts, pieces, strict=True):
            joined[part.at, : piece.shape[1]] = piece
        return joined


class Sequences:
    """A batch of requests: the calls that answer it, and the answers as they come in. lengths: of all its rows."""

    def __init__(self, works: Sequence[Work], padding: Padding, limits: Limits) -> None:
        self.works = works
        self.padding = padding
        self.lengths: Lengths = np.concatenate(
            [
                np.full(work.rows, work.length, np.intp) if work.lengths is None else np.asarray(work.lengths, np.intp)
                for work in works
            ]
        )
        self._starts = np.cumsum([0, *(work.rows for work in works)])
        self._slices = slices(self.lengths, limits)
        self.answers: list[Tensors] = [{} for _ in works]

    def calls(self) -> Iterator[Call]:
        """One after the other; each is made when its turn comes."""
        return (Call(self, rows) for rows in self._slices)

    def parts(self, rows: Lengths) -> list[Part]:
        """Whose these rows are. rows: ascending."""
        starts = self._starts
        owners = np.searchsorted(starts, rows, side="right") - 1
        edges = [0, *(np.flatnonzero(np.diff(owners)) + 1).tolist(), len(rows)]
        found = []
        for first, last in pairwise(edges):
            owner = int(owners[first])
            whole = last - first == self.works[owner].rows
            own = slice(None) if whole else rows[first:last] - starts[owner]
            found.append(Part(owner, own, slice(first, last), whole))
        return found

    def give(self, call: Call, outputs: Tensors) -> None:
        """Hand out what the engine gave for one call. Raises EngineFailed for an output that cannot be told apart."""
        for name, array in outputs.items():
            trimmed = name in self.padding.trim
            wanted = (call.rows, call.length) if trimmed else (call.rows,)
            if array.shape[: len(wanted)] != wanted:
                raise EngineFailed(
                    f"Output {name!r} has shape {list(array.shape)} for a batch of {call.rows} rows"
                    + (f" of length {call.length}." if trimmed else "."),
                    code="output_not_batched",
                )
            for part in call.parts:
                self._put(name, part, array[part.at], trimmed)

    def _put(self, name: str, part: Part, rows: NDArray[np.generic], trimmed: bool) -> None:
        work, answer = self.works[part.work], self.answers[part.work]
        if trimmed:
            self._put_trimmed(name, part, rows)
        elif part.whole:
            answer[name] = rows
        else:
            if name not in answer:
                answer[name] = np.empty((work.rows, *rows.shape[1:]), rows.dtype)
            answer[name][part.rows] = rows

    def _put_trimmed(self, name: str, part: Part, rows: NDArray[np.generic]) -> None:
        """As long as the request's own inputs; behind a row's own length there is 0, whoever was its neighbour."""
        work, answer = self.works[part.work], self.answers[part.work]
        length = _padded(work, self.padding)[0].shape[1]
        if part.whole and work.lengths is None:
            answer[name] = rows[:, :length]
            return
        if name not in answer:
            answer[name] = np.zeros((work.rows, length, *rows.shape[2:]), rows.dtype)
        own = np.arange(work.rows)[part.rows]
        for row, values in zip(own, rows, strict=True):
            end = work.length if work.lengths is None else work.lengths[row]
            answer[name][row, :end] = values[:end]

"""Real rows through source and conversion, whole and padded: what is equal, and what may be padded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from openmaas.core.manifest import Comparison
from openmaas.core.processing import Padding, TextInput
from openmaas.core.types import TensorSpec
from openmaas.formats.base import Task
from openmaas.formats.compare import compare
from openmaas.formats.compare import rows as rows_of
from openmaas.formats.huggingface.sentences import LONG, SENTENCES
from openmaas.formats.padding import prove_rows
from openmaas.formats.sample import fit, read_sample, split_expected, stretch
from openmaas.processing.text import Texts

Arrays = dict[str, NDArray[Any]]
Run = Callable[[Arrays], Arrays]
BATCHES = (1, 2, 7)
_ROWS = 14
_MORE = 13
"""Tokens of padding that the longest row of the proof is given; it makes no length a round one."""


class Rows(NamedTuple):
    """What a model is compared on. origin: "given" or "generated". sample: at most 64 rows, padded to the longest of them."""

    origin: str
    sample: Arrays
    batches: Callable[[int], list[Arrays]]


def rows_for(task: Task, texts: Texts, inputs: Sequence[TensorSpec], even: Texts | None) -> Rows:
    """The pusher's sample: texts, or token ids by input name; without one, sentences that are kept here.

    even: cuts early. It makes the rows of the sample equally long where a model answers for each token: what it says of padding
    means nothing, and engines need not agree on it. Raises InvalidInput for a sample that does not fit.
    """
    given = split_expected(read_sample(task.folder / task.sample))[0] if task.sample else {}
    if given and not _are_texts(given):
        tensors = fit(given, inputs)
        return Rows("given", rows_of(tensors, 0, 64), lambda size: _sliced(tensors, size))
    compared: Any = next(iter(given.values())) if given else np.array([*SENTENCES[: _ROWS - 1], LONG], dtype=object)
    if given:
        sample = texts.prepare(compared[:64])
    else:
        sample = (
            even.prepare(np.array(_paragraphs(), dtype=object)) if even else texts.prepare(np.array(SENTENCES, dtype=object))
        )
    return Rows(
        "given" if given else "generated",
        {**sample.inputs},
        lambda size: [{**texts.prepare(compared[start : start + size]).inputs} for start in _starts(len(compared), size)],
    )


def _paragraphs() -> list[str]:
    """As many as there are sentences, each begun by another one, and longer than what `even` keeps."""
    twice = SENTENCES * 2
    return [" ".join(twice[start : start + 8]) for start in range(len(SENTENCES))]


def _are_texts(arrays: Mapping[str, NDArray[Any]]) -> bool:
    return len(arrays) == 1 and all(array.dtype.kind == "O" for array in arrays.values())


def _starts(count: int, size: int) -> range:
    return range(0, min(count, _ROWS * 2), size)


def _sliced(tensors: Arrays, size: int) -> list[Arrays]:
    some = tensors if len(next(iter(tensors.values()))) >= size else stretch(tensors, size)
    return [rows_of(some, start, start + size) for start in _starts(len(next(iter(some.values()))), size)]


def hold(source: Run, target: Run, rows: Rows, sequences: Sequence[str]) -> tuple[tuple[Comparison, ...], str | None]:
    """Both on the same rows at each batch size: the worst of each, and what is wrong (None when nothing is).

    sequences: the outputs that have one value for each token; only those of tokens that are no padding count.
    """
    comparisons, reason = [], None
    for size in BATCHES:
        found = []
        for batch in rows.batches(size):
            real = batch["attention_mask"].astype(bool)
            actual, expected = (
                {name: array[real] if name in sequences else array for name, array in run(batch).items()}
                for run in (target, source)
            )
            comparison, wrong = compare(size, actual, expected)
            found.append(comparison)
            reason = reason or wrong
        worst = max(found, key=lambda comparison: comparison.max_abs_diff)
        labels = all(comparison.labels_equal for comparison in found)
        comparisons.append(msgspec.structs.replace(worst, labels_equal=labels))
    return tuple(comparisons), f"{reason}." if reason else None


def prove_padding(run: Run, texts: Texts, declared: TextInput, pad: int, sequences: Sequence[str]) -> Padding | str:
    """Sentences one by one without padding, and all of them padded beyond the longest. Why not, where the answers differ.

    sequences: the outputs that have one value for each token.
    """
    filler = {name: pad if role == "ids" else 0 for name, role in declared.tensors.items()}
    rows = np.array([*SENTENCES[:5], SENTENCES[7], SENTENCES[26]], dtype=object)
    alone = [texts.prepare(rows[row : row + 1]) for row in range(len(rows))]
    length = min(max(one.lengths[0] for one in alone) + _MORE, declared.max_length)
    padding = Padding(pad=filler, trim=tuple(sequences))
    return prove_rows(run, [{**one.inputs} for one in alone], padding, length) or padding

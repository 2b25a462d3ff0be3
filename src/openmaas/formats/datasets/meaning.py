"""What is to be predicted: which column is the label, and what its values say."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from openmaas.core.datasets import LABELS, SCORES, Purpose, text_pair
from openmaas.formats.datasets.base import Arrays, invalid, listed

MAX_CLASSES = 10_000
_MAX_INDEX = 100_000
_FEW = 100
MISSING = -1
"""The class index of a row without a label."""


class Meaning(msgspec.Struct, frozen=True, kw_only=True):
    """Of a dataset's columns. label: empty where nothing is predicted; classes: only where the label is text."""

    purpose: Purpose
    label: str = ""
    classes: tuple[str, ...] = ()
    missing: int = 0
    counts: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


def understand(arrays: Arrays, label: str | None) -> Meaning:
    """Raises InvalidInput for a label that is not there, or that cannot be one."""
    name = _find_label(arrays, label)
    rest = {key: array for key, array in arrays.items() if key != name}
    if not name:
        only = list(rest)
        text = len(only) == 1 and only[0] == "text" and rest["text"].dtype == object
        unlabelled = f"No column is called {', '.join(LABELS)}: there are only inputs. Another can be named with --label."
        return Meaning(purpose="text" if text else "inputs", notes=(unlabelled,) if len(only) > 1 else ())
    if not rest:
        raise invalid(f"There is no column besides the label {name!r}.")
    values = _single(name, arrays[name])
    if values.dtype == object:
        return _of_text(name, values)
    return _of_numbers(name, values, alike=text_pair(_texts(rest)) is not None)


def encode(values: NDArray[Any], meaning_purpose: Purpose, classes: tuple[str, ...]) -> NDArray[Any]:
    """A label's column as int64 class indices (MISSING where there is none), or as float64 (NaN where there is none)."""
    values = values.reshape(-1)
    if meaning_purpose != "classes":
        return values.astype(np.float64)
    if values.dtype != object and not classes:
        present = ~np.isnan(values) if values.dtype.kind == "f" else np.ones(len(values), dtype=bool)
        return np.where(present, np.where(present, values, 0).astype(np.int64), MISSING)
    index = {name.encode(): place for place, name in enumerate(classes)}
    texts = values if values.dtype == object else _as_texts(values)
    return np.array([index[text] if text else MISSING for text in texts.tolist()], dtype=np.int64)


def _texts(arrays: Arrays) -> list[str]:
    return [name for name, array in arrays.items() if array.dtype == object and array.ndim == 1]


def _find_label(arrays: Arrays, wanted: str | None) -> str:
    if wanted is not None:
        if wanted not in arrays:
            raise invalid(
                f"There is no column {wanted[:80]!r} to be the label; there are {listed(arrays)}.", "Name one with --label."
            )
        return wanted
    known = {name.lower(): name for name in reversed(arrays)}
    pair = text_pair(_texts(arrays))
    names = (*LABELS, *SCORES) if pair else LABELS
    return next((known[name] for name in names if name in known and (pair is None or known[name] not in pair)), "")


def _single(name: str, values: NDArray[Any]) -> NDArray[Any]:
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise invalid(
            f"The label {name!r} has the shape {list(values.shape)}; a row has one value.",
            "Of one column for each class make indices: numpy.argmax(label, axis=1).",
        )
    return values


def _of_text(name: str, values: NDArray[Any]) -> Meaning:
    present = [value for value in values.tolist() if value]
    distinct = set(present)
    if not distinct:
        raise invalid(f"No row has a label: the column {name!r} is empty.")
    if len(distinct) > MAX_CLASSES:
        raise invalid(
            f"The label {name!r} has {len(distinct)} different texts; at most {MAX_CLASSES} can be classes.",
            "Name the column to be predicted with --label.",
        )
    try:
        names = [text.decode() for text in distinct]
    except UnicodeDecodeError:
        raise invalid(f"The label {name!r} is not text.") from None
    bad = next((text for text in names if len(text) > 255 or not text.isprintable()), None)
    if bad is not None:
        raise invalid(f"{bad[:80]!r} cannot be a class of {name!r}: 1 to 255 characters that can be shown.")
    numbers = all(text.isascii() and text.isdigit() and len(text) < 10 for text in names)
    classes = tuple(sorted(names, key=int) if numbers else sorted(names))
    return _classes(name, values, classes, len(values) - len(present))


def _of_numbers(name: str, values: NDArray[Any], *, alike: bool) -> Meaning:
    if values.dtype.kind == "f":
        if np.isinf(values).any():
            row = int(np.flatnonzero(np.isinf(values))[0])
            raise invalid(f"The label {name!r} is infinite in row {row}.")
        present = values[~np.isnan(values)]
    else:
        present = values
    missing = len(values) - len(present)
    if not len(present):
        raise invalid(f"No row has a label: the column {name!r} is empty.")
    whole = bool(np.all(present == np.floor(present))) if values.dtype.kind == "f" else True
    score = name.lower() in SCORES
    if alike and (score or not whole):
        return Meaning(purpose="similarity", label=name, missing=missing)
    least, most = present.min(), present.max()
    distinct = len(np.unique(present))
    if score or not whole or most >= _MAX_INDEX or (values.dtype.kind == "f" and distinct > _FEW):
        return Meaning(purpose="values", label=name, missing=missing)
    if least < 0:
        if distinct > _FEW:
            return Meaning(purpose="values", label=name, missing=missing)
        classes = tuple(str(int(value)) for value in np.unique(present))
        return _classes(name, values, classes, missing, f"The label {name!r} has values below zero: they are names of classes.")
    return _classes(name, values, (), missing, *_as_indices(name, values.dtype.kind == "f", int(least), int(most), distinct))


def _as_indices(name: str, floats: bool, least: int, most: int, distinct: int) -> tuple[str, ...]:
    """What is told of whole numbers that are taken as indices of classes, where somebody may have meant something else."""
    if floats or distinct <= most:
        unused = most + 1 - distinct
        told = f", of which {unused} have no row" if unused else ""
        return (f"The label {name!r} has whole numbers from {least} to {most}: they are the indices of classes{told}.",)
    return ()


def _classes(name: str, values: NDArray[Any], classes: tuple[str, ...], missing: int, *notes: str) -> Meaning:
    index = encode(values, "classes", classes)
    counts = np.bincount(index[index >= 0], minlength=len(classes))
    alone = ("Every label is of the same class.",) if np.count_nonzero(counts) == 1 else ()
    return Meaning(
        purpose="classes",
        label=name,
        classes=classes,
        missing=missing,
        counts=tuple(counts.tolist()) if len(counts) <= MAX_CLASSES else (),
        notes=(*notes, *alone),
    )


def _as_texts(values: NDArray[Any]) -> NDArray[Any]:
    texts = np.empty(len(values), dtype=object)
    texts[:] = [b"" if math.isnan(value) else str(int(value)).encode() for value in values.tolist()]
    return texts

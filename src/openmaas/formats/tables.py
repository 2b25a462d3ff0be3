"""What a fitted scikit-learn estimator says about its columns and classes, as declarations that requests are held against."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmaas.core.errors import OpenMaaSError
from openmaas.core.processing import Column, Labels, Processing, TableInput
from openmaas.core.types import Signature
from openmaas.engines.sklearn.estimator import Layout, parts
from openmaas.formats.compare import compare, rows

Arrays = dict[str, NDArray[Any]]
Run = Callable[[Arrays], Arrays]
DIFFERING = "{names}: scikit-learn takes missing values there, and ONNX answers them otherwise; missing values are refused."
_ROWS = 32
"""Rows on which missing values are tried."""
_SHARE = 0.3
"""Of the values that are missing where all columns are tried at once."""
_MAX_COLUMNS = 128
"""Tried one by one at most: each takes two runs."""


def describe_table(
    model: Any, layout: Layout, signature: Signature, inputs: Arrays, source: Run, serving: Run
) -> tuple[Processing | None, tuple[str, ...]]:
    """Columns by name, their types, categories and whether they may lack values, the classes; and notes.

    inputs: sample rows as `serving`, the engine's run, takes them. source: the estimator's own run on the same rows.
    """
    names = _column_names(model, layout, signature)
    nullable, differing = _nullable(names, layout, inputs, source, serving)
    table = (
        TableInput(columns=_columns(model, names, signature, nullable), tensor=_tensor(layout, signature)) if names else None
    )
    labels = classes_of(model, signature)
    notes = (DIFFERING.format(names=", ".join(map(repr, differing[:12]))),) if differing else ()
    return Processing(input=table, output=labels) if table or labels else None, notes


def classes_of(model: Any, signature: Signature) -> Labels | None:
    """The classes of a classifier that gives one array of probabilities."""
    classes = getattr(model, "classes_", None)
    output = next((spec for spec in signature.outputs if spec.name == "probabilities"), None)
    if output is None or not isinstance(classes, np.ndarray) or classes.ndim != 1:
        return None
    return Labels(output="probabilities", labels=tuple(str(name) for name in classes.tolist()))


def _column_names(model: Any, layout: Layout, signature: Signature) -> list[str]:
    if layout != "matrix":
        return [spec.name for spec in signature.inputs]
    return [str(name) for name in getattr(model, "feature_names_in_", ())]


def _tensor(layout: Layout, signature: Signature) -> str | None:
    return signature.inputs[0].name if layout == "matrix" else None


def _columns(model: Any, names: Sequence[str], signature: Signature, nullable: frozenset[str]) -> tuple[Column, ...]:
    datatypes = {spec.name: spec.datatype for spec in signature.inputs}
    shared = signature.inputs[0].datatype
    categories = _only_categories(model)
    return tuple(
        Column(
            name=name,
            datatype=datatypes.get(name, shared),
            categories=_as_plain(categories.get(name), datatypes.get(name, shared)),
            nullable=name in nullable,
        )
        for name in names
    )


# ── categories ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _only_categories(model: Any) -> dict[str, NDArray[Any]]:
    """The values that an encoder of that column takes, where it refuses all others."""
    found: dict[str, NDArray[Any]] = {}
    for part in parts(model):
        if getattr(part, "handle_unknown", None) == "error" and hasattr(part, "categories_"):
            names = getattr(part, "feature_names_in_", ())
            found.update((str(name), values) for name, values in zip(names, part.categories_, strict=False))
    return found


def _as_plain(values: NDArray[Any] | None, datatype: str) -> tuple[str | int, ...] | None:
    """Categories as text or whole numbers, which is what a column of this type carries; None for others."""
    plain = values.tolist() if values is not None else []
    wanted: type = str if datatype == "BYTES" else int
    if not plain or any(type(value) is not wanted for value in plain):
        return None
    return tuple(plain)


# ── missing values ───────────────────────────────────────────────────────────────────────────────────────────────────


def _nullable(
    names: Sequence[str], layout: Layout, inputs: Arrays, source: Run, serving: Run
) -> tuple[frozenset[str], list[str]]:
    """Columns where a missing value has the same answer from the source and the engine; and those where another.

    All of them at once where that is so, else one by one; of a wide table whose columns differ, none is said to be nullable.
    """
    places = {name: place for index, name in enumerate(names) if (place := _place(inputs, name, index, layout)) is not None}
    if not places or _verdict(_without(inputs, places.values(), _SHARE), source, serving) is True:
        return frozenset(places), []
    if len(places) > _MAX_COLUMNS:
        return frozenset(), []
    found = {name: _verdict(_without(inputs, [place], 1.0), source, serving) for name, place in places.items()}
    return frozenset(name for name, same in found.items() if same), [name for name, same in found.items() if same is False]


def _place(inputs: Arrays, name: str, index: int, layout: Layout) -> tuple[str, int] | None:
    """The input and its column that hold the name's values; None where their type knows no missing value."""
    key, column = (next(iter(inputs)), index) if layout == "matrix" else (name, 0)
    return (key, column) if inputs[key].dtype.kind == "f" else None


def _without(inputs: Arrays, places: Iterable[tuple[str, int]], share: float) -> Arrays:
    """Sample rows, a share of whose values at these places is missing."""
    random = np.random.default_rng(7)
    few = {key: array.copy() for key, array in rows(inputs, 0, _ROWS).items()}
    for key, column in places:
        few[key][random.random(len(few[key])) < share, column] = np.nan
    return few


def _verdict(lacking: Arrays, source: Run, serving: Run) -> bool | None:
    """Whether both give the same answers; None where the source has none."""
    try:
        expected = source(lacking)
    except OpenMaaSError:
        return None
    if any(array.dtype.kind == "f" and np.isnan(array).any() for array in expected.values()):
        return None
    return _answers_equally(serving, lacking, expected)


def _answers_equally(serving: Run, inputs: Arrays, expected: Mapping[str, NDArray[Any]]) -> bool:
    try:
        answers = serving(inputs)
    except OpenMaaSError:
        return False
    return compare(len(next(iter(inputs.values()))), answers, expected)[1] is None

"""How a scikit-learn estimator wants its rows: as one array, as named columns, or as texts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from openmaas.core.datatypes import to_bytes
from openmaas.core.errors import InvalidInput, OpenMaaSError
from openmaas.engines.sklearn.estimator import Arrays, Estimator, Layout, parts
from openmaas.formats.sample import MAX_ROWS, UNNAMED, require_equal_rows

GENERATED_ROWS = 64
_SAMPLE_STEP = "Push it with a sample of real inputs (--sample FILE, or sample=X in Python)."


class Rows(NamedTuple):
    """Inputs that the estimator has answered, their layout and origin ("given" or "generated"), and its answers."""

    layout: Layout
    inputs: Arrays
    origin: str
    outputs: Arrays


def fitting_rows(model: Any, given: Arrays | None) -> list[Rows]:
    """The layouts in which the estimator answers, the simplest first.

    given: a sample's arrays as read_sample has them. Raises InvalidInput when there is none.
    """
    origin = "given" if given is not None else "generated"
    found: list[Rows] = []
    reason = ""
    for layout, inputs in _given(model, given) if given is not None else _generated(model):
        estimator = Estimator(model, layout)
        try:
            found.append(Rows(layout, inputs, origin, estimator.answer(inputs)))
        except OpenMaaSError as error:
            reason = reason or str(error)
        if found and origin == "generated":
            break
    if not found:
        raise InvalidInput(
            f"The estimator does not run on the {origin} sample: {reason or 'it does not say how many features it takes.'}",
            code="invalid_sample" if given is not None else "sample_needed",
            next_step=_SAMPLE_STEP,
        )
    return found


def _given(model: Any, arrays: Arrays) -> Iterator[tuple[Layout, Arrays]]:
    if len(arrays) == 1 and "feature_names_in_" not in dir(model):
        yield from _single(model, next(iter(arrays.values())))
        return
    names = list(getattr(model, "feature_names_in_", arrays))
    if missing := sorted(set(names) - set(arrays)):
        if len(arrays) == 1:
            yield from _single(model, next(iter(arrays.values())))
            return
        raise InvalidInput(f"The sample lacks the columns {', '.join(map(repr, missing[:12]))}.", code="invalid_sample")
    columns = {name: _column(name, arrays[name]) for name in names}
    require_equal_rows(columns)
    if all(column.dtype.kind in "biuf" for column in columns.values()):
        yield "matrix", {"X": np.concatenate([column.astype(np.float64) for column in columns.values()], axis=1)}
    yield "columns", columns


def _single(model: Any, array: NDArray[Any]) -> Iterator[tuple[Layout, Arrays]]:
    if array.dtype.kind != "O":
        yield "matrix", {"X": array.astype(np.float64)}
    elif hasattr(model, "n_features_in_"):
        yield "matrix", {"X": array}
    else:
        yield "text", {"text": array.reshape(-1, 1)}


def _column(name: str, array: NDArray[Any]) -> NDArray[Any]:
    if array.size != len(array):
        raise InvalidInput(
            f"The sample's column {name!r} has shape {list(array.shape)}, not one value a row.", code="invalid_sample"
        )
    return (array.astype(np.int64) if array.dtype.kind in "iu" else array).reshape(-1, 1)


def _generated(model: Any) -> Iterator[tuple[Layout, Arrays]]:
    random = np.random.default_rng(7)
    features = getattr(model, "n_features_in_", None)
    if features is None:
        yield "text", {"text": _texts(model, random)}
        return
    values = random.standard_normal((GENERATED_ROWS, int(features)))
    yield "matrix", {"X": values}
    yield "matrix", {"X": np.abs(values)}


def _texts(model: Any, random: np.random.Generator) -> NDArray[Any]:
    """Texts [N, 1] of three words each, out of the vocabulary that the estimator has learned."""
    known = next((part.vocabulary_ for part in parts(model) if hasattr(part, "vocabulary_")), {"a": 0, "b": 1})
    words = np.array(sorted(known), dtype=object)
    picked = words[random.integers(0, len(words), (GENERATED_ROWS, 3))]
    return to_bytes(np.array([" ".join(row) for row in picked], dtype=object)).reshape(-1, 1)


def arrays_of(sample: Any) -> Arrays:
    """A live sample's arrays by name: at most MAX_ROWS rows taken evenly from an array, a list or a data frame."""
    if hasattr(sample, "columns") and hasattr(sample, "iloc"):
        return {str(name): _live(sample[name].to_numpy()).reshape(-1, 1) for name in sample.columns}
    return {UNNAMED: _live(sample.toarray() if hasattr(sample, "toarray") else np.asarray(sample))}


def _live(array: NDArray[Any]) -> NDArray[Any]:
    if array.ndim == 0 or not array.size:
        raise InvalidInput(
            "The sample has no rows.", code="invalid_sample", next_step="Give sample=X, rows as the model takes them."
        )
    kept: NDArray[Any] = array[_places(len(array))]
    if kept.dtype.kind not in "OSU":
        return kept
    numbers = _as_numbers(kept)
    return to_bytes(kept) if numbers is None else numbers


def picked(sample: Any) -> Any:
    """The rows of a live sample that `arrays_of` keeps, as the object that they came in."""
    if hasattr(sample, "iloc"):
        return sample.iloc[_places(len(sample))]
    rows = sample.tocsr() if hasattr(sample, "tocsr") else np.asarray(sample)
    return rows[_places(rows.shape[0])]


def _places(count: int) -> NDArray[Any]:
    places: NDArray[Any] = np.unique(np.linspace(0, count - 1, min(count, MAX_ROWS)).astype(int))
    return places


def _as_numbers(array: NDArray[Any]) -> NDArray[Any] | None:
    """An object array that holds nothing but numbers, as numbers."""
    if array.dtype.kind != "O" or any(isinstance(item, str | bytes) for item in array.ravel().tolist()):
        return None
    try:
        numbers: NDArray[Any] = array.astype(np.float64)
    except (TypeError, ValueError):
        return None
    return numbers

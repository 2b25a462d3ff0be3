"""Rows that a booster is tried on: from a sample, or around the thresholds of its trees; with missing values among them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmaas.core.datatypes import to_bytes
from openmaas.core.errors import InvalidInput, OpenMaaSError
from openmaas.engines.boosters.booster import INPUT, Arrays, Booster
from openmaas.engines.boosters.checked import Feature
from openmaas.formats.sample import read_sample, require_equal_rows, split_expected
from openmaas.formats.sklearn.layouts import GENERATED_ROWS, Rows

_LACKING = 0.25
"""Share of the values that are missing in the rows made for it."""
_CATEGORIES = 4
"""Codes tried for a category whose values the file does not name."""


def read_rows(booster: Booster, path: Path) -> tuple[Arrays, Arrays]:
    """A sample's rows as the booster takes them, and the answers that came with it. Raises InvalidInput for others."""
    arrays, expected = split_expected(read_sample(path))
    return rows_of(booster, arrays), expected


def rows_of(booster: Booster, arrays: Arrays) -> Arrays:
    """Arrays by name as the booster's inputs: a single array [N, features], or a column for each feature by its name."""
    features = booster.checked.features
    if len(arrays) == 1 and not (len(features) == 1 and features[0].name in arrays):
        (array,) = arrays.values()
        if array.ndim != 2 or array.shape[1] != len(features):
            raise InvalidInput(
                f"The sample has shape {list(array.shape)}; the model takes [-1, {len(features)}].", code="invalid_sample"
            )
        arrays = {feature.name: array[:, index : index + 1] for index, feature in enumerate(features)}
    if not any(" " in feature.name for feature in features):  # LightGBM writes an underscore for it
        arrays = {name.replace(" ", "_"): array for name, array in arrays.items()}
    if missing := [feature.name for feature in features if feature.name not in arrays]:
        raise InvalidInput(f"The sample lacks the columns {', '.join(map(repr, missing[:12]))}.", code="invalid_sample")
    columns = {feature.name: _column(booster, feature, arrays[feature.name]) for feature in features}
    require_equal_rows(columns)
    return columns if booster.checked.by_column else {INPUT: np.concatenate(list(columns.values()), axis=1)}


def _column(booster: Booster, feature: Feature, array: NDArray[Any]) -> NDArray[Any]:
    if array.size != len(array):
        raise InvalidInput(f"The sample's column {feature.name!r} is not one value a row.", code="invalid_sample")
    column = array.reshape(-1, 1)
    if feature.categories is None:
        return _cast(feature, column, booster.dtype)
    if isinstance(feature.categories[0], str):
        return to_bytes(column)
    return _cast(feature, column, np.dtype(np.int64))


def _cast(feature: Feature, column: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    try:
        return column.astype(dtype)
    except (TypeError, ValueError):
        raise InvalidInput(
            f"The sample's column {feature.name!r} holds text; the model takes numbers.", code="invalid_sample"
        ) from None


def compared_rows(booster: Booster, given: Arrays | None) -> Rows:
    """Rows with and without missing values in turn, and the booster's answers to them.

    Raises InvalidInput where it cannot run the given ones.
    """
    inputs = given if given is not None else _generated(booster)
    lacking = _with_missing(inputs, booster)
    together = {name: _in_turn(array, lacking[name]) for name, array in inputs.items()}
    try:
        outputs = booster.answer(together)
    except OpenMaaSError as error:
        raise InvalidInput(f"The model does not run on the sample: {error.message}", code="invalid_sample") from None
    layout = "columns" if booster.checked.by_column else "matrix"
    return Rows(layout, together, "generated" if given is None else "given", outputs)  # type: ignore[arg-type]


def _in_turn(first: NDArray[Any], second: NDArray[Any]) -> NDArray[Any]:
    return np.stack([first, second], axis=1).reshape(-1, *first.shape[1:])


def _with_missing(inputs: Arrays, booster: Booster) -> Arrays:
    """The same rows, some of whose numbers are missing."""
    random = np.random.default_rng(7)
    return {
        name: np.where(random.random(array.shape) < _LACKING, np.nan, array).astype(array.dtype)
        if array.dtype.kind == "f"
        else array
        for name, array in inputs.items()
    }


def _generated(booster: Booster) -> Arrays:
    random = np.random.default_rng(7)
    features = booster.checked.features
    columns = {feature.name: _made_up(feature, random, booster.dtype) for feature in features}
    return columns if booster.checked.by_column else {INPUT: np.concatenate(list(columns.values()), axis=1)}


def _made_up(feature: Feature, random: np.random.Generator, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Values on both sides of all thresholds, and categories of all kinds."""
    shape = (GENERATED_ROWS, 1)
    if feature.categories is not None:
        known = np.array(feature.categories, object if isinstance(feature.categories[0], str) else np.int64)
        picked: NDArray[Any] = known[random.integers(0, len(known), shape)]
        return to_bytes(picked) if picked.dtype == object else picked
    if feature.categorical:
        return random.integers(0, _CATEGORIES, shape).astype(dtype)
    margin = max(feature.high - feature.low, abs(feature.high), 1e-3) * 0.25
    return random.uniform(feature.low - margin, feature.high + margin, shape).astype(dtype)

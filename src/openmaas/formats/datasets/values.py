"""Lists of plain values as a column: numbers where all are, else text; a missing value is NaN or empty."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmaas.formats.datasets.base import invalid


def object_array(items: Sequence[Any]) -> NDArray[Any]:
    """A one-dimensional array of exactly these objects."""
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array


def parse_column(texts: Sequence[str]) -> NDArray[Any]:
    """Fields of a CSV file: int64 where all are whole, float64 where all are numbers or empty, else text as UTF-8."""
    whole = _all(texts, int)
    if whole is not None:
        try:
            return np.array(whole, dtype=np.int64)
        except OverflowError:
            pass
    numbers = _all(texts, lambda text: float(text) if text.strip() else float("nan"))
    if numbers is not None and any(text.strip() for text in texts):
        return np.array(numbers, dtype=np.float64)
    return object_array([text.encode() for text in texts])


def _all(texts: Sequence[str], parse: Callable[[str], Any]) -> list[Any] | None:
    try:
        return [_plain(parse, text) for text in texts]
    except ValueError:
        return None


def _plain(parse: Callable[[str], Any], text: str) -> Any:
    if "_" in text:  # Python's own way to write 1_000
        raise ValueError(text)
    return parse(text)


def plain_column(name: str, values: Sequence[Any]) -> NDArray[Any]:
    """Values as JSON has them. Raises InvalidInput for a mixture, and for lists of different lengths."""
    kinds = {_kind(value) for value in values if value is not None}
    missing = any(value is None for value in values)
    if not kinds:
        return object_array([b""] * len(values))
    if kinds == {"text"}:
        return object_array([b"" if value is None else value.encode() for value in values])
    if kinds == {"list"}:
        return _lists(name, values)
    if kinds == {"boolean"} and not missing:
        return np.array(values, dtype=bool)
    if kinds <= {"number", "whole"}:
        if kinds == {"whole"} and not missing:
            try:
                return np.array(values, dtype=np.int64)
            except OverflowError:
                pass
        try:
            return np.array([float("nan") if value is None else float(value) for value in values], dtype=np.float64)
        except OverflowError:
            raise invalid(f"The column {name!r} has a number that is too large for float64.") from None
    row = next(index for index, value in enumerate(values) if value is None or _kind(value) != _kind(values[0]))
    raise invalid(f"The column {name!r} mixes kinds of values: {' and '.join(sorted(kinds))}; first in row {row}.")


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, str):
        return "text"
    if isinstance(value, int):
        return "whole"
    if isinstance(value, float):
        return "number"
    return "list" if isinstance(value, list) else "object"


def _lists(name: str, values: Sequence[Any]) -> NDArray[Any]:
    wanted = _shape(values[0])
    for row, value in enumerate(values):
        if value is None or _shape(value) != wanted:
            told = "no list" if value is None else f"the shape {list(_shape(value))}"
            raise invalid(
                f"The column {name!r} has lists of different lengths: {list(wanted)} in row 0, {told} in row {row}.",
                "Pad them to one length.",
            )
    try:
        array = np.array(values)
    except ValueError:
        array = object_array([])
    if array.dtype.kind not in "biuf" or array.shape != (len(values), *wanted):
        raise invalid(f"The column {name!r} has lists that are not all of numbers, or whose inner lists differ in length.")
    return array


def _shape(value: Any) -> tuple[int, ...]:
    shape: list[int] = []
    while isinstance(value, list):
        shape.append(len(value))
        if not value:
            break
        value = value[0]
    return tuple(shape)

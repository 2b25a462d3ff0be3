"""What every reader of a dataset's files gives, and the bounds that it keeps to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from openmaas.core.errors import InvalidInput, TooLarge

MAX_COLUMNS = 10_000
MAX_NAME = 255
UNBOUNDED = 1 << 62
Arrays = dict[str, NDArray[Any]]


@dataclass(slots=True)
class Columns:
    """Columns by name, rows on axis 0: numbers, with NaN where a value is missing, or text as an object array of bytes,
    empty where it is missing."""

    arrays: Arrays
    notes: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Budget:
    """Bytes that the arrays of a dataset may take, counted before they are made."""

    limit: int = UNBOUNDED
    used: int = 0

    def take(self, size: int, what: str) -> None:
        """Raises TooLarge with what there would be."""
        self.used += size
        if self.used > self.limit:
            raise TooLarge(
                f"The dataset takes more than {self.limit} bytes when it is unpacked ({what}).",
                code="dataset_too_large",
                next_step="Push fewer rows, or raise OPENMAAS_EXAMINE_MEMORY.",
            )


def invalid(message: str, next_step: str | None = None) -> InvalidInput:
    """What is wrong with a dataset."""
    return InvalidInput(message, code="invalid_dataset", next_step=next_step)


def check_columns(names: Iterable[str]) -> list[str]:
    """The names of columns. Raises InvalidInput for too many, one that is given twice or cannot be shown."""
    seen: set[str] = set()
    checked: list[str] = []
    for name in names:
        if len(checked) == MAX_COLUMNS:
            raise invalid(f"There are more than {MAX_COLUMNS} columns.", "Put numbers of one kind into one array (npz).")
        if not name or len(name) > MAX_NAME or not name.isprintable():
            raise invalid(f"{name[:80]!r} is not a column's name: 1 to {MAX_NAME} characters that can be shown.")
        if name in seen:
            raise invalid(f"The column {name[:80]!r} is there twice.")
        seen.add(name)
        checked.append(name)
    return checked


def listed(names: Iterable[str], most: int = 12) -> str:
    """Names for a message: the first of them, and how many more."""
    known = [repr(name[:60]) for name in names]
    return ", ".join(known[:most]) + (f" and {len(known) - most} more" if len(known) > most else "")

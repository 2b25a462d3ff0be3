"""CSV, JSON lines and running text: what every editor writes."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import msgspec

from openmaas.formats.datasets.base import MAX_COLUMNS, Budget, Columns, check_columns, invalid
from openmaas.formats.datasets.values import object_array, parse_column, plain_column

_MAX_LINE = 64 << 20
_CELL = 16  # bytes that a place for a value takes, and what comes of it
_IN_LISTS = 8  # bytes that a character of a list of numbers becomes
_DELIMITERS = ",;\t"


def read_csv(path: Path, budget: Budget) -> Columns:
    """A line of column names and rows of equal length. Raises InvalidInput that names the line, TooLarge."""
    before = csv.field_size_limit(_MAX_LINE)  # of the whole process, where others rely on it
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline(_MAX_LINE)
            file.seek(0)
            rows = csv.reader(file, delimiter=max(_DELIMITERS, key=first.count), strict=True)
            header = [name.strip() for name in next(rows, [])]
            notes = _check_header(header)
            columns: list[list[str]] = [[] for _ in header]
            for row in rows:
                if not row:
                    continue
                if len(row) != len(header):
                    raise invalid(f"Line {rows.line_num} has {len(row)} fields; the first line names {len(header)} columns.")
                budget.take(sum(map(sys.getsizeof, row)) + 8 * len(row), f"up to line {rows.line_num}")
                for column, value in zip(columns, row, strict=True):
                    column.append(value)
    except UnicodeDecodeError as error:
        raise invalid(f"The table is not UTF-8 text: {error.reason} at byte {error.start}.") from None
    except csv.Error as error:
        raise invalid(f"The table cannot be read: {error}.") from None
    finally:
        csv.field_size_limit(before)
    return Columns({name: parse_column(column) for name, column in zip(header, columns, strict=True) if name}, notes)


def _check_header(header: list[str]) -> list[str]:
    named = check_columns(name for name in header if name)
    if not named:
        raise invalid("The table has no line of column names.")
    if all(_is_number(name) for name in named):
        raise invalid(
            f"The first line of the table is not column names: {', '.join(named[:4])} …",
            "Put the columns' names into the first line.",
        )
    without = len(header) - len(named)
    return [f"Columns without a name (such as an index) are left out: {without}."] if without else []


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def read_jsonl(path: Path, budget: Budget) -> Columns:
    """An object a line; a value that a line lacks is missing. Raises InvalidInput that names the line, TooLarge."""
    decoder = msgspec.json.Decoder(dict[str, Any])
    columns: dict[str, list[Any]] = {}
    count = 0
    with path.open("rb") as file:
        number = 0
        while line := file.readline(_MAX_LINE):
            number += 1
            if len(line) == _MAX_LINE:
                raise invalid(f"Line {number} has more than {_MAX_LINE} bytes.")
            line = line.removeprefix(b"\xef\xbb\xbf").strip()
            if not line:
                continue
            try:
                row = decoder.decode(line)
            except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
                raise invalid(f"Line {number} is not a JSON object: {error}.", "Write one object a line.") from None
            lists = any(isinstance(value, list) for value in row.values())
            size = sum(map(sys.getsizeof, row.values())) + (_IN_LISTS * len(line) if lists else 0)
            budget.take(size + _CELL * max(len(row), len(columns)), f"up to line {number}")
            _add(columns, row, count, budget)
            count += 1
    for values in columns.values():
        values.extend([None] * (count - len(values)))
    return Columns({name: plain_column(name, columns[name]) for name in check_columns(columns)})


def _add(columns: dict[str, list[Any]], row: dict[str, Any], count: int, budget: Budget) -> None:
    for name, value in row.items():
        values = columns.get(name)
        if values is None:
            if len(columns) == MAX_COLUMNS:
                raise invalid(f"There are more than {MAX_COLUMNS} columns.", "Put numbers of one kind into one list.")
            budget.take(8 * count, f"the column {name[:60]!r}")
            values = columns[name] = []
        values.extend([None] * (count - len(values)))
        values.append(value)


def read_text(path: Path, budget: Budget) -> Columns:
    """Running text: one row, the whole file."""
    budget.take(path.stat().st_size, path.name)
    data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise invalid(f"The text is not UTF-8: {error.reason} at byte {error.start}.") from None
    if not data.strip():
        raise invalid("The text is empty.")
    return Columns({"text": object_array([data])})

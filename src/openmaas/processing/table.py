"""Rows of a table by column name → the engine's tensors.

A decoder made for the columns reads what fits, at the speed of C; only what it refuses is looked at cell by cell, to say what
is wrong with it (or that it fits after all, as a large integer that a float can still hold exactly).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Final, Literal, TypeAlias

import msgspec
import numpy as np

from openmaas.core.datatypes import numpy_dtype
from openmaas.core.errors import InvalidInput
from openmaas.core.processing import Column, Fields, TableInput
from openmaas.core.types import Signature, TensorSpec
from openmaas.processing.base import Before, Prepared, Tensors

Row: TypeAlias = tuple[Any, ...]
_SHOWN: Final = 12  # names or categories that an error lists
_INT64: Final = (-(2**63), 2**63 - 1)
EXACT: Final = {"float16": 2**11, "float32": 2**24, "float64": 2**53}
"""Up to here each whole number is a float of that type."""
_as_tuple = msgspec.structs.astuple


class Tables(Before):
    """signature: the engine's; each column fits into its tensor, as processing.checks has made sure."""

    quick: ClassVar[int] = 256 * 1024

    def __init__(self, declared: TableInput, signature: Signature) -> None:
        self.spec = None
        specs = {spec.name: spec for spec in signature.inputs}
        self._matrix = specs[declared.tensor] if declared.tensor is not None else None
        self._targets = [self._matrix or specs[column.name] for column in declared.columns]
        self._cells = [_Cell(column, target) for column, target in zip(declared.columns, self._targets, strict=True)]
        self._names = tuple(cell.name for cell in self._cells)
        self._plain = all(cell.positions is None for cell in self._cells)
        self._gaps = any(cell.column.nullable for cell in self._cells)
        record = self._struct("Record", [cell.kind for cell in self._cells])
        row = self._struct("Row", [cell.kind for cell in self._cells], array_like=True)
        self._decode_record = msgspec.json.Decoder(record).decode
        self._decode_records = msgspec.json.Decoder(list[record]).decode  # type: ignore[valid-type]
        self._decode_row = msgspec.json.Decoder(row).decode
        self._decode_rows = msgspec.json.Decoder(list[row]).decode  # type: ignore[valid-type]
        self._columns = self._struct("Columns", [list[cell.kind] for cell in self._cells])  # type: ignore[name-defined]

    def _struct(self, name: str, kinds: Sequence[Any], **options: Any) -> Any:
        """A type with one field a column; JSON knows them by the columns' names, which need not be identifiers."""
        fields = [(f"column_{index}", kind) for index, kind in enumerate(kinds)]
        rename = dict(zip([field for field, _ in fields], self._names, strict=True))
        return msgspec.defstruct(name, fields, rename=rename, forbid_unknown_fields=True, gc=False, **options)

    def prepare(self, rows: msgspec.Raw | Fields | Mapping[str, Sequence[Any]]) -> Prepared:
        """rows: JSON with a list of records or of rows by position, or one of them; fields as text; or columns by name.

        Raises InvalidInput that names row and column, what was expected and what came.
        """
        if isinstance(rows, msgspec.Raw):
            table = self._from_json(rows)
        elif isinstance(rows, Fields):
            table = self._from_fields(rows)
        else:
            table = self._from_columns(rows)
        if not table:
            raise InvalidInput("The table has no rows.", code="no_rows", next_step="Send at least one row.")
        return Prepared(self._tensors(table))

    # reading

    def _from_json(self, raw: msgspec.Raw) -> list[Row]:
        text = memoryview(raw)
        first, second = _starts(text)
        try:
            if first == "{":
                return [_as_tuple(self._decode_record(text))]
            if second == "{":
                return [_as_tuple(record) for record in self._decode_records(text)]
            if second == "[":
                return [_as_tuple(row) for row in self._decode_rows(text)]
            return [_as_tuple(self._decode_row(text))]
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return self._carefully(text)

    def _carefully(self, text: memoryview) -> list[Row]:
        try:
            data = msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            reason = "it is nested too deep" if isinstance(error, RecursionError) else str(error)[:300]
            raise InvalidInput(f"The rows are not JSON: {reason}.", code="invalid_json") from None
        many = isinstance(data, list) and (not data or isinstance(data[0], dict | list))
        return [self._row(index, row) for index, row in enumerate(data if many else [data])]

    def _row(self, index: int, row: Any) -> Row:
        if isinstance(row, dict):
            self._check_names(row, f"Row {index}")
            values = [row[name] for name in self._names]
        elif isinstance(row, list):
            if len(row) != len(self._cells):
                raise InvalidInput(
                    f"Row {index} has {len(row)} values; the model takes {len(self._cells)} columns: {_listed(self._names)}.",
                    code="ragged_rows",
                )
            values = row
        else:
            raise InvalidInput(
                f"Row {index} must be an object with the columns {_listed(self._names)}; {_told(row)} came.",
                code="datatype_mismatch",
            )
        return tuple(cell.check(index, value) for cell, value in zip(self._cells, values, strict=True))

    def _check_names(self, given: Mapping[str, Any], where: str) -> None:
        for cell in self._cells:
            if cell.name not in given:
                raise InvalidInput(
                    f"{where} lacks the column {cell.name!r} ({cell.expected}).",
                    code="column_missing",
                    next_step=f"The columns are {_listed(self._names)}.",
                )
        if (extra := next((name for name in given if name not in self._names), None)) is not None:
            raise InvalidInput(
                f"{where} has the unknown column {extra[:80]!r}; the model takes {_listed(self._names)}.", code="column_unknown"
            )

    def _from_columns(self, columns: Mapping[str, Sequence[Any]]) -> list[Row]:
        self._check_names(columns, "The table")
        lists = [columns[name] for name in self._names]
        for name, values in zip(self._names, lists, strict=True):
            if not isinstance(values, list | tuple):
                raise InvalidInput(f"Column {name!r} must be a list of values; {_told(values)} came.", code="datatype_mismatch")
            if len(values) != len(lists[0]):
                raise InvalidInput(
                    f"The columns differ in length: {self._names[0]!r} has {len(lists[0])} values, {name!r} has {len(values)}.",
                    code="ragged_columns",
                )
        try:
            lists = list(_as_tuple(msgspec.convert(dict(columns), self._columns)))
        except msgspec.ValidationError:
            lists = [cell.checked(values) for cell, values in zip(self._cells, lists, strict=True)]
        return list(zip(*lists, strict=True))

    def _from_fields(self, fields: Fields) -> list[Row]:
        if len(set(fields.names)) != len(fields.names):
            twice = next(name for index, name in enumerate(fields.names) if name in fields.names[:index])
            raise InvalidInput(f"The column {twice[:80]!r} is there twice.", code="column_twice")
        self._check_names(dict.fromkeys(fields.names), "The table")
        order = [fields.names.index(name) for name in self._names]
        return [
            tuple(cell.check(index, cell.read(index, row[at])) for cell, at in zip(self._cells, order, strict=True))
            for index, row in enumerate(fields.rows)
        ]

    # tensors

    def _tensors(self, table: list[Row]) -> Tensors:
        if self._matrix is None:
            columns = list(zip(*table, strict=True))
            return {
                spec.name: self._array(cell.coded(column), spec, index).reshape(-1, *(1,) * (len(spec.shape) - 1))
                for index, (cell, column, spec) in enumerate(zip(self._cells, columns, self._targets, strict=True))
            }
        if not self._plain:
            coded = [cell.coded(column) for cell, column in zip(self._cells, zip(*table, strict=True), strict=True)]
            table = list(zip(*coded, strict=True))
        return {self._matrix.name: self._array(table, self._matrix)}

    def _array(self, values: Sequence[Any], spec: TensorSpec, column: int | None = None) -> Any:
        """values: rows of cells, or the cells of one column."""
        dtype = numpy_dtype(spec.datatype)
        if dtype.kind == "O":
            array = np.array(values, dtype=object)
            flat = array.reshape(-1)
            flat[:] = [value.encode() for value in flat]
            return array
        with np.errstate(over="ignore"):
            array = np.array(values, dtype)
        if dtype.kind not in "biu" and not np.isfinite(array).all():
            self._check_finite(values, array, spec, column)
        return array

    def _check_finite(self, values: Sequence[Any], array: Any, spec: TensorSpec, column: int | None) -> None:
        """A null becomes NaN; nothing else may."""
        for place in np.argwhere(~np.isfinite(array)).tolist():
            row, at = place[0], place[1] if column is None else column
            value = values[row][at] if column is None else values[row]
            if value is not None:
                raise self._cells[at].wrong(row, value, f"a number that {spec.datatype} can hold")


class _Cell:
    """How one column's values are read and checked. kind: the type that the fast decoders want."""

    def __init__(self, column: Column, target: TensorSpec) -> None:
        self.column = column
        self.name = column.name
        dtype, own = numpy_dtype(target.datatype), numpy_dtype(column.datatype)
        self._family: type = {"O": str, "b": bool, "i": int, "u": int}.get(own.kind, float)
        self._exact = EXACT.get(dtype.name) if own.kind in "iu" else None
        info = np.iinfo(own) if own.kind in "iu" else None
        self._range = (int(info.min), int(info.max)) if info is not None else None
        self._dtype = dtype
        self._categories = column.categories
        words = column.categories is not None and any(isinstance(category, str) for category in column.categories)
        self.positions = (
            {category: index for index, category in enumerate(column.categories or ())} if words and dtype.kind != "O" else None
        )
        if words:
            self._family = str
        kind: Any = Literal[column.categories] if column.categories is not None else self._bounded()
        self.kind: Any = kind | None if column.nullable else kind

    def _bounded(self) -> Any:
        if self._range is None:
            return self._family
        low, high = max(self._range[0], _INT64[0]), min(self._range[1], _INT64[1])
        if self._exact is not None:
            low, high = max(low, -self._exact), min(high, self._exact)
        return Annotated[int, msgspec.Meta(ge=low, le=high)]

    @property
    def expected(self) -> str:
        if self._categories is not None:
            return f"one of {_listed(self._categories)}"
        words = {str: "text", bool: "true or false", float: "a number"}
        if self._range is None:
            return f"{words[self._family]}, {self.column.datatype}"
        return f"a whole number from {self._range[0]} to {self._range[1]}, {self.column.datatype}"

    def check(self, row: int, value: Any) -> Any:
        """The value, if it may stand here. Raises InvalidInput that says what was expected and what came."""
        if value is None:
            if not self.column.nullable:
                raise self.wrong(row, value)
            return None
        if isinstance(value, bool) is not (self._family is bool) or not isinstance(value, self._accepted()):
            raise self.wrong(row, value)
        if self._categories is not None and value not in self._categories:
            raise self.wrong(row, value, code="not_a_category")
        return self._check_number(row, value) if self._family in (int, float) else value

    def _check_number(self, row: int, value: Any) -> Any:
        if self._range is not None and not self._range[0] <= value <= self._range[1]:
            raise self.wrong(row, value)
        if self._exact is not None and not self._is_exact(value):
            raise self.wrong(row, value, f"a whole number that the model's {self._dtype.name} can hold exactly")
        if self._family is float and not (isinstance(value, int) or math.isfinite(value)):
            raise self.wrong(row, value, "a finite number")
        return value

    def _is_exact(self, value: int) -> bool:
        with np.errstate(over="ignore"):
            held = float(self._dtype.type(value))
        return math.isfinite(held) and int(held) == value

    def checked(self, values: Sequence[Any]) -> list[Any]:
        """A whole column."""
        return [self.check(row, value) for row, value in enumerate(values)]

    def _accepted(self) -> tuple[type, ...]:
        return (int, float) if self._family is float else (self._family,)

    def read(self, row: int, text: str) -> Any:
        """A field of text as a value; what cannot be read stays text, and `check` refuses it."""
        if self._family is str:
            return None if not text and self.column.nullable else text
        stripped = text.strip()
        if not stripped:
            return None
        if self._family is bool:
            return {"true": True, "false": False}.get(stripped.lower(), text)
        if "_" in stripped or not stripped.isascii():
            return text
        try:
            return int(stripped) if self._family is int else float(stripped)
        except ValueError:
            return text

    def coded(self, values: Sequence[Any]) -> Sequence[Any]:
        """Categories by name as their positions, where the tensor holds numbers."""
        if self.positions is None:
            return values
        return [None if value is None else self.positions[value] for value in values]

    def wrong(self, row: int, value: Any, expected: str | None = None, code: str = "datatype_mismatch") -> InvalidInput:
        code = "null_not_allowed" if value is None else code
        return InvalidInput(
            f"Row {row}, column {self.name!r}: expected {expected or self.expected}; {_told(value)} came.", code=code
        )


def _starts(text: memoryview) -> tuple[str, str]:
    """The first two characters that are no spaces."""
    found = bytes(text[:64]).split(None, 2)
    joined = b"".join(found)[:2].decode("latin-1")
    return joined[:1], joined[1:2]


def _listed(names: Sequence[Any]) -> str:
    shown = ", ".join(repr(name)[:80] for name in names[:_SHOWN])
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown


def _told(value: Any) -> str:
    """A caller's own value and what it is, of which only so much is told back."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    if isinstance(value, int) and value.bit_length() > 128:
        return "a larger number"
    return f"{value!r:.80}" + (" (text)" if isinstance(value, str) else "")

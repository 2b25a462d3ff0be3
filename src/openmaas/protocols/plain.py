"""`POST /predict/{deployment}`: a body as people have it, an answer as they read it.

    application/json      "a text", ["texts", …], {"text": …}          where the model reads texts
                          {"image": base64}, a list of them            where it reads images
                          a record, a list of records or of rows,
                          {"columns": {name: [values]}}                where it reads tables
                          nested lists, {"input name": nested lists}   always: the engine's own inputs
                          {"instances": [any of these]}
    text/plain            one text
    text/csv              a table, or rows of numbers
    image/*, application/octet-stream       one image
    multipart/form-data   images, texts, or the columns of a record as fields

Rows come out as processing takes them; this file knows nothing of tokens and pixels.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from openmaas.core.datatypes import numpy_dtype
from openmaas.core.errors import InvalidInput, UnsupportedMedia
from openmaas.core.processing import Fields, ImageInput, Input, TableInput, TextInput
from openmaas.core.types import Signature, TensorSpec
from openmaas.protocols import forms, kserve
from openmaas.protocols.tensors import Tensor, check_inputs, json_ready

_JSON: Final = "application/json"
_CSV: Final = "text/csv"
_FORM: Final = "multipart/form-data"
_PAIR: Final = "pair"
_BASE64: Final = "b64"  # as TensorFlow Serving writes {"b64": …}
_HEAD: Final = 256  # bytes in which the first characters that are no spaces are looked for
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_any = msgspec.json.Decoder().decode


class Decoded(msgspec.Struct):
    """A body's content: rows for the processing, or the engine's own inputs."""

    rows: Any = None
    inputs: dict[str, Tensor] | None = None
    texts: tuple[str, ...] = ()


class PlainDecoder:
    """Bodies for one version. declared: its input processing, None where only tensors go in."""

    def __init__(self, signature: Signature, declared: Input | None) -> None:
        self._signature = signature
        self._engine = frozenset(spec.name for spec in signature.inputs)
        self._declared = declared
        self._columns = (
            frozenset(column.name for column in declared.columns) if isinstance(declared, TableInput) else frozenset()
        )

    @property
    def takes(self) -> tuple[str, ...]:
        """Content types that mean something for this model."""
        if isinstance(self._declared, ImageInput):
            return (_JSON, "image/*", "application/octet-stream", _FORM)
        if isinstance(self._declared, TextInput) or self._is_text():
            return (_JSON, "text/plain", _CSV, _FORM)
        if isinstance(self._declared, TableInput):
            return (_JSON, _CSV, _FORM)
        return (_JSON, _CSV) if self._is_matrix() else (_JSON,)

    def _is_text(self) -> bool:
        """Whether the engine itself reads texts, one a row."""
        (spec, *more) = self._signature.inputs
        single = len(spec.shape) == 1 or (len(spec.shape) == 2 and spec.shape[1] in (-1, 1))
        return self._declared is None and not more and spec.datatype == "BYTES" and single

    def _is_matrix(self) -> bool:
        (spec, *more) = self._signature.inputs
        return not more and len(spec.shape) == 2 and spec.datatype not in ("BOOL", "BF16") and not self._is_text()

    def decode(self, body: bytes, content_type: str) -> Decoded:
        """What a body holds. Raises InvalidInput that says where and what, UnsupportedMedia with what is taken."""
        kind, _, parameters = content_type.partition(";")
        kind = kind.strip().lower() or self._guessed(body)
        if kind == _JSON or kind.endswith("+json"):
            return self._json(body)
        if kind not in self.takes and not (kind.startswith("image/") and "image/*" in self.takes):
            raise self._not_taken(kind)
        if kind == _FORM:
            return self._form(forms.read_form(body, content_type))
        if kind.startswith("text/"):
            _check_charset(parameters)
            return self._csv(forms.read_csv(body)) if kind == _CSV else self._texts([forms.as_text(body, "The text")])
        return Decoded(_objects([body]))

    def decode_v1(self, body: bytes) -> Decoded:
        """A KServe V1 request: instances may be texts, images in base64 or records; anything else is the engine's tensors."""
        if self._declared is not None:
            instances = kserve.instances_of(body)
            first = bytes(memoryview(instances)[:_HEAD]).lstrip()[1:].lstrip()[:1] if instances else b""
            if first == b'"' or (first == b"{" and not self._is_tensors(instances)):
                return self._guarded(self._list, instances)
        return Decoded(inputs=kserve.decode_predict(body, self._signature))

    def _is_tensors(self, instances: msgspec.Raw) -> bool:
        """Whether records hold the engine's inputs by name; where these are the columns of a table, they are a table."""
        try:
            record = _decode_object(_decode_list(instances)[0])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False
        return not self._columns and bool(record) and self._engine.issuperset(record)

    def _guessed(self, body: bytes) -> str:
        """What a body without a Content-Type is."""
        if body.lstrip()[:1] in (b"{", b"[", b'"'):
            return _JSON
        if isinstance(self._declared, ImageInput):
            return "application/octet-stream"
        return "text/plain" if "text/plain" in self.takes else _JSON

    def _not_taken(self, kind: str) -> UnsupportedMedia:
        return UnsupportedMedia(
            f"The model does not take {kind[:80]!r}; it takes {', '.join(self.takes)}.",
            next_step=f"Say what the body is: Content-Type: {self.takes[0]}.",
        )

    # JSON

    def _json(self, body: bytes) -> Decoded:
        return self._guarded(self._value, msgspec.Raw(body.lstrip()))

    def _guarded(self, read: Any, raw: msgspec.Raw) -> Decoded:
        try:
            decoded: Decoded = read(raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidInput(f"The body is not JSON that can be read: {str(error)[:300]}.", code="invalid_json") from None
        except RecursionError:
            raise InvalidInput("The JSON is nested too deep.", code="invalid_json") from None
        return decoded

    def _value(self, raw: msgspec.Raw) -> Decoded:
        first = bytes(memoryview(raw)[:_HEAD]).lstrip()[:1]
        if first == b"[":
            return self._list(raw)
        if first == b"{":
            return self._object(raw)
        value = _decode_any(raw)
        if isinstance(value, str):
            return self._strings([value])
        raise self._unknown(f"{str(value)[:40]!r}")

    def _object(self, raw: msgspec.Raw) -> Decoded:
        fields = _decode_object(raw)
        if len(fields) == 1:
            (name,) = fields
            if name == "instances" and name not in self._columns:
                return self._list(fields[name])
            if name == "columns" and self._columns and name not in self._columns:
                return self._by_column(_decode_any(fields[name]))
        if fields and self._engine.issuperset(fields) and not self._columns.issuperset(fields):
            return self._tensors(kserve.read_columns(raw, self._signature))
        if self._columns:
            return self._table(raw, fields)
        if isinstance(self._declared, TextInput | ImageInput):
            return self._named([{name: _decode_any(value) for name, value in fields.items()}])
        return self._tensors(kserve.read_columns(raw, self._signature))

    def _by_column(self, columns: Any) -> Decoded:
        if not isinstance(columns, dict):
            raise InvalidInput(f"'columns' must be an object of lists; {_told(columns)} came.", code="datatype_mismatch")
        return Decoded(columns)

    def _table(self, raw: msgspec.Raw, fields: Mapping[str, msgspec.Raw]) -> Decoded:
        """A record, lists of values by column, or the engine's inputs where these are columns themselves."""
        values = fields.values()
        if not values or not all(bytes(memoryview(value)[:1]) == b"[" for value in values):
            return Decoded(raw)
        nested = all(bytes(memoryview(value)[1:_HEAD]).lstrip()[:1] == b"[" for value in values)
        if nested and self._engine.issuperset(fields):
            return self._tensors(kserve.read_columns(raw, self._signature))
        return Decoded({name: _decode_any(value) for name, value in fields.items()})

    def _list(self, raw: msgspec.Raw) -> Decoded:
        text = bytes(memoryview(raw)[:_HEAD]).lstrip()
        if text[:1] != b"[":
            raise InvalidInput(f"Expected a list of rows; {_told(_decode_any(raw))} came.", code="datatype_mismatch")
        if self._columns:
            return Decoded(raw)
        first = text[1:].lstrip()[:1]
        if not isinstance(self._declared, TextInput | ImageInput) or self._may_be_tensor(first):
            return self._tensors(kserve.read_rows(raw, self._signature))
        values: list[Any] = _decode_any(raw)
        if not values or first != b"{":
            return self._strings(values)
        if values[0] and self._engine.issuperset(values[0]):
            return self._tensors(kserve.read_rows(raw, self._signature))
        return self._named(values)

    def _may_be_tensor(self, first: bytes) -> bool:
        """Whether a list whose first element begins so can be meant for the engine itself."""
        pair = isinstance(self._declared, TextInput) and self._declared.pair
        return len(self._engine) == 1 and not pair and first not in (b'"', b"{", b"]")

    def _named(self, records: Any) -> Decoded:
        """Records {"text": …} or {"image": …}; a single one may hold a list."""
        values: list[Any] = []
        for row, record in enumerate(records):
            if not isinstance(record, dict):
                raise InvalidInput(f"Row {row} must be an object; {_told(record)} came.", code="datatype_mismatch")
            value = self._of_record(row, record)
            if isinstance(value, list) and len(records) == 1 and _PAIR not in record:
                return self._strings(value)
            values.append(value)
        return self._strings(values)

    def _of_record(self, row: int, record: dict[str, Any]) -> Any:
        name = self._declared.name if isinstance(self._declared, TextInput | ImageInput) else ""
        if isinstance(self._declared, ImageInput) and record.keys() == {_BASE64}:
            return record[_BASE64]
        pair = isinstance(self._declared, TextInput) and self._declared.pair
        known = {name, _PAIR} if pair else {name}
        if (extra := next((field for field in record if field not in known), None)) is not None:
            raise InvalidInput(
                f"Row {row} has the unknown field {extra[:80]!r}; the model takes {name!r}.", code="input_unknown"
            )
        if name not in record:
            raise InvalidInput(f"Row {row} lacks {name!r}.", code="input_missing")
        if _PAIR in record:
            return [record[name], record[_PAIR]]
        value = record[name]
        return value[_BASE64] if isinstance(value, dict) and value.keys() == {_BASE64} else value

    def _strings(self, values: Sequence[Any]) -> Decoded:
        """Texts, or images in base64."""
        if not values:
            raise InvalidInput("The request has no rows.", code="no_rows", next_step="Send at least one row.")
        if isinstance(self._declared, ImageInput):
            return Decoded(_objects([_image(row, value) for row, value in enumerate(values)]))
        return self._texts(values)

    def _texts(self, values: Sequence[Any]) -> Decoded:
        pair = isinstance(self._declared, TextInput) and self._declared.pair
        if pair and values and all(isinstance(value, list) and len(value) == 2 for value in values):
            flat = [_text(row, text) for row, value in enumerate(values) for text in value]
            return Decoded(_objects(flat).reshape(-1, 2), texts=tuple(value[0] for value in values))
        texts = [_text(row, value) for row, value in enumerate(values)]
        if isinstance(self._declared, TextInput):
            return Decoded(_objects(texts), texts=tuple(values))
        if self._is_text():
            return self._tensors({self._signature.inputs[0].name: _objects(texts)})
        raise self._unknown("text")

    def _unknown(self, came: str) -> InvalidInput:
        inputs = ", ".join(f"{spec.name!r} {spec.datatype} {list(spec.shape)}" for spec in self._signature.inputs)
        return InvalidInput(f"The model takes {inputs}; {came} came.", code="datatype_mismatch")

    def _tensors(self, inputs: dict[str, Tensor]) -> Decoded:
        """The engine's own inputs; one axis less than declared is one row, or one column where one value a row is declared."""
        specs = {spec.name: spec for spec in self._signature.inputs}
        fitted = {name: _fitted(array, specs[name]) if name in specs else array for name, array in inputs.items()}
        check_inputs(self._signature, fitted)
        return Decoded(inputs=fitted)

    # forms and CSV

    def _csv(self, fields: Fields) -> Decoded:
        if self._columns:
            return Decoded(fields)
        if not self._is_matrix():
            name = self._declared.name if isinstance(self._declared, TextInput) else self._signature.inputs[0].name
            if fields.names != (name,):
                raise InvalidInput(
                    f"The CSV table has the columns {_listed(fields.names)}; expected one column {name!r} with a text a row.",
                    code="column_unknown",
                )
            return self._strings([row[0] for row in fields.rows])
        spec = self._signature.inputs[0]
        words = spec.datatype == "BYTES"
        unnamed = not words and all(map(_is_number, fields.names))
        rows = (fields.names, *fields.rows) if unnamed else fields.rows
        if not rows or not fields.names:
            raise InvalidInput("The CSV table has no rows.", code="no_rows", next_step="Send at least one row.")
        if words:
            return self._tensors({spec.name: _objects([cell.encode() for row in rows for cell in row]).reshape(len(rows), -1)})
        return self._tensors({spec.name: np.array([_numbers(index, row, spec) for index, row in enumerate(rows)])})

    def _form(self, parts: Sequence[forms.Part]) -> Decoded:
        if not parts:
            raise InvalidInput("The form has no parts.", code="no_rows", next_step="Send at least one.")
        if isinstance(self._declared, ImageInput):
            for part in parts:
                if not part.is_file and part.name != self._declared.name:
                    raise self._unknown_field(part)
            return Decoded(_objects([part.data for part in parts]))
        files = [part for part in parts if part.is_file]
        if self._columns:
            if len(parts) == 1 and files:
                return self._csv(forms.read_csv(files[0].data))
            if files:
                raise InvalidInput("A form with a table is one CSV file, or fields by column.", code="invalid_form")
            return Decoded(_record(parts))
        name = self._declared.name if isinstance(self._declared, TextInput) else self._signature.inputs[0].name
        if other := next((part for part in parts if part.name != name and not part.is_file), None):
            raise self._unknown_field(other)
        return self._texts([forms.as_text(part.data, f"Part {index} of the form") for index, part in enumerate(parts)])

    def _unknown_field(self, part: forms.Part) -> InvalidInput:
        name = self._declared.name if isinstance(self._declared, TextInput | ImageInput) else self._signature.inputs[0].name
        return InvalidInput(
            f"The form has the unknown field {part.name[:80]!r}; expected {name!r} or files.", code="input_unknown"
        )


def _record(parts: Sequence[forms.Part]) -> Fields:
    """Fields of a form by column; a column that comes several times has several rows."""
    columns: dict[str, list[str]] = {}
    for part in parts:
        columns.setdefault(part.name, []).append(forms.as_text(part.data, f"Field {part.name[:80]!r}"))
    first, *others = columns
    for name in others:
        if len(columns[name]) != len(columns[first]):
            raise InvalidInput(
                f"The columns differ in length: {first[:80]!r} came {len(columns[first])} times, "
                f"{name[:80]!r} {len(columns[name])} times.",
                code="ragged_columns",
            )
    return Fields(tuple(columns), tuple(zip(*columns.values(), strict=True)))


def _check_charset(parameters: str) -> None:
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset" and value.strip(' "').lower() not in ("utf-8", "utf8", "us-ascii"):
            raise UnsupportedMedia(f"The charset {value.strip()[:40]!r} is not read; UTF-8 is.", code="unknown_charset")


def _objects(items: Sequence[bytes]) -> NDArray[np.object_]:
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array


def _text(row: int, value: Any) -> bytes:
    if not isinstance(value, str):
        raise InvalidInput(f"Row {row}: expected a text; {_told(value)} came.", code="datatype_mismatch")
    return value.encode()


def _image(row: int, value: Any) -> bytes:
    if isinstance(value, dict) and value.keys() == {_BASE64}:
        value = value[_BASE64]
    if not isinstance(value, str):
        raise InvalidInput(f"Row {row}: expected an image in base64; {_told(value)} came.", code="datatype_mismatch")
    head, comma, rest = value.partition(",")
    text = rest if comma and head.startswith("data:") and head.endswith(";base64") else value
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidInput(f"Row {row}: the image is not valid base64.", code="invalid_base64") from None


def _told(value: Any) -> str:
    words = {dict: "an object", list: "a list", bool: "true or false", int: "a number", float: "a number", type(None): "null"}
    return words.get(type(value), "text")


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name[:80]) for name in names[:8])
    return f"{shown} and {len(names) - 8} more" if len(names) > 8 else shown


def _fitted(array: Tensor, spec: TensorSpec) -> Tensor:
    if array.ndim != len(spec.shape) - 1:
        return array
    row, column = array[None], array[..., None]
    return column if _fits(column, spec) and not _fits(row, spec) else row


def _fits(array: Tensor, spec: TensorSpec) -> bool:
    return all(axis in (-1, size) for axis, size in zip(spec.shape, array.shape, strict=True))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _numbers(index: int, row: Sequence[str], spec: TensorSpec) -> Tensor:
    """One row of a CSV table without column names that mean anything."""
    dtype = numpy_dtype(spec.datatype)
    read: Any = int if dtype.kind in "iu" else float
    values = []
    for place, cell in enumerate(row):
        try:
            value = read(cell)
            fits = bool(np.isfinite(value)) and "_" not in cell and cell.isascii()
        except (ValueError, OverflowError):
            fits = False
        if not fits:
            raise InvalidInput(
                f"Row {index}, field {place}: expected a number ({spec.datatype}); {cell[:80]!r} came.",
                code="datatype_mismatch",
            )
        values.append(value)
    try:
        with np.errstate(over="ignore"):
            array = np.array(values, dtype)
    except OverflowError:
        raise InvalidInput(f"Row {index} holds a number that is too large for {spec.datatype}.", code="invalid_data") from None
    if dtype.kind == "f" and not np.isfinite(array).all():
        raise InvalidInput(f"Row {index} holds a number that is too large for {spec.datatype}.", code="invalid_data")
    return array


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def rows_of(outputs: Mapping[str, Tensor], batchable: bool) -> list[dict[str, Any]]:
    """One object a row with a key an output; a single object where the outputs have no rows."""
    ready = {name: json_ready(name, array) for name, array in outputs.items()}
    if batchable and len({len(np.atleast_1d(array)) for array in ready.values()}) == 1:
        columns = [np.atleast_1d(array).tolist() for array in ready.values()]
        return [dict(zip(ready, row, strict=True)) for row in zip(*columns, strict=True)]
    return [{name: array.tolist() for name, array in ready.items()}]


class _Answer(msgspec.Struct):
    model: str
    version: int
    predictions: list[dict[str, Any]]
    notes: Sequence[Mapping[str, Any]]


def encode(model: str, version: int, predictions: list[dict[str, Any]], notes: Sequence[Mapping[str, Any]] = ()) -> bytes:
    """The answer's body, JSON. notes: what must be told of single rows, as {"row": 3, "truncated": true, …}."""
    return msgspec.json.encode(_Answer(model, version, predictions, notes))

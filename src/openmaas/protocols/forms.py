"""Bodies that browsers and spreadsheets send: multipart forms and CSV, bounded in parts, headers and columns."""

from __future__ import annotations

import csv
import io
import logging
from typing import Any, Final

import msgspec

from openmaas.core.errors import InvalidInput, TooLarge
from openmaas.core.processing import Fields

MAX_PARTS: Final = 1024
MAX_COLUMNS: Final = 10_000
_MAX_HEADERS: Final = 8  # of one part
_MAX_HEADER: Final = 4096  # bytes
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # a caller's broken form is told to the caller alone
_CSV_NEXT: Final = "Send a line of column names, then a line a row, with commas between."


class Part(msgspec.Struct):
    """One field or file of a form."""

    name: str
    filename: str | None
    content_type: str
    data: bytes

    @property
    def is_file(self) -> bool:
        return self.filename is not None


def read_form(body: bytes, content_type: str) -> list[Part]:
    """The parts of a multipart/form-data body, in order. Raises InvalidInput for a broken one, TooLarge for too many parts."""
    from python_multipart.exceptions import FormParserError
    from python_multipart.multipart import MultipartParser, parse_options_header

    _, options = parse_options_header(content_type.encode("latin-1", "replace"))
    boundary = options.get(b"boundary", b"")
    if not 1 <= len(boundary) <= 70:
        raise InvalidInput("The multipart body's Content-Type names no boundary of 1 to 70 characters.", code="invalid_form")
    reader = _Reader()
    try:
        parser = MultipartParser(
            boundary,
            reader.callbacks(),
            max_header_count=_MAX_HEADERS,
            max_header_size=_MAX_HEADER,
        )
        parser.write(body)
        parser.finalize()
    except (FormParserError, ValueError) as error:
        raise InvalidInput(f"The multipart body is broken: {str(error)[:200]}.", code="invalid_form") from None
    if not reader.whole:
        raise InvalidInput("The multipart body is cut short: its last boundary is missing.", code="invalid_form")
    return reader.parts


class _Reader:
    """Gathers what the parser calls back with."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.whole = False
        self._headers: dict[bytes, bytes] = {}
        self._name = bytearray()
        self._value = bytearray()
        self._data: list[bytes] = []

    def callbacks(self) -> dict[str, Any]:
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._name.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._header,
            "on_part_data": lambda data, start, end: self._data.append(data[start:end]),
            "on_part_end": self._end,
            "on_end": self._last,
        }

    def _begin(self) -> None:
        if len(self.parts) >= MAX_PARTS:
            raise TooLarge(
                f"The form has more than {MAX_PARTS} parts.", code="too_many_parts", next_step="Send fewer a request."
            )
        self._headers = {}
        self._data = []

    def _header(self) -> None:
        self._headers[bytes(self._name).lower()] = bytes(self._value)
        self._name.clear()
        self._value.clear()

    def _end(self) -> None:
        from python_multipart.multipart import parse_options_header

        disposition, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        if disposition != b"form-data" or b"name" not in options:
            raise InvalidInput(f"Part {len(self.parts)} of the form has no name.", code="invalid_form")
        if b"content-transfer-encoding" in self._headers:
            raise InvalidInput(f"Part {len(self.parts)} of the form has a transfer encoding.", code="invalid_form")
        filename = options.get(b"filename")
        self.parts.append(
            Part(
                options[b"name"].decode("utf-8", "replace"),
                None if filename is None else filename.decode("utf-8", "replace"),
                self._headers.get(b"content-type", b"").decode("latin-1").partition(";")[0].strip().lower(),
                b"".join(self._data),
            )
        )

    def _last(self) -> None:
        self.whole = True


def read_csv(body: bytes) -> Fields:
    """The first line as names and the others as rows. Raises InvalidInput that names the line."""
    names: tuple[str, ...] = ()
    rows: list[tuple[str, ...]] = []
    reader = csv.reader(io.StringIO(as_text(body, "The CSV table"), newline=""), strict=True)
    try:
        for line in reader:
            if not names:
                names = tuple(name.strip() for name in line)
                _check_columns(names)
            elif line:
                if len(line) != len(names):
                    raise InvalidInput(
                        f"Line {reader.line_num} of the CSV table has {len(line)} fields; its first has {len(names)}.",
                        code="ragged_rows",
                    )
                rows.append(tuple(line))
    except csv.Error as error:
        raise InvalidInput(
            f"Line {reader.line_num} of the CSV table is broken: {error}.", code="invalid_csv", next_step=_CSV_NEXT
        ) from None
    return Fields(names, tuple(rows))


def _check_columns(names: tuple[str, ...]) -> None:
    if len(names) > MAX_COLUMNS:
        raise TooLarge(f"The CSV table has {len(names)} columns; at most {MAX_COLUMNS} are read.", code="too_many_columns")


def as_text(data: bytes, what: str) -> str:
    """UTF-8, with or without a byte order mark."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"{what} is not UTF-8 text: byte 0x{data[error.start]:02x} at {error.start}.", code="not_text"
        ) from None

"""What a prediction is asked about: a file's content as a request body, and what it is, by its content."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from openmaas.cli.i18n import _
from openmaas.core.errors import InvalidInput

_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"GIF8", "image/gif"), (b"BM", "image/bmp"),
    (b"II*\x00", "image/tiff"), (b"MM\x00*", "image/tiff"),
)  # fmt: skip


class Body(NamedTuple):
    """A request's body and its Content-Type."""

    content: bytes
    content_type: str


def read_body(source: str) -> Body:
    """The content of a file, or of standard input for '-'. Raises InvalidInput that names the file and what is wrong."""
    data = _read(source)
    if (image := _image_type(data)) is not None:
        return Body(data, image)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return Body(data, "application/octet-stream")
    if text.lstrip()[:1] in ("[", "{", '"'):
        return _json(text, source)
    return Body(text.encode(), "text/csv" if _is_table(text, source) else "text/plain")


def texts_body(texts: list[str]) -> Body:
    """Texts as the rows of a request."""
    return Body(msgspec.json.encode(texts), "application/json")


def _read(source: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except OSError as error:
        raise InvalidInput(
            _("{source!r} cannot be read: {reason}.").format(source=source, reason=error.strerror), code="no_such_file"
        ) from None


def _image_type(data: bytes) -> str | None:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for magic, kind in _MAGIC if data.startswith(magic)), None)


def _is_table(text: str, source: str) -> bool:
    """Whether it is CSV: lines with the same number of fields. Only a file's name can tell a single column from prose."""
    try:
        widths = [len(row) for row in csv.reader(io.StringIO(text), strict=True) if row]
    except csv.Error:
        return False
    return len(widths) > 1 and len(set(widths)) == 1 and (widths[0] > 1 or source.endswith(".csv"))


def _json(text: str, source: str) -> Body:
    try:
        data = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise InvalidInput(
            _("{source!r} is not JSON: {error}.").format(source=source, error=error), code="invalid_json"
        ) from None
    if isinstance(data, dict) and "inputs" in data:
        text = msgspec.json.encode(_tensors(data["inputs"], source)).decode()
    return Body(text.encode(), "application/json")


def _tensors(inputs: Any, source: str) -> Any:
    """{"inputs": …} of other protocols as an object by input name; flat data take the shape that they state."""
    if not (isinstance(inputs, list) and inputs and all(isinstance(item, dict) and "data" in item for item in inputs)):
        return inputs
    return {item.get("name", ""): _nested(item, source) for item in inputs}


def _nested(item: dict[str, Any], source: str) -> Any:
    import numpy as np

    try:
        values = np.asarray(item["data"], dtype=object)
        return values.reshape(item["shape"]).tolist() if "shape" in item else item["data"]
    except (ValueError, TypeError):
        raise InvalidInput(
            _("{source!r}: the data of {name!r} do not have the shape {shape}.").format(
                source=source, name=item.get("name"), shape=item.get("shape")
            ),
            code="shape_mismatch",
        ) from None

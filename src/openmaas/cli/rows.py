"""Rows for a prediction, from JSON or CSV."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from openmaas.cli.i18n import _
from openmaas.core.errors import InvalidInput

if TYPE_CHECKING:
    from openmaas.core.types import Signature


def read_rows(source: str, signature: Callable[[], Signature]) -> Any:
    """What `Client.predict` takes, from a file or '-'. `signature` is asked for where the meaning depends on it.

    Raises InvalidInput that names the file and what is wrong with it.
    """
    text = _read(source)
    if text.lstrip()[:1] in ("[", "{"):
        return _from_json(text, source)
    return _from_csv(text, source, signature())


def _read(source: str) -> str:
    try:
        return sys.stdin.read() if source == "-" else Path(source).read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else _("it is not UTF-8 text")
        raise InvalidInput(
            _("{source!r} cannot be read: {reason}.").format(source=source, reason=reason), code="no_such_file"
        ) from None


def _from_json(text: str, source: str) -> Any:
    try:
        data = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise InvalidInput(
            _("{source!r} is not JSON: {error}.").format(source=source, error=error), code="invalid_json"
        ) from None
    if not isinstance(data, dict):
        return data
    if isinstance(data.get("instances"), list):
        return _columns(data["instances"])
    inputs = data.get("inputs", data)
    if isinstance(inputs, list) and inputs and all(isinstance(item, dict) and "data" in item for item in inputs):
        return {item["name"]: _tensor(item, source) for item in inputs}
    return inputs


def _columns(instances: list[Any]) -> Any:
    """Instances that are objects, as one list for each input."""
    if not instances or not all(isinstance(item, dict) for item in instances):
        return instances
    names = instances[0].keys()
    if any(item.keys() != names for item in instances):
        raise InvalidInput(_("The instances differ in their names: {names}.").format(names=", ".join(sorted(names))))
    return {name: [item[name] for item in instances] for name in names}


def _tensor(item: dict[str, Any], source: str) -> Any:
    """An Open Inference Protocol tensor; flat data take the shape that it states."""
    import numpy as np

    try:
        values = np.asarray(item["data"])
        return values.reshape(item["shape"]) if "shape" in item else values
    except (ValueError, TypeError):
        raise InvalidInput(
            _("{source!r}: the data of {name!r} do not have the shape {shape}.").format(
                source=source, name=item.get("name"), shape=item.get("shape")
            ),
            code="shape_mismatch",
        ) from None


def _from_csv(text: str, source: str, signature: Signature) -> Any:
    """A table: its columns are the inputs where the names say so, else together the rows of the only input."""
    table = [row for row in csv.reader(io.StringIO(text)) if row]
    if len(table) < 2 or any(len(row) != len(table[0]) for row in table):
        raise InvalidInput(
            _("{source!r} is neither JSON nor a CSV table with a line of column names.").format(source=source),
            code="invalid_input",
        )
    names, *rows = table
    kinds = {spec.name: spec.datatype for spec in signature.inputs}
    if set(names) == set(kinds):
        return {name: [_value(row[index], kinds[name] == "BYTES", source) for row in rows] for index, name in enumerate(names)}
    only_text = len(kinds) == 1 and "BYTES" in kinds.values()
    return [[_value(cell, only_text, source) for cell in row] for row in rows]


def _value(cell: str, text: bool, source: str) -> Any:
    if text:
        return cell
    try:
        return int(cell) if cell.strip().lstrip("+-").isdigit() else float(cell)
    except ValueError:
        raise InvalidInput(
            _("{source!r}: {cell!r} is not a number.").format(source=source, cell=cell[:80]), code="datatype_mismatch"
        ) from None

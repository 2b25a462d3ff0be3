"""The .xml of an OpenVINO IR read as data: whether it may be loaded, and whether its weights are all there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from openmaas.core.errors import InvalidInput, Refused, TooLarge
from openmaas.formats.files import file_inside

MAX_BYTES = 256 << 20
_MAX_DEPTH = 256
_BOM = b"\xef\xbb\xbf"
_ROOT = re.compile(rb"<net[\s>]")
_BEFORE = {b"<?": b"?>", b"<!--": b"-->"}
"""What may stand before the root, and where it ends."""


class Reader:
    """Follows the elements. `needed`: bytes of weights that the constants reach to."""

    def __init__(self) -> None:
        self.needed = 0
        self._depth = 0

    def begin(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise Refused(f"The graph is nested more than {_MAX_DEPTH} levels deep.", code="too_deep")
        if self._depth == 1 and name != "net":
            raise InvalidInput(f"The graph's first element is {name[:40]!r} instead of 'net'.", code="damaged")
        if name == "data" and "offset" in attributes and "size" in attributes:
            self.needed = max(self.needed, _number(attributes["offset"]) + _number(attributes["size"]))

    def end(self, _name: str) -> None:
        self._depth -= 1


def is_graph(path: Path) -> bool:
    """Whether a file begins as an IR's .xml does."""
    with path.open("rb") as file:
        start = file.read(8192).removeprefix(_BOM).lstrip()
    while opening := next((opening for opening in _BEFORE if start.startswith(opening)), None):
        start = start.partition(_BEFORE[opening])[2].lstrip()
    if start.startswith(b"<!DOCTYPE"):  # to be refused for what it is
        return _ROOT.search(start) is not None
    return _ROOT.match(start) is not None


def check_graph(folder: Path, entry: str, reader: Reader | None = None) -> str | None:
    """The path of the weights beside the graph; None where it needs none. reader: follows the elements, for who wants more.

    Raises Refused for a document type or entities, InvalidInput for what is damaged, missing or too short, TooLarge.
    """
    path = folder / entry
    if path.stat().st_size > MAX_BYTES:
        raise TooLarge(f"The graph {entry!r} has {path.stat().st_size} bytes; at most {MAX_BYTES} are read.")
    needed = _read(path, reader or Reader()).needed
    weights = str(Path(entry).with_suffix(".bin"))
    if not needed:
        return weights if (folder / weights).is_file() else None
    try:
        there = file_inside(folder, weights, "The file").stat().st_size
    except InvalidInput:
        raise InvalidInput(
            f"The graph {entry!r} keeps its weights in {weights!r}, which was not pushed.",
            code="file_missing",
            next_step="Push the folder that holds the .xml and its .bin.",
        ) from None
    if needed > there:
        raise InvalidInput(f"The graph {entry!r} needs {needed} bytes of {weights!r}, which has {there}.", code="truncated")
    return weights


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise InvalidInput(f"A constant's place in the weights is {text[:40]!r}, which is no number.", code="damaged")
    return int(text)


def _refuse_type(*_: Any) -> None:
    raise Refused(
        "The graph declares a document type or entities, which no OpenVINO IR needs.",
        code="xml_entities",
        next_step="Save the model again with openvino.save_model.",
    )


def _read(path: Path, reader: Reader) -> Reader:
    from xml.parsers import expat

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = reader.begin, reader.end
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = _refuse_type
    try:
        with path.open("rb") as file:
            parser.ParseFile(file)
    except expat.ExpatError as error:
        raise InvalidInput(f"The graph {path.name!r} is damaged: {error}.", code="damaged") from None
    return reader

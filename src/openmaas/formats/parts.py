"""Models that are folders: which files are part of one, and which a push of it can do without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from openmaas.core.errors import OpenMaaSError
from openmaas.formats.base import Format, formats
from openmaas.formats.description import read_description


def without_parts(found: Sequence[tuple[str, str]], installed: Mapping[str, Format]) -> list[tuple[str, str]]:
    """Format names and entries, but those within a folder that is a model as a whole."""
    whole = [(name, PurePosixPath(entry).parent) for name, entry in found if installed[name].whole_folder]
    return [
        (name, entry)
        for name, entry in found
        if not any(name != other and PurePosixPath(entry).is_relative_to(folder) for other, folder in whole)
    ]


def idle_files(folder: Path, files: Sequence[str]) -> list[str]:
    """Files of a folder that need not be pushed, because the model in it does without them: asked before anything is sent.

    None where openmaas.yaml says which of them is the model, or where it is not clear.
    """
    try:
        description = read_description(folder)
    except OpenMaaSError:
        return []  # the server says what is wrong with it
    if description.entry or description.converted:
        return []
    kinds = {name: kind for name, kind in formats().items() if kind.whole_folder and description.format in (None, name)}
    found = [(kind, entry) for kind in kinds.values() for entry in kind.find(folder, files)]
    if len(found) != 1:
        return []
    kind, entry = found[0]
    base = PurePosixPath(entry).parent
    return kind.idle(folder, entry, [file for file in files if PurePosixPath(file).is_relative_to(base)])

"""The seam that every conversion fits: one kind of artifact in, another out, both told to give the same answers.

A new conversion is one class here or in a format's own file, and an entry point in the group `openmaas.converters`, named
SOURCE.TARGET after the two kinds. Whether the result may be registered is not decided by it: the job compares afterwards.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar

import msgspec
from numpy.typing import NDArray

from openmaas.core.errors import InvalidInput
from openmaas.core.manifest import Artifact, Manifest


class Conversion(msgspec.Struct, frozen=True, kw_only=True):
    """What a converter is given.

    folder: the version's files, only read. artifact: which of them. sample: engine inputs by name, never empty. output: an
    empty folder. python: the interpreter of the converter's environment, this one's where it names none. options: what a
    converter takes besides. log: told lines; tell: told the stage.
    """

    folder: Path
    artifact: Artifact
    manifest: Manifest
    sample: Mapping[str, NDArray[Any]]
    output: Path
    python: Path
    options: Mapping[str, Any] = {}
    log: Callable[[str], object] = print
    tell: Callable[[str], object] = print


class Converter(ABC):
    """Heavy libraries are imported in `convert`.

    environment: name of the constraints file (tasks/environments/NAME.txt) with the libraries that do not live with the rest;
    its interpreter is run as a child process.
    """

    source: ClassVar[str]
    target: ClassVar[str]
    environment: ClassVar[str | None] = None

    @abstractmethod
    def convert(self, conversion: Conversion) -> Artifact:
        """Write the artifact below `output` and return it. Raises InvalidInput that names what cannot be converted."""


def converters() -> dict[tuple[str, str], Converter]:
    """The installed converters by source and target kind."""
    found = (entry.load()() for entry in sorted(entry_points(group="openmaas.converters"), key=lambda entry: entry.name))
    return {(converter.source, converter.target): converter for converter in found}


def find_route(sources: list[Artifact], target: str) -> tuple[Artifact, list[Converter]]:
    """The shortest chain of converters from one of the artifacts to a kind. Raises InvalidInput with what can be reached."""
    installed = converters()
    routes: dict[str, tuple[Artifact, list[Converter]]] = {}
    waiting = []
    for artifact in sources:
        if artifact.kind not in routes:
            routes[artifact.kind] = (artifact, [])
            waiting.append(artifact.kind)
    for kind in waiting:
        for (source, reached), converter in installed.items():
            if source == kind and reached not in routes:
                routes[reached] = (routes[kind][0], [*routes[kind][1], converter])
                waiting.append(reached)
    if target in routes:
        return routes[target]
    reachable = sorted(kind for kind, (_, chain) in routes.items() if chain)
    raise InvalidInput(
        f"There is no conversion from {', '.join(sorted({artifact.kind for artifact in sources}))} to {target[:40]!r}.",
        code="no_conversion",
        next_step=f"Possible are: {', '.join(reachable)}." if reachable else "Push the model in another format.",
    )

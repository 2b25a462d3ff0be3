"""The seam that every format fits: what a model file is, found out from its content and never from its name.

A new format is one file with a subclass of Format, and an entry point in the group `openmaas.formats`.

    find      which of the files are of this format?                       control's child process, nothing is loaded
    examine   read it, convert it where that serves, prove the result      control's child process
    export    write a live object as files of this format                  the client, where the object's class is
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from openmaas.core.datasets import DataColumn, DatasetFormat, Purpose
from openmaas.core.errors import InvalidInput
from openmaas.core.generation import Generator
from openmaas.core.manifest import Artifact, FileEntry, Manifest, Parity
from openmaas.core.processing import Padding, Processing
from openmaas.core.types import Signature
from openmaas.formats.description import Description


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be examined.

    folder: the pushed files, only read. output: an empty folder for files that a conversion adds. sample: path of the file
    in `folder` that holds sample inputs. parity: what the pusher compared when the conversion was done on their side.
    approved: SHA-256 digests that an admin allows to be loaded although loading them runs code.
    """

    folder: Path
    output: Path
    sample: str | None = None
    parity: Parity | None = None
    approved: frozenset[str] = frozenset()
    description: Description = Description()


class Examined(msgspec.Struct, frozen=True, kw_only=True):
    """What was found out: all that a manifest needs besides the files. `added` are files below `output`, '/' between parts.

    The fields are the manifest's own; card, metadata and licence come from openmaas.yaml. convert_to: the artifact kind that a
    job should make of this version right away, because nothing here can run it as it is.
    """

    format: str
    engine: str
    entry: str
    signature: Signature
    artifacts: tuple[Artifact, ...] = ()
    batchable: bool = False
    batching: str = ""
    padding: Padding | None = None
    processing: Processing | None = None
    generator: Generator | None = None
    sample: str | None = None
    convert_to: str | None = None
    parity: Parity | None = None
    options: dict[str, Any] = {}
    notes: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    card: str = ""
    metadata: dict[str, Any] = {}
    licence: str = ""

    def manifest(self, files: Iterable[FileEntry]) -> Manifest:
        """The version that these files are, the added ones among them."""
        found = {name: getattr(self, name) for name in Manifest.__struct_fields__ if name in self.__struct_fields__}
        return Manifest(files=tuple(sorted(files, key=lambda file: file.path)), **found)


class ExaminedDataset(msgspec.Struct, frozen=True, kw_only=True):
    """A DatasetManifest without its files; the fields are its own."""

    format: DatasetFormat
    entry: str
    purpose: Purpose
    rows: int
    columns: tuple[DataColumn, ...]
    label: str = ""
    classes: tuple[str, ...] = ()
    counts: tuple[int, ...] = ()
    missing: int = 0
    preview: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()


class Exported(msgspec.Struct, frozen=True, kw_only=True):
    """A live object as files, ready to be pushed: paths below the folder, the sample's among them, and what was compared."""

    files: tuple[str, ...]
    sample: str | None = None
    parity: Parity | None = None


class Format(ABC):
    """Heavy libraries are imported inside the methods, never at the top of a format's file."""

    name: ClassVar[str]
    kinds: ClassVar[str] = ""
    """What `export` understands, in words, for the error that lists it. Empty when it exports nothing."""
    whole_folder: ClassVar[bool] = False
    """An entry stands for its folder and all that is below: what other formats find in there is no model of its own."""

    @abstractmethod
    def find(self, folder: Path, files: Sequence[str]) -> list[str]:
        """Those of the files that are models of this format, by their content. Never loads a model."""

    @abstractmethod
    def examine(self, task: Task, entry: str) -> Examined:
        """Read the model, convert it where that serves, prove what can be proved. Raises InvalidInput or Refused."""

    def idle(self, folder: Path, entry: str, files: Sequence[str]) -> list[str]:
        """Those of the files that a push of this entry can do without: the same weights for another tool. None by default."""
        return []

    def native(self, task: Task, entry: str) -> tuple[Artifact, ...]:
        """A file of this format that came beside its conversion, as artifacts that the format's own engine may load too.

        Every check that loading it needs is made here: what is returned will be loaded. None by default. Raises Refused.
        """
        return ()

    def complete(self, task: Task, examined: Examined) -> Examined:
        """What the pushed files add to a model that the pusher converted: `examined` is of the ONNX file. Nothing here."""
        return examined

    def export(self, model: object, sample: Any, folder: Path) -> Exported | None:
        """Write a live object; None when it is not of this kind. Raises InvalidInput when it is and cannot be written."""
        return None


def formats() -> dict[str, Format]:
    """The installed formats by name."""
    return {
        entry.name: entry.load()() for entry in sorted(entry_points(group="openmaas.formats"), key=lambda entry: entry.name)
    }


def format_named(name: str) -> Format:
    """The format of that name. Raises InvalidInput with the names that are installed."""
    installed = formats()
    if name not in installed:
        raise InvalidInput(
            f"{name[:80]!r} is not a format; installed are {', '.join(installed)}.",
            code="unknown_format",
            next_step="Correct 'format' in openmaas.yaml.",
        )
    return installed[name]

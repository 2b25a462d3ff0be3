"""What a dataset is: immutable files by digest, columns, and what is to be predicted. Its manifest's digest names the version.

A dataset has a name and numbered versions as a model has, written digits-test or digits-test:2, in a space of names of its own.
It has no aliases: what was measured names the exact version.
"""

from __future__ import annotations

import hashlib
from typing import Final, Literal

import msgspec

from openmaas.core.manifest import FileEntry
from openmaas.core.types import DataType

DatasetFormat = Literal["npz", "parquet", "csv", "jsonl", "images"]
Purpose = Literal["classes", "values", "similarity", "text", "inputs"]
"""What the rows can be used for: a class each, a number each, two texts and how alike they are, running text (perplexity), or
only inputs (calibration, agreement)."""

LABELS: Final = ("label", "labels", "target", "targets", "class", "y")
"""Names by which a column is known to be what is predicted, where the push does not say it."""


class DataColumn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A column. shape: of one row, () for a single value. An image folder has the columns `image` (BYTES) and `label`."""

    name: str
    datatype: DataType
    shape: tuple[int, ...] = ()


class DatasetManifest(msgspec.Struct, frozen=True, kw_only=True):
    """The immutable description of a dataset's version.

    entry: the file that holds the rows; empty for an image folder. columns: the label's among them. label: name of the column
    that is predicted, empty where there is none. classes: names of the classes in the order of their indices where the label
    is text or an image's folder; empty where it is a whole number, which is then the class's index itself.
    missing: rows whose label is empty or NaN. notes: what a person should be told.
    """

    schema: int = 1
    format: DatasetFormat
    entry: str
    purpose: Purpose
    rows: int
    columns: tuple[DataColumn, ...]
    label: str = ""
    classes: tuple[str, ...] = ()
    missing: int = 0
    files: tuple[FileEntry, ...]
    notes: tuple[str, ...] = ()

    def canonical(self) -> bytes:
        return msgspec.json.encode(self, order="deterministic")

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical form, in hex."""
        return hashlib.sha256(self.canonical()).hexdigest()

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

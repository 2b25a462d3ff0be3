"""What a dataset is: immutable files by digest, columns, and what is to be predicted. Its manifest's digest names the version.

A dataset has a name and numbered versions as a model has, written digits-test or digits-test:2, in a space of names of its own.
It has no aliases: what was measured names the exact version.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final, Literal

import msgspec

from openmaas.core.manifest import FileEntry
from openmaas.core.types import DataType

DatasetFormat = Literal["npz", "parquet", "csv", "jsonl", "text", "images"]
Purpose = Literal["classes", "values", "similarity", "text", "inputs"]
"""What the rows can be used for: a class each, a number each, two texts and how alike they are, running text (perplexity), or
only inputs (calibration, agreement)."""

LABELS: Final = ("label", "labels", "target", "targets", "class", "y")
"""Names by which a column is known to be what is predicted, where the push does not say it."""

SCORES: Final = ("score", "similarity", "similarity_score")
"""Names of how alike two texts are, beside a pair of them."""

_PAIRS: Final = (
    ("text_a", "text_b"), ("sentence1", "sentence2"), ("sentence_1", "sentence_2"), ("sentence_a", "sentence_b"),
    ("text1", "text2"), ("text_1", "text_2"), ("premise", "hypothesis"),
)  # fmt: skip


class DataColumn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A column. shape: of one row, () for a single value. An image folder has the columns `image` (BYTES) and `label`."""

    name: str
    datatype: DataType
    shape: tuple[int, ...] = ()


class DatasetManifest(msgspec.Struct, frozen=True, kw_only=True):
    """The immutable description of a dataset's version.

    entry: the file that holds the rows, of images perhaps a zip file; empty for a folder of them. columns: the label's among
    them. label: name of the column that is predicted, empty where there is none. classes: their names in the order of their
    indices where the label is text or an image's folder; empty where it is a whole number, which is then the index itself.
    counts: rows of each class by its index. missing: rows whose label is empty or NaN. preview: cells of the first rows, of the
    first columns, as short text. notes: what a person should be told.
    """

    schema: int = 1
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


def text_pair(names: Iterable[str]) -> tuple[str, str] | None:
    """The two columns of text that belong together, by their names; None where there are none."""
    known = {name.lower(): name for name in names}
    return next(((known[one], known[other]) for one, other in _PAIRS if one in known and other in known), None)

"""A dataset's files, told by their content: examined when they are pushed, and read as arrays by the jobs that use them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmaas.core.datasets import DataColumn, DatasetFormat, DatasetManifest, text_pair
from openmaas.core.datatypes import datatype_name
from openmaas.core.errors import InvalidInput
from openmaas.formats.base import ExaminedDataset
from openmaas.formats.datasets.arrays import read_npz
from openmaas.formats.datasets.base import UNBOUNDED, Arrays, Budget, Columns, invalid, listed
from openmaas.formats.datasets.images import (
    Folder,
    Source,
    check_layout,
    check_pixels,
    find_images,
    holds_images,
    in_class_folders,
    open_archive,
    read_images,
)
from openmaas.formats.datasets.meaning import encode, understand
from openmaas.formats.datasets.parquet import read_parquet
from openmaas.formats.datasets.tables import read_csv, read_jsonl, read_text

_READERS = {"npz": read_npz, "parquet": read_parquet, "csv": read_csv, "jsonl": read_jsonl, "text": read_text}
_PREVIEW_ROWS = 5
_PREVIEW_COLUMNS = 32
_PREVIEW_CELL = 80
_HEAD = 65536
_IMAGES = {b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG", b"GIF8": "GIF", b"RIFF": "WebP", b"II*\0": "TIFF", b"MM\0*": "TIFF"}
_TEXT_ENDINGS = frozenset({".txt", ".text", ".md"})


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Rows in memory.

    columns: all but the label, by name, rows on axis 0; text and images as object arrays of bytes. label: int64 indices of
    classes (-1 where a row has none), or float64 values (NaN where a row has none); None where nothing is predicted.
    classes: names of the classes by index, empty where the indices are all that is known. index: which rows these are.
    """

    manifest: DatasetManifest
    columns: Arrays
    label: NDArray[Any] | None
    classes: tuple[str, ...]
    index: NDArray[np.int64]

    @property
    def rows(self) -> int:
        return len(self.index)

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """Which of the rows have a label."""
        if self.label is None:
            return np.zeros(self.rows, dtype=bool)
        return self.label >= 0 if self.manifest.purpose == "classes" else ~np.isnan(self.label)

    @property
    def pair(self) -> tuple[str, str] | None:
        """The two columns of text whose likeness is the label, of a dataset for similarity."""
        return text_pair(name for name, array in self.columns.items() if array.dtype == object and array.ndim == 1)


def read_dataset(
    manifest: DatasetManifest, folder: Path, *, rows: Sequence[int] | NDArray[Any] | None = None, limit: int = UNBOUNDED
) -> Dataset:
    """The rows of a registered dataset. folder: its files, digests checked. rows: indices of those wanted, in their order.

    limit: bytes that the arrays may take. Raises InvalidInput for files that are not what the manifest says or a row that
    is not there, TooLarge.
    """
    index = np.arange(manifest.rows, dtype=np.int64) if rows is None else np.asarray(rows, dtype=np.int64).reshape(-1)
    if len(index) and (index.min() < 0 or index.max() >= manifest.rows):
        raise invalid(f"The dataset has {manifest.rows} rows; {int(index.min())} to {int(index.max())} were asked for.")
    budget = Budget(limit)
    if manifest.format == "images":
        arrays = _read_images(manifest, folder, index, budget)
    else:
        whole = _read_file(manifest.format, folder / manifest.entry, budget).arrays
        _require_rows(manifest, len(next(iter(whole.values()), ())))
        arrays = whole if rows is None else {name: array[index] for name, array in whole.items()}
    label = encode(arrays.pop(manifest.label), manifest.purpose, manifest.classes) if manifest.label else None
    return Dataset(manifest=manifest, columns=arrays, label=label, classes=manifest.classes, index=index)


def _read_images(manifest: DatasetManifest, folder: Path, index: NDArray[np.int64], budget: Budget) -> Arrays:
    def read(source: Source) -> Arrays:
        images = find_images(source)
        _require_rows(manifest, len(images))
        return read_images(source, [images[row] for row in index.tolist()], budget, labelled=bool(manifest.label))

    if not manifest.entry:
        return read(Folder(folder, [file.path for file in manifest.files]))
    with open_archive(folder / manifest.entry) as archive:
        return read(archive)


def _require_rows(manifest: DatasetManifest, rows: int) -> None:
    if rows != manifest.rows:
        raise invalid(f"The files have {rows} rows; the dataset's manifest says {manifest.rows}.")


def examine_files(folder: Path, files: Sequence[str], *, label: str | None, limit: int) -> ExaminedDataset:
    """What the files are. label: the column that the pusher says is predicted. limit: bytes that the arrays may take.

    Raises InvalidInput for what is no dataset, a broken one or one without rows, TooLarge, Refused.
    """
    kind, entry, columns = _read(folder, files, Budget(limit))
    arrays = columns.arrays
    rows = len(next(iter(arrays.values()), ()))
    if not rows:
        raise invalid("The dataset has no rows.")
    meaning = understand(arrays, label)
    shown = list(arrays.items())[:_PREVIEW_COLUMNS]
    return ExaminedDataset(
        format=kind,
        entry=entry,
        purpose=meaning.purpose,
        rows=rows,
        columns=tuple(_described(name, array) for name, array in arrays.items()),
        label=meaning.label,
        classes=meaning.classes,
        counts=meaning.counts,
        missing=meaning.missing,
        preview=tuple(tuple(_cell(array[row]) for _, array in shown) for row in range(min(rows, _PREVIEW_ROWS))),
        notes=(*columns.notes, *meaning.notes, *_remarks(arrays, meaning.label)),
    )


def _read(folder: Path, files: Sequence[str], budget: Budget) -> tuple[DatasetFormat, str, Columns]:
    loose = Folder(folder, files)
    if find_images(loose):
        return "images", "", _examined_images(loose, budget)
    found = [(kind, file) for file in files if (kind := _kind(folder / file)) is not None]
    if len(found) > 1:
        told = ", ".join(f"{file!r} ({kind})" for kind, file in found[:12])
        raise invalid(
            f"There are {len(found)} files of rows in it: {told}.", "Push one of them; join parts into one file first."
        )
    if not found:
        raise _no_dataset(folder, files)
    kind, file = found[0]
    if kind == "images":
        with open_archive(folder / file) as archive:
            return kind, file, _examined_images(archive, budget)
    return kind, file, _read_file(kind, folder / file, budget)


def _examined_images(source: Source, budget: Budget) -> Columns:
    images = find_images(source)
    if not images:
        raise invalid(f"None of the files ({listed(source.files)}) is an image, by its content.")
    notes = check_layout(source, images)
    arrays = read_images(source, images, budget, labelled=in_class_folders(images))
    check_pixels(images, arrays["image"].tolist())
    return Columns(arrays, notes)


def _no_dataset(folder: Path, files: Sequence[str]) -> InvalidInput:
    from openmaas.formats.pickles import find_pickle

    pickled = next((file for file in files if find_pickle(folder / file)), None)
    if pickled is not None:
        return invalid(
            f"{pickled!r} is a pickle: loading it runs whatever code it holds, so that no dataset is read from one.",
            "Write npz without objects (numpy.savez), Parquet, CSV or JSON lines.",
        )
    return invalid(
        f"None of the files ({listed(files)}) is a dataset, by its content.",
        "Push npz, Parquet, CSV or JSON lines, running text (.txt), or a folder of images.",
    )


def _read_file(kind: str, path: Path, budget: Budget) -> Columns:
    return _READERS[kind](path, budget)


def _kind(path: Path) -> DatasetFormat | None:
    """By its content; only running text is told from a table by its ending."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if head.startswith((b"PK\x03\x04", b"PAR1")):
        return "parquet" if head.startswith(b"PAR1") else "images" if holds_images(path) else "npz"
    if path.name.startswith(".") or not head.strip() or b"\0" in head:
        return None
    if path.suffix.lower() in _TEXT_ENDINGS:
        return "text"
    return _kind_of_text(path.name, head)


def _kind_of_text(name: str, head: bytes) -> DatasetFormat | None:
    try:
        text = head.decode("utf-8-sig", errors="strict" if len(head) < _HEAD else "ignore").lstrip()
    except UnicodeDecodeError:
        return None
    if text.startswith("["):
        raise invalid(f"{name!r} is one JSON list.", "Write JSON lines: one object a line.")
    return "jsonl" if text.startswith("{") else "csv"


def _described(name: str, array: NDArray[Any]) -> DataColumn:
    return DataColumn(name=name, datatype=datatype_name(array.dtype), shape=tuple(array.shape[1:]))


def _remarks(arrays: Arrays, label: str) -> list[str]:
    """What of the inputs' values is worth a word: missing and infinite ones."""
    notes = []
    for name, array in arrays.items():
        if name == label or array.dtype.kind != "f":
            continue
        missing, infinite = int(np.count_nonzero(np.isnan(array))), int(np.count_nonzero(np.isinf(array)))
        if missing:
            notes.append(f"The column {name!r} has {missing} missing values.")
        if infinite:
            notes.append(f"The column {name!r} has {infinite} infinite values.")
    return notes[:32]


def _cell(value: Any) -> str:
    """A value, short enough for a table."""
    if isinstance(value, bytes):
        kind = next((name for beginning, name in _IMAGES.items() if value.startswith(beginning)), "")
        if kind or b"\0" in value[:64]:
            return f"{kind} {len(value)} bytes".lstrip()
        text = " ".join(value[: 4 * _PREVIEW_CELL].decode("utf-8", "replace").split())
    elif isinstance(value, np.ndarray):
        few = ", ".join(_cell(item) for item in value.reshape(-1)[:4])
        text = f"{'x'.join(map(str, value.shape))} [{few}{', …' if value.size > 4 else ''}]"
    elif isinstance(value, np.floating):
        text = f"{float(value):.6g}"
    else:
        text = str(value)
    printable = "".join(character if character.isprintable() else "·" for character in text)
    return printable if len(printable) <= _PREVIEW_CELL else printable[: _PREVIEW_CELL - 1] + "…"

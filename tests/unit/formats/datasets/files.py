"""Datasets as small files, and what they are found to be."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from openmaas.core.datasets import DatasetManifest
from openmaas.core.manifest import FileEntry
from openmaas.formats.base import ExaminedDataset
from openmaas.formats.datasets import Dataset, examine_files, read_dataset
from openmaas.formats.files import list_files

LIMIT = 64 << 20


def examined(folder: Path, label: str | None = None, limit: int = LIMIT) -> ExaminedDataset:
    return examine_files(folder, list_files(folder), label=label, limit=limit)


def manifest_of(folder: Path, label: str | None = None) -> DatasetManifest:
    files = tuple(FileEntry(path=path, size=(folder / path).stat().st_size, sha256="0" * 64) for path in list_files(folder))
    return DatasetManifest(files=files, **msgspec.structs.asdict(examined(folder, label)))


def read(folder: Path, label: str | None = None, rows: Sequence[int] | None = None) -> Dataset:
    """Pushed and read again."""
    return read_dataset(manifest_of(folder, label), folder, rows=rows)


def write_npz(folder: Path, **arrays: Any) -> None:
    np.savez(folder / "data.npz", **arrays)


def write_csv(folder: Path, *lines: str) -> None:
    (folder / "data.csv").write_text("".join(f"{line}\n" for line in lines), "utf-8")


def write_jsonl(folder: Path, *rows: Any) -> None:
    (folder / "data.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")


def write_image(path: Path, size: tuple[int, int] = (4, 3), shade: int = 0) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, shade).save(path)

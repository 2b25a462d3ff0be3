"""Small datasets and versions for tests of what is evaluated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from openmaas.core.datasets import DatasetManifest
from openmaas.core.manifest import FileEntry, Manifest
from openmaas.core.processing import Processing
from openmaas.core.types import Signature, TensorSpec
from openmaas.formats.datasets.reading import examine_files


def spec(name: str, datatype: Any = "FP32", *shape: int) -> TensorSpec:
    return TensorSpec(name=name, datatype=datatype, shape=shape or (-1, 4))


def version(
    inputs: TensorSpec | tuple[TensorSpec, ...], outputs: TensorSpec | tuple[TensorSpec, ...], **fields: Any
) -> Manifest:
    """input, output: of its processing; the rest are the manifest's own fields."""
    processing = Processing(input=fields.pop("input", None), output=fields.pop("output", None))
    given, made = (one if isinstance(one, tuple) else (one,) for one in (inputs, outputs))
    signature = Signature(inputs=given, outputs=made)
    return Manifest(
        format="onnx", engine="onnxruntime", entry="model.onnx", signature=signature, files=(), batchable=True,
        processing=processing, **fields,
    )  # fmt: skip


def dataset(folder: Path, label: str | None = None) -> DatasetManifest:
    """The manifest of what lies in the folder, as it is made when it is pushed."""
    files = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    examined = msgspec.to_builtins(examine_files(folder, files, label=label, limit=1 << 30))
    known = {name: value for name, value in examined.items() if name in DatasetManifest.__struct_fields__}
    entries = [msgspec.to_builtins(FileEntry(path=path, size=1, sha256="0" * 64)) for path in files]
    return msgspec.convert({**known, "files": entries}, DatasetManifest)


def npz(folder: Path, label: str | None = None, **arrays: Any) -> DatasetManifest:
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "rows.npz", **arrays)
    return dataset(folder, label)


def csv(folder: Path, text: str, label: str | None = None) -> DatasetManifest:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.csv").write_text(text)
    return dataset(folder, label)

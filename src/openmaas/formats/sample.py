"""Sample inputs, read from a file that somebody gave: never a pickle. At most MAX_ROWS rows.

A file is told by its content:

    .npy     one array
    .npz     arrays by input name; those called expected/NAME are the answers that the source gave, to be held against
    JSON     {"inputs": [{name, shape, datatype, data}]} (Open Inference Protocol), {"instances": […]}, {name: […]}, or a list
    CSV      with a line of column names; each column is an input, or all of them are one
"""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmaas.core.datatypes import numpy_dtype, to_bytes
from openmaas.core.errors import InvalidInput, TooLarge
from openmaas.core.types import TensorSpec

MAX_ROWS = 256
MAX_BYTES = 256 << 20
EXPECTED = "expected/"
UNNAMED = ""

Arrays = dict[str, NDArray[Any]]


def read_sample(path: Path) -> Arrays:
    """The arrays of a sample file by name, UNNAMED for a single one; text is BYTES.

    Raises InvalidInput when it cannot be read, TooLarge beyond MAX_BYTES.
    """
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise TooLarge(
            f"The sample {path.name!r} has {size} bytes; at most {MAX_BYTES} are read.", next_step="Give fewer rows."
        )
    with path.open("rb") as file:
        start = file.read(512)
    try:
        arrays = _reader(start)(path)
    except InvalidInput:
        raise
    except (
        ValueError,
        OSError,
        MemoryError,
        RecursionError,
        KeyError,
        TypeError,
        OverflowError,
        csv.Error,
        zipfile.BadZipFile,
    ) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InvalidInput(
            f"The sample {path.name!r} cannot be read: {reason}.",
            code="invalid_sample",
            next_step="Give .npy, .npz (without objects), CSV or JSON.",
        ) from None
    if not arrays:
        raise InvalidInput(f"The sample {path.name!r} holds no arrays.", code="invalid_sample")
    return {name: _plain(name, array) for name, array in arrays.items()}


def _reader(start: bytes) -> Any:
    if start.startswith(b"\x93NUMPY"):
        return _read_npy
    if start.startswith(b"PK\x03\x04"):
        return _read_npz
    return _read_json if start.lstrip()[:1] in (b"{", b"[") else _read_csv


def _read_npy(path: Path) -> Arrays:
    return {UNNAMED: np.load(path, mmap_mode="r", allow_pickle=False)}


def _read_npz(path: Path) -> Arrays:
    with zipfile.ZipFile(path) as archive:
        total = sum(member.file_size for member in archive.infolist())
    if total > MAX_BYTES:
        raise ValueError(f"it has {total} bytes when unpacked, at most {MAX_BYTES} are read")
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _read_json(path: Path) -> Arrays:
    import msgspec

    data = msgspec.json.decode(path.read_bytes())
    if not isinstance(data, dict):
        return {UNNAMED: np.asarray(data)}
    if "instances" in data:
        return {UNNAMED: np.asarray(data["instances"])}
    tensors = data.get("inputs")
    if isinstance(tensors, list) and tensors and isinstance(tensors[0], dict):
        return {str(tensor["name"]): _oip_tensor(tensor) for tensor in tensors}
    return {str(name): np.asarray(values) for name, values in data.items()}


def _oip_tensor(tensor: Mapping[str, Any]) -> NDArray[Any]:
    values = np.asarray(tensor["data"])
    if tensor["datatype"] != "BYTES":
        values = values.astype(numpy_dtype(tensor["datatype"]))
    return values.reshape(tensor["shape"])


def _read_csv(path: Path) -> Arrays:
    table = list(csv.reader(io.StringIO(path.read_text("utf-8-sig")), strict=True))[: MAX_ROWS + 1]
    if len(table) < 2 or any(len(row) != len(table[0]) for row in table):
        raise ValueError("a table needs a line of column names and at least one row, all of the same length")
    names, *body = table
    if len(set(names)) != len(names) or all(_is_number(name) for name in names):
        raise ValueError("the first line must be column names, each one different")
    return {name: _column([row[index] for row in body]) for index, name in enumerate(names)}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _column(values: Sequence[str]) -> NDArray[Any]:
    """A column as [N, 1]: numbers when all of it are (an empty field is NaN), else text."""
    if all(_is_number(value) or not value for value in values) and any(values):
        return np.array([float(value or "nan") for value in values]).reshape(-1, 1)
    return np.array(values, dtype=object).reshape(-1, 1)


def _plain(name: str, array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype.kind not in "biufOSUV" or (array.dtype.kind == "V" and array.dtype.name != "bfloat16"):
        raise InvalidInput(
            f"The sample's array {name!r} has the type {array.dtype}, which is no tensor.", code="invalid_sample"
        )
    if array.ndim == 0 or not array.size:
        raise InvalidInput(f"The sample's array {name!r} has no rows.", code="invalid_sample")
    cut = array[:MAX_ROWS]
    if cut.dtype.kind == "O" and any(not isinstance(item, str | bytes) for item in cut.ravel().tolist()):
        raise InvalidInput(
            f"The sample's array {name!r} mixes text with other things, or its rows differ in length.", code="invalid_sample"
        )
    return to_bytes(cut) if cut.dtype.kind in "OSU" else np.array(cut)


# ── to a signature ───────────────────────────────────────────────────────────────────────────────────────────────────


def split_expected(arrays: Arrays) -> tuple[Arrays, Arrays]:
    """Inputs, and the answers that the source gave to them, by output name."""
    expected = {name.removeprefix(EXPECTED): array for name, array in arrays.items() if name.startswith(EXPECTED)}
    return {name: array for name, array in arrays.items() if not name.startswith(EXPECTED)}, expected


def fit(arrays: Arrays, inputs: Sequence[TensorSpec]) -> Arrays:
    """A sample's arrays as these inputs want them. Raises InvalidInput that names both sides."""
    names = {spec.name for spec in inputs}
    if len(inputs) == 1 and set(arrays) != names:
        arrays = {inputs[0].name: _joined(arrays)}
    if set(arrays) != names:
        raise InvalidInput(
            f"The sample has {_listed(arrays)}; the model takes {_listed(names)}.",
            code="invalid_sample",
            next_step="Name the sample's arrays (or columns) after the model's inputs.",
        )
    fitted = {spec.name: _cast(arrays[spec.name], spec) for spec in inputs}
    require_equal_rows({spec.name: fitted[spec.name] for spec in inputs if spec.shape and spec.shape[0] == -1})
    return fitted


def require_equal_rows(arrays: Arrays) -> None:
    """Raises InvalidInput when the arrays differ in length."""
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name!r} {length}" for name, length in list(lengths.items())[:12])
        raise InvalidInput(f"The sample's arrays differ in their number of rows: {told}.", code="invalid_sample")


def _joined(arrays: Arrays) -> NDArray[Any]:
    """A table's columns as one array [N, columns]; a single array stays as it is."""
    if len(arrays) == 1:
        return next(iter(arrays.values()))
    if any(array.ndim != 2 or array.dtype.kind == "O" for array in arrays.values()):
        raise InvalidInput(
            f"The model takes one input; the sample has {_listed(arrays)}, which are not all columns of numbers.",
            code="invalid_sample",
        )
    require_equal_rows(arrays)
    return np.concatenate(list(arrays.values()), axis=1)


def _listed(names: Any) -> str:
    known = [repr(name[:60]) if name else "one array without a name" for name in names]
    return ", ".join(sorted(known)[:12]) + (f" and {len(known) - 12} more" if len(known) > 12 else "")


def _cast(array: NDArray[Any], spec: TensorSpec) -> NDArray[Any]:
    dtype = numpy_dtype(spec.datatype)
    if array.ndim == 1 and len(spec.shape) == 2 and spec.shape[1] == 1:
        array = array.reshape(-1, 1)
    if spec.shape and spec.shape[0] >= 0:
        array = array[: spec.shape[0]]
    fits = array.ndim == len(spec.shape) and all(want in (-1, have) for want, have in zip(spec.shape, array.shape, strict=True))
    if not fits:
        raise InvalidInput(
            f"The sample for input {spec.name!r} has shape {list(array.shape)}; it takes {list(spec.shape)} (-1 is any).",
            code="invalid_sample",
        )
    if (array.dtype.kind == "O") != (dtype.kind == "O"):
        raise InvalidInput(f"The sample for input {spec.name!r} is not {spec.datatype}.", code="invalid_sample")
    with np.errstate(over="ignore", invalid="ignore"):
        cast = array.astype(dtype)
    if dtype.kind in "iub" and not np.array_equal(cast, array):
        raise InvalidInput(
            f"The sample for input {spec.name!r} has values that are not {spec.datatype}.", code="invalid_sample"
        )
    return cast


# ── to a number of rows ──────────────────────────────────────────────────────────────────────────────────────────────


def stretch(arrays: Mapping[str, NDArray[Any]], rows: int) -> Arrays:
    """Exactly `rows` rows: cut, or begun again from the first."""
    return {name: array[:rows] if len(array) >= rows else array[np.arange(rows) % len(array)] for name, array in arrays.items()}

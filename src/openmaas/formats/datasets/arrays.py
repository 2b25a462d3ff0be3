"""npz: arrays by name, never an object of Python. What a header claims is held against the file before anything is made."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from openmaas.core.datatypes import to_bytes
from openmaas.formats.datasets.base import Arrays, Budget, Columns, check_columns, invalid

_KINDS = "biufSU"


def read_npz(path: Path, budget: Budget) -> Columns:
    """Raises InvalidInput for what is no plain array, TooLarge."""
    notes: list[str] = []
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist() if not info.is_dir()}
            names = check_columns(members)
            arrays: Arrays = {}
            for name in names:
                with archive.open(members[name]) as file:
                    array = _read(file, name, members[name].file_size, budget)
                if array.ndim == 0:
                    notes.append(f"The array {name!r} is a single value and is left out.")
                    continue
                arrays[name] = to_bytes(array) if array.dtype.kind in "SU" else array
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError, RuntimeError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise invalid(f"The npz file cannot be read: {reason}.", "Write it with numpy.savez.") from None
    _require_equal_rows(arrays)
    return Columns(arrays, notes)


def _read(file: IO[bytes], name: str, size: int, budget: Budget) -> NDArray[Any]:
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise invalid(f"The array {name!r} is no plain array (npy version {version[0]}.{version[1]}).")
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = header(file)
    if dtype.hasobject:
        raise invalid(
            f"The array {name!r} holds Python objects, which only a pickle keeps.",
            "Save text as array.astype(str), numbers as numbers.",
        )
    if dtype.kind not in _KINDS:
        raise invalid(f"The array {name!r} has the type {dtype}, which is no tensor.", "Give numbers, booleans or text.")
    count = 1
    for length in shape:
        count *= length
    if count < 0 or count * dtype.itemsize > size - file.tell():
        raise invalid(f"The array {name!r} claims {list(shape)} of {dtype} in {size} bytes.")
    # Text becomes an object a value.
    budget.take(count * (dtype.itemsize + (96 if dtype.kind in "SU" else 0)), f"{name!r} has {count} values")
    flat: NDArray[Any] = np.frombuffer(_exactly(file, count * dtype.itemsize, name), dtype=dtype, count=count)
    array = flat.reshape(shape, order="F" if fortran else "C")
    return array.astype(dtype.newbyteorder("="), copy=not array.flags.writeable)


def _exactly(file: IO[bytes], size: int, name: str) -> bytearray:
    data = bytearray(size)
    view, done = memoryview(data), 0
    while done < size:
        piece = file.read(min(1 << 24, size - done))
        if not piece:
            raise invalid(f"The array {name!r} ends after {done} of {size} bytes.")
        view[done : done + len(piece)] = piece
        done += len(piece)
    return data


def _require_equal_rows(arrays: Arrays) -> None:
    lengths = {name: len(array) for name, array in arrays.items()}
    if not lengths:
        raise invalid("The npz file holds no arrays with rows.", "Write it with numpy.savez(path, x=…, y=…).")
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name[:60]!r} {length}" for name, length in list(lengths.items())[:12])
        raise invalid(
            f"The arrays differ in their number of rows: {told}.",
            "Keep one npz file for each part (training, test), with arrays of equal length.",
        )

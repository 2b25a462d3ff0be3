"""The sample that a version keeps: engine inputs by name and the answers to them, so that engines can be held against it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmaas.core.datatypes import numpy_dtype
from openmaas.core.errors import OpenMaaSError
from openmaas.core.types import Signature, TensorSpec
from openmaas.formats.base import Task
from openmaas.formats.files import free_name
from openmaas.formats.sample import EXPECTED, read_sample, split_expected

Arrays = Mapping[str, NDArray[Any]]
MAX_BYTES = 32 << 20
"""Of the inputs that are kept; one row is kept however large it is."""


def keep_sample(task: Task, signature: Signature, inputs: Arrays, expected: Arrays) -> tuple[str, tuple[str, ...]]:
    """The path of the sample among the files, and what was added for it: nothing where the pushed one serves as it is.

    inputs: as the engine takes them. expected: what the model's source answered to all of these rows.
    """
    if task.sample is not None and _serves(task.folder / task.sample, signature):
        return task.sample, ()
    name = free_name(task.folder, "sample.npz")
    path = task.output / name
    path.parent.mkdir(parents=True, exist_ok=True)
    count = _affordable(inputs)
    if any(spec.shape[:1] == (-1,) for spec in signature.inputs):
        free = {spec.name for spec in (*signature.inputs, *signature.outputs) if spec.shape[:1] == (-1,)}
        inputs = {key: array[:count] if key in free else array for key, array in inputs.items()}
        expected = {key: array[:count] if key in free else array for key, array in expected.items()}
    write_sample(path, inputs, expected)
    return name, (name,)


def write_sample(path: Path, inputs: Arrays, expected: Arrays) -> None:
    """Arrays by name; BYTES as fixed-width text, since an array of objects would be a pickle, and bfloat16 as float32."""
    arrays = {**inputs, **{EXPECTED + name: array for name, array in expected.items()}}
    np.savez_compressed(path, allow_pickle=False, **{name: _plain(array) for name, array in arrays.items()})


def _plain(array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype.kind == "O":
        return array.astype(np.bytes_)
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def _serves(path: Path, signature: Signature) -> bool:
    """Whether a pushed file is what would be written: .npz with every input of the signature and the answers to it."""
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return False
    try:
        inputs, expected = split_expected(read_sample(path))
    except OpenMaaSError:
        return False
    return _are(inputs, signature.inputs) and _are(expected, signature.outputs)


def _are(arrays: Arrays, specs: tuple[TensorSpec, ...]) -> bool:
    if set(arrays) != {spec.name for spec in specs}:
        return False
    return all(
        arrays[spec.name].dtype.kind == numpy_dtype(spec.datatype).kind
        and arrays[spec.name].ndim == len(spec.shape)
        and all(want in (-1, have) for want, have in zip(spec.shape, arrays[spec.name].shape, strict=True))
        for spec in specs
    )


def _affordable(inputs: Arrays) -> int:
    """How many rows fit into MAX_BYTES, at least one."""
    count = max((len(array) for array in inputs.values() if array.ndim), default=1)
    total = sum(array.nbytes for array in inputs.values())
    return max(1, min(count, MAX_BYTES * count // max(total, 1)))

"""Rows of a dataset as a version's engine takes them: texts as tokens, images as pixels, columns of a table, plain tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from openmaas.core.datatypes import datatype_name, numpy_dtype, to_text
from openmaas.core.errors import InvalidInput, TooLarge
from openmaas.core.manifest import Manifest
from openmaas.core.processing import ImageInput, TableInput, TextInput
from openmaas.core.types import TensorSpec
from openmaas.formats.datasets import Dataset
from openmaas.processing import Processor, open_processing
from openmaas.processing.text import Texts

Arrays = dict[str, NDArray[Any]]
_IMAGES = 32  # decoded at once
_TEXTS = 4096  # tokenised at once


class Inputs(NamedTuple):
    """Engine inputs by name, rows on axis 0. lengths: tokens of each row. notes: what was left out, cut or dropped."""

    inputs: Arrays
    lengths: NDArray[Any] | None
    notes: tuple[str, ...]


def engine_inputs(
    manifest: Manifest, folder: Path, data: Dataset, *, pairs: tuple[str, str] | None = None, limit: int
) -> Inputs:
    """Raises InvalidInput that names the column, what is wanted and what there is; TooLarge beyond `limit` bytes.

    pairs: two columns of text whose rows become rows 2i and 2i + 1.
    """
    processor = open_processing(manifest, folder)
    declared, columns = processor.input, data.columns
    encoded = {name: array for name, array in columns.items() if array.dtype == object and array.ndim == 1}
    if isinstance(declared, TextInput) and encoded:
        return _texts(processor, declared, encoded, columns, pairs, limit)
    if isinstance(declared, ImageInput) and encoded:
        return _images(processor, declared, manifest, encoded, columns, limit)
    if isinstance(declared, TableInput) and _is_table(declared, columns, manifest):
        return _table(processor, declared, columns)
    return _tensors(manifest.signature.inputs, columns)


# ── texts and images ─────────────────────────────────────────────────────────────────────────────────────────────────


def _texts(
    processor: Processor, declared: TextInput, texts: Arrays, columns: Arrays, pairs: tuple[str, str] | None, limit: int
) -> Inputs:
    names = list(pairs) if pairs is not None else _text_columns(declared, texts)
    stacked = np.stack([texts[name] for name in names], axis=1)
    rows = stacked if len(names) == 2 and pairs is None else stacked.reshape(-1)
    longest = min(declared.max_length, max(map(len, stacked.reshape(-1)), default=0) * len(names) + 4)
    if len(rows) * longest * 8 * max(1, len(declared.tensors)) > limit:
        raise TooLarge(
            f"{len(rows)} texts of up to {longest} tokens take more than {limit} bytes as engine inputs.",
            code="too_many_rows",
            next_step="Take fewer rows: --rows.",
        )
    parts = [processor.prepare(rows[start : start + _TEXTS]) for start in range(0, len(rows), _TEXTS)]
    cut = sum(bool(note.get("truncated")) for part in parts for note in part.notes)
    notes = [f"{cut} of {len(rows)} texts were cut to {declared.max_length} tokens."] if cut else []
    notes += _left_out(columns, names)
    width = max(max(part.lengths) for part in parts)
    before = processor.before
    assert isinstance(before, Texts)
    inputs = {
        name: np.concatenate([_widened(part.inputs[name], width, before.fill(role)) for part in parts])
        for name, role in declared.tensors.items()
    }
    return Inputs(inputs, np.array([length for part in parts for length in part.lengths], np.int64), tuple(notes))


def _widened(array: NDArray[Any], width: int, fill: Any) -> NDArray[Any]:
    return np.pad(array, ((0, 0), (0, width - array.shape[1])), constant_values=fill)


def _text_columns(declared: TextInput, texts: Arrays) -> list[str]:
    if declared.name in texts:
        return [declared.name]
    if len(texts) == 1 or (len(texts) == 2 and declared.pair):
        return list(texts)
    if "text" in texts:
        return ["text"]
    raise InvalidInput(
        f"The dataset has {len(texts)} columns of text ({_listed(list(texts))}); the version takes one, {declared.name!r}.",
        code="unfit_dataset",
        next_step=f"Call the column that the version reads {declared.name!r}.",
    )


def _images(
    processor: Processor, declared: ImageInput, manifest: Manifest, encoded: Arrays, columns: Arrays, limit: int
) -> Inputs:
    name = next((one for one in (declared.name, "image") if one in encoded), next(iter(encoded)))
    if name not in (declared.name, "image") and len(encoded) > 1:
        raise InvalidInput(
            f"The dataset has {len(encoded)} columns of images or text ({_listed(list(encoded))}); the version takes one.",
            code="unfit_dataset",
            next_step=f"Call the column of the images {declared.name!r}.",
        )
    images = encoded[name]
    spec = next(spec for spec in manifest.signature.inputs if spec.name == declared.tensor)
    size = len(declared.mode) * declared.height * declared.width * numpy_dtype(spec.datatype).itemsize
    if len(images) * size > limit:
        raise TooLarge(
            f"{len(images)} images take {len(images) * size} bytes as engine inputs; at most {limit} may be taken.",
            code="too_many_rows",
            next_step="Take fewer rows: --rows.",
        )
    parts = [processor.prepare(images[start : start + _IMAGES]) for start in range(0, len(images), _IMAGES)]
    flat = sum(len(part.notes) for part in parts)
    notes = [f"The transparency of {flat} images was dropped."] if flat else []
    joined = np.concatenate([part.inputs[declared.tensor] for part in parts])
    return Inputs({declared.tensor: joined}, None, (*notes, *_left_out(columns, [name])))


# ── tables and tensors ───────────────────────────────────────────────────────────────────────────────────────────────


def _is_table(declared: TableInput, columns: Arrays, manifest: Manifest) -> bool:
    """Whether the dataset has the table's columns. Raises InvalidInput where it has neither these nor the tensors."""
    missing = [column.name for column in declared.columns if column.name not in columns]
    if not missing:
        return True
    if len(missing) == len(declared.columns) and declared.tensor is not None and len(columns) == 1:
        return False
    if declared.tensor is not None and declared.tensor in columns:
        return False
    raise InvalidInput(
        f"The dataset lacks {len(missing)} of the {len(declared.columns)} columns that the version takes: {_listed(missing)}; "
        f"it has {_listed(list(columns))}.",
        code="column_missing",
        next_step="Give the columns their names.",
    )


def _table(processor: Processor, declared: TableInput, columns: Arrays) -> Inputs:
    names = [column.name for column in declared.columns]
    plain = {column.name: _plain(column.name, columns[column.name], column.nullable) for column in declared.columns}
    return Inputs(dict(processor.prepare(plain).inputs), None, _left_out(columns, names))


def _plain(name: str, array: NDArray[Any], nullable: bool) -> list[Any]:
    """A column as the table's reader takes it; None where it may lack a value."""
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise InvalidInput(
            f"The column {name!r} has rows of shape {list(array.shape[1:])}; the version takes one value.", code="invalid_shape"
        )
    if array.dtype == object:
        return [None if nullable and text == "" else text for text in to_text(array).tolist()]
    values: list[Any] = array.tolist()
    if array.dtype.kind == "f" and np.isnan(array).any():
        return [None if math.isnan(value) else value for value in values]
    return values


def _tensors(specs: Sequence[TensorSpec], columns: Arrays) -> Inputs:
    if all(spec.name in columns for spec in specs):
        chosen = {spec.name: spec.name for spec in specs}
    elif len(specs) == 1:
        (spec,) = specs
        stacked = _stacked(spec, columns)
        if stacked is not None:
            note = f"The columns make up {spec.name!r} in their order: {_listed(list(columns))}."
            return Inputs({spec.name: _fitted(spec.name, stacked, spec)}, None, (note,))
        chosen = {spec.name: _only(spec, columns)}
    else:
        missing = [spec for spec in specs if spec.name not in columns]
        raise InvalidInput(
            f"The dataset lacks columns for {_described(missing)}; it has {_shapes(columns)}.",
            code="column_missing",
            next_step="Name the columns as the version's inputs: openmaas show VERSION.",
        )
    inputs = {spec.name: _fitted(chosen[spec.name], columns[chosen[spec.name]], spec) for spec in specs}
    return Inputs(inputs, None, (*_left_out(columns, list(chosen.values())), *_missing(inputs)))


def _stacked(spec: TensorSpec, columns: Arrays) -> NDArray[Any] | None:
    """Single numbers as one row, where they are as many as the input takes; None where they are not such."""
    single = all(array.ndim == 1 and array.dtype.kind in "biuf" for array in columns.values())
    if not single or len(columns) < 2 or len(spec.shape) != 2 or spec.shape[1] != len(columns):
        return None
    return np.stack([array.astype(np.float64) for array in columns.values()], axis=1)


def _only(spec: TensorSpec, columns: Arrays) -> str:
    """The column that a single input is fed with."""
    if len(columns) == 1:
        return next(iter(columns))
    fitting = [name for name, array in columns.items() if _shaped(array, spec) is not None]
    if len(fitting) == 1:
        return fitting[0]
    raise InvalidInput(
        f"{'None' if not fitting else 'More than one'} of the columns {_shapes(columns)} fits {_described([spec])}.",
        code="unfit_dataset",
        next_step=f"Call the column that the version reads {spec.name!r}.",
    )


def _shaped(array: NDArray[Any], spec: TensorSpec) -> NDArray[Any] | None:
    """With the axes that the input has; None where its rows have another shape."""
    wanted, row = spec.shape[1:], array.shape[1:]
    if spec.shape[:1] not in ((-1,), (1,)):
        return None
    if (row, len(wanted)) == ((), 1) and wanted[0] in (1, -1):
        return array.reshape(-1, 1)
    if (row, wanted) == ((1,), ()):
        return array.reshape(-1)
    fits = len(row) == len(wanted) and all(want in (-1, have) for want, have in zip(wanted, row, strict=True))
    return array if fits else None


def _fitted(name: str, array: NDArray[Any], spec: TensorSpec) -> NDArray[Any]:
    """In the input's shape and type; numbers only where that loses nothing but a float's last digits."""
    shaped = _shaped(array, spec)
    if shaped is None:
        size = math.prod(array.shape[1:])
        reshape = size == math.prod(spec.shape[1:]) and min(spec.shape[1:], default=0) > 0
        raise InvalidInput(
            f"The column {name!r} has rows of shape {list(array.shape[1:])} ({datatype_name(array.dtype)}); the version's "
            f"input {spec.name!r} takes {list(spec.shape[1:])} ({spec.datatype}).",
            code="invalid_shape",
            next_step=f"Reshape each row to {list(spec.shape[1:])} and push the dataset again." if reshape else None,
        )
    dtype = numpy_dtype(spec.datatype)
    if "O" in (dtype.kind, shaped.dtype.kind):
        if dtype != shaped.dtype:
            raise _unfit_type(name, shaped, spec)
        return shaped
    if dtype.kind in "biu":
        return _whole(name, shaped, spec, dtype)
    with np.errstate(over="ignore"):
        cast = shaped.astype(dtype)
    wide = np.asarray(cast, np.float64)
    if np.isinf(wide).any():
        raise InvalidInput(
            f"The column {name!r} holds numbers that {spec.datatype} does not hold, or Infinity.", code="not_finite"
        )
    return cast


def _whole(name: str, array: NDArray[Any], spec: TensorSpec, dtype: np.dtype[Any]) -> NDArray[Any]:
    if array.dtype.kind not in "biu":
        raise _unfit_type(name, array, spec)
    least, most = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    if array.size and not (least <= int(array.min()) and int(array.max()) <= most):
        raise InvalidInput(
            f"The column {name!r} holds {int(array.min())} to {int(array.max())}; the version's input {spec.name!r} takes "
            f"{spec.datatype}, {least} to {most}.",
            code="datatype_mismatch",
        )
    return array.astype(dtype)


def _unfit_type(name: str, array: NDArray[Any], spec: TensorSpec) -> InvalidInput:
    return InvalidInput(
        f"The column {name!r} is {datatype_name(array.dtype)}; the version's input {spec.name!r} takes {spec.datatype}.",
        code="datatype_mismatch",
    )


def _missing(inputs: Arrays) -> list[str]:
    counts = {name: int(np.isnan(array.astype(np.float64)).sum()) for name, array in inputs.items() if array.dtype.kind == "f"}
    return [f"{count} values of {name!r} are missing (NaN)." for name, count in counts.items() if count]


def _left_out(columns: Arrays, used: Sequence[str]) -> tuple[str, ...]:
    others = [name for name in columns if name not in used]
    return (f"The version does not read {_listed(others)}.",) if others else ()


def _described(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{spec.name!r} {spec.datatype} {list(spec.shape[1:])}" for spec in specs[:12])


def _shapes(columns: Arrays) -> str:
    told = [f"{name!r} {datatype_name(array.dtype)} {list(array.shape[1:])}" for name, array in list(columns.items())[:12]]
    return ", ".join(told) + (f" and {len(columns) - 12} more" if len(columns) > 12 else "")


def _listed(names: Sequence[str], most: int = 12) -> str:
    shown = ", ".join(repr(name[:40]) for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown

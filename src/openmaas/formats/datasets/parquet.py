"""Parquet, read in batches: what its metadata claims is held against the budget first, and what arrives is counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmaas.core.errors import Refused
from openmaas.formats.datasets.base import Budget, Columns, check_columns, invalid
from openmaas.formats.datasets.values import object_array

_BATCH = 4096
_METADATA = 64 << 20
_CONTAINER = 1_000_000
_TEXT = 64  # bytes that an object of text takes besides its characters


def read_parquet(path: Path, budget: Budget) -> Columns:
    """Numbers, booleans, text, lists of equal length, and images as Hugging Face keeps them (a struct with `bytes`).

    Columns of other types are left out, with a note. Raises InvalidInput for lists of different lengths and a broken file,
    TooLarge, and Refused where pyarrow is not installed.
    """
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError:
        raise Refused(
            "Reading Parquet needs pyarrow, which is not installed.",
            code="missing_extra",
            next_step="pip install 'openmaas[data]', or push npz, CSV or JSON lines.",
        ) from None
    try:
        limits = {"thrift_string_size_limit": _METADATA, "thrift_container_size_limit": _CONTAINER}
        with parquet.ParquetFile(path, **limits) as file:
            texts = [field.name for field in file.schema_arrow if _is_plain_text(field.type)]
        # As dictionaries: a text that is kept once for a million rows is not copied a million times before it is counted.
        with parquet.ParquetFile(path, read_dictionary=texts, **limits) as file:
            return _read(file, budget)
    except arrow.ArrowMemoryError:
        raise
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise invalid(f"The Parquet file cannot be read: {reason}.") from None


def _read(file: Any, budget: Budget) -> Columns:
    schema = file.schema_arrow
    check_columns(schema.names)
    kept = [field.name for field in schema if _is_known(field.type)]
    left_out = [f"The column {field.name!r} of type {field.type} is left out." for field in schema if field.name not in kept]
    if not kept:
        raise invalid("No column of the Parquet file has a type that can be read.", " ".join(left_out[:8]) or None)
    rows = file.metadata.num_rows
    budget.take(rows * len(kept), f"{rows} rows of {len(kept)} columns")
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in kept}
    for batch in file.iter_batches(batch_size=_BATCH, columns=kept):
        for name in kept:
            array = batch.column(name)
            budget.take(_size(array), f"the column {name!r}")
            parts[name].append(_column(name, array))
    return Columns({name: _joined(name, pieces) for name, pieces in parts.items() if pieces}, left_out)


def _size(array: Any) -> int:
    """Bytes that it takes as objects, or as numbers."""
    from pyarrow import compute, types

    if types.is_dictionary(array.type) and _is_plain_text(array.type.value_type):
        lengths = compute.binary_length(array.dictionary).take(array.indices)
        return int(compute.sum(lengths).as_py() or 0) + _TEXT * len(array)
    return int(array.nbytes) + (_TEXT * len(array) if _is_text(array.type) else 0)


def _is_known(kind: Any) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        return _is_known(kind.value_type)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _is_known(kind.value_type) and not _is_text(kind.value_type)
    return (
        types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind) or _is_text(kind)
    )


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    if types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0 and types.is_binary(kind.field("bytes").type))
    return _is_plain_text(kind)


def _is_plain_text(kind: Any) -> bool:
    from pyarrow import types

    return bool(
        types.is_string(kind) or types.is_large_string(kind) or types.is_binary(kind) or types.is_large_binary(kind)
        or types.is_string_view(kind) or types.is_binary_view(kind)
    )  # fmt: skip


def _column(name: str, array: Any) -> NDArray[Any]:
    import pyarrow as arrow
    from pyarrow import types

    kind = array.type
    if types.is_dictionary(kind) and not _is_plain_text(kind.value_type):
        return _column(name, array.dictionary_decode())
    if types.is_dictionary(kind) or _is_text(kind):
        return _texts(array)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _lists(name, array)
    if types.is_decimal(kind) or (array.null_count and not types.is_floating(kind)):
        array = array.cast(arrow.float64())
    numbers: NDArray[Any] = array.to_numpy(zero_copy_only=False)
    return numbers


def _texts(array: Any) -> NDArray[Any]:
    """Text, or a struct's `bytes`, as bytes; rows of a dictionary share theirs."""
    import pyarrow as arrow
    from pyarrow import compute, types

    if types.is_dictionary(array.type):
        known = array.dictionary.cast(arrow.large_binary()).to_pylist()
        return object_array([b"" if index is None else known[index] or b"" for index in array.indices.to_pylist()])
    plain = compute.struct_field(array, "bytes") if types.is_struct(array.type) else array
    return object_array([item or b"" for item in plain.cast(arrow.large_binary()).to_pylist()])


def _lists(name: str, array: Any) -> NDArray[Any]:
    """Lists of one length as an array with one axis more."""
    from pyarrow import compute

    lengths = set(compute.list_value_length(array).to_pylist())
    if len(lengths) > 1 or None in lengths:
        told = ", ".join(map(str, sorted(length for length in lengths if length is not None)[:6]))
        raise invalid(f"The column {name!r} has lists of different lengths ({told}) or none.", "Pad them to one length.")
    inner = _column(name, array.flatten())
    return inner.reshape(len(array), lengths.pop() if lengths else 0, *inner.shape[1:])


def _joined(name: str, pieces: list[NDArray[Any]]) -> NDArray[Any]:
    shapes = {piece.shape[1:] for piece in pieces}
    if len(shapes) > 1:
        told = ", ".join(str(list(shape)) for shape in sorted(shapes)[:4])
        raise invalid(f"The column {name!r} has lists of different lengths: {told}.", "Pad them to one length.")
    return np.concatenate(pieces)  # with a missing value in one of the batches, whole numbers become float64

"""The protocol's datatypes as numpy's, and its BYTES as text. Imports numpy only when it is called."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, cast, get_args

from openmaas.core.errors import InvalidInput
from openmaas.core.types import DataType

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_NUMPY: dict[str, str] = {
    "BOOL": "bool", "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "INT8": "i1", "INT16": "<i2",
    "INT32": "<i4", "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8", "BYTES": "object",
}  # fmt: skip


@cache
def numpy_dtype(datatype: str) -> np.dtype[Any]:
    """numpy's type for a protocol datatype; BYTES is `object`. Raises InvalidInput for an unknown name."""
    import numpy as np

    if datatype == "BF16":
        import ml_dtypes

        bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return bfloat16
    try:
        return np.dtype(_NUMPY[datatype])
    except KeyError:
        raise InvalidInput(
            f"Datatype {datatype[:40]!r} is not one of {', '.join(_NUMPY)}, BF16.", code="unknown_datatype"
        ) from None


def datatype_name(dtype: np.dtype[Any]) -> DataType:
    """The protocol's datatype for numpy's; text of any kind is BYTES. Raises InvalidInput for what no tensor can be."""
    if dtype.kind in "OSU":
        return "BYTES"
    if dtype.name == "bfloat16":
        return "BF16"
    for name in get_args(DataType):
        if name != "BF16" and numpy_dtype(name) == dtype.newbyteorder("="):
            return cast(DataType, name)
    raise InvalidInput(
        f"An array of {dtype} is no tensor.", code="unknown_datatype", next_step="Give numbers, booleans or text."
    )


def to_text(array: NDArray[Any]) -> NDArray[np.object_]:
    """BYTES as an object array of str. Raises InvalidInput where the bytes are not UTF-8."""
    import numpy as np

    try:
        flat = [item.decode() if isinstance(item, bytes) else str(item) for item in array.ravel().tolist()]
    except UnicodeDecodeError:
        raise InvalidInput("A BYTES element is not UTF-8 text, and this model reads text.", code="invalid_data") from None
    text = np.empty(len(flat), dtype=object)
    text[:] = flat
    return text.reshape(array.shape)


def to_bytes(array: NDArray[Any]) -> NDArray[np.object_]:
    """Text of any kind as BYTES: an object array of UTF-8 bytes."""
    import numpy as np

    flat = np.empty(array.size, dtype=object)
    flat[:] = [item if isinstance(item, bytes) else str(item).encode() for item in array.ravel().tolist()]
    return flat.reshape(array.shape)

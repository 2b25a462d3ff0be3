"""Between numpy's arrays by name and what PyTorch's modules take and give. Imports PyTorch only when it is called."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmaas.core.datatypes import numpy_dtype
from openmaas.core.errors import InvalidInput, Refused
from openmaas.core.types import DataType, TensorSpec

Arrays = dict[str, NDArray[Any]]

DATATYPES: dict[str, DataType] = {
    "bool": "BOOL", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64", "int8": "INT8",
    "int16": "INT16", "int32": "INT32", "int64": "INT64", "float16": "FP16", "float32": "FP32", "float64": "FP64",
    "bfloat16": "BF16",
}  # fmt: skip


def to_tensor(array: NDArray[Any]) -> Any:
    """An array as a tensor, sharing memory where that is safe. Raises InvalidInput for BYTES."""
    import torch

    if array.dtype.kind in "OSU":
        raise InvalidInput("PyTorch has no text tensors.", code="invalid_data")
    array = np.require(array, requirements=["C", "W"])  # a read-only array would be written to without a word
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def to_array(tensor: Any) -> NDArray[Any]:
    """A tensor as an array of the same type. Raises Refused for types that have no name in the protocol."""
    import torch

    tensor = tensor.detach()
    if tensor.layout is not torch.strided or datatype_of(tensor) is None:
        raise Refused(
            f"An output is a {str(tensor.dtype).removeprefix('torch.')} tensor ({str(tensor.layout).removeprefix('torch.')}), "
            "which the Open Inference Protocol cannot carry.",
            code="unsupported_type",
            next_step="Convert it in the module.",
        )
    tensor = tensor.cpu().resolve_conj().resolve_neg().contiguous()
    if tensor.dtype is torch.bfloat16:
        bits: NDArray[Any] = tensor.view(torch.int16).numpy()
        return bits.view(numpy_dtype("BF16"))
    return np.asarray(tensor.numpy())


def datatype_of(tensor: Any) -> DataType | None:
    return DATATYPES.get(str(tensor.dtype).removeprefix("torch."))


def spec_of(name: str, tensor: Any) -> TensorSpec:
    """A (fake) tensor as a signature lists it, -1 for an axis that is a symbol. Raises Refused for an unknown type."""
    datatype = datatype_of(tensor)
    if datatype is None:
        raise Refused(
            f"{name[:80]!r} has the type {str(tensor.dtype).removeprefix('torch.')}, which the Open Inference Protocol lacks.",
            code="unsupported_type",
            next_step="Convert it in the module.",
        )
    return TensorSpec(name=name, datatype=datatype, shape=tuple(axis if isinstance(axis, int) else -1 for axis in tensor.shape))


def name_outputs(value: Any, taken: tuple[str, ...] = ()) -> dict[str, Any]:
    """What a module gives as tensors by name: "output", "output_0" … of a tuple, the keys of a dict, the fields of a dataclass.

    What is nested has both names: a tuple under "h" is h_0, h_1. None is left out. taken: the inputs' names, which no output
    may have. Raises Refused for what is no tensor.
    """
    named: dict[str, Any] = {}
    for name, tensor in _leaves(value, ""):
        plain = re.sub(r"\W+", "_", name) or "output"
        while plain in named or plain in taken:
            plain += "_out"
        named[plain] = tensor
    if not named:
        raise Refused("The module gives no tensor.", code="not_a_model")
    return named


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    import torch

    if isinstance(value, torch.Tensor):
        yield name or "output", value
    elif value is not None:
        for part, item in _parts(value):
            inner = f"{name}_{part}" if name else f"output_{part}" if isinstance(part, int) else part
            yield from _leaves(item, inner)


def _parts(value: Any) -> Iterator[tuple[str | int, Any]]:
    if isinstance(value, Mapping):
        yield from ((str(key), item) for key, item in value.items())
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        yield from zip(value._fields, value, strict=True)
    elif isinstance(value, tuple | list):
        yield from enumerate(value)
    else:
        raise Refused(
            f"The module gives a {type(value).__name__}, which is no tensor.",
            code="unsupported_type",
            next_step="Let forward give tensors: one, a tuple, or a dict.",
        )

"""Signatures and request bodies that the tests of several protocols write."""

from __future__ import annotations

from typing import Any

import msgspec

from openmaas.core.types import Signature, TensorSpec


def signature(datatype: Any = "FP32", shape: tuple[int, ...] = (-1, 2), **more: tuple[Any, tuple[int, ...]]) -> Signature:
    """One input `x` and one output `y` of this type, and further inputs by name."""
    inputs = [TensorSpec(name="x", datatype=datatype, shape=shape)]
    inputs += [TensorSpec(name=name, datatype=kind, shape=axes) for name, (kind, axes) in more.items()]
    return Signature(inputs=tuple(inputs), outputs=(TensorSpec(name="y", datatype=datatype, shape=shape),))


def tensor(shape: list[int], datatype: str, data: Any = None, name: str = "x", **fields: Any) -> dict[str, Any]:
    described = {"name": name, "shape": shape, "datatype": datatype, **fields}
    return described if data is None else described | {"data": data}


def body(*tensors: dict[str, Any], **fields: Any) -> bytes:
    return msgspec.json.encode({"inputs": list(tensors), **fields})


def binary(*tensors: tuple[list[int], str, bytes], names: str = "xzabc", **fields: Any) -> tuple[bytes, int]:
    """A body with a blob a tensor, and the length of its JSON."""
    head = body(
        *(
            tensor(shape, datatype, name=name, parameters={"binary_data_size": len(blob)})
            for name, (shape, datatype, blob) in zip(names, tensors, strict=False)
        ),
        **fields,
    )
    return head + b"".join(blob for _, _, blob in tensors), len(head)

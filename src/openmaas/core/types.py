"""Typed inputs and outputs of a model, in the Open Inference Protocol's words."""

from __future__ import annotations

from typing import Literal

import msgspec

DataType = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BF16", "BYTES"
]  # fmt: skip


class TensorSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One input or output. `shape` holds -1 for a dynamic axis; the first axis is the batch where the version is batchable."""

    name: str
    datatype: DataType
    shape: tuple[int, ...]


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    """The typed inputs and outputs of a version."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

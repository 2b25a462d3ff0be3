"""A TensorFlow Lite model that answers: the proof at push and the engine that serves load and run it by this same code."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from openmaas.core.errors import EngineFailed, Refused, without_paths
from openmaas.core.types import DataType, Signature, TensorSpec
from openmaas.engines.litert.file import read_contents

Arrays = dict[str, NDArray[Any]]
Shapes = tuple[tuple[int, ...], ...]
_KEPT = 8
"""Interpreters kept at once, each for inputs of its own shapes: to plan memory anew takes longer than a small batch."""
_DATATYPES: dict[str, DataType] = {
    "bool": "BOOL", "float16": "FP16", "float32": "FP32", "float64": "FP64", "uint8": "UINT8", "uint16": "UINT16",
    "uint32": "UINT32", "uint64": "UINT64", "int8": "INT8", "int16": "INT16", "int32": "INT32", "int64": "INT64",
}  # fmt: skip


class _Port(NamedTuple):
    """An input or output: its public name, the library's number for it, its spec, its scale and zero point."""

    number: int
    spec: TensorSpec
    scale: float
    zero_point: int


class LiteRtModel:
    """`run` takes and gives arrays by name. `signature` is as the file declares it; inputs of other lengths are tried.

    Names are those of the file's signature where it has exactly one for its main graph, else those of its tensors.
    Not for two threads at once.
    """

    def __init__(self, path: Path, threads: int = 1) -> None:
        """Raises Refused for operators that the library does not bring, InvalidInput for a damaged file."""
        self._variables = read_contents(path).variables
        self._path, self._threads = path, threads
        self._interpreters: OrderedDict[Shapes, Any] = OrderedDict()
        first = self._open()
        self._inputs = _ports(first, "input")
        self._outputs = _ports(first, "output")
        self.signature = Signature(
            inputs=tuple(port.spec for port in self._inputs), outputs=tuple(port.spec for port in self._outputs)
        )

    def quantisation(self) -> tuple[str, ...]:
        """How callers turn whole numbers into quantities and back, a sentence for each quantised input or output."""
        return tuple(
            f"{side} {port.spec.name!r} is quantised: quantity = {port.scale:.9g} · (number {-port.zero_point:+d})."
            for side, ports in (("Input", self._inputs), ("Output", self._outputs))
            for port in ports
            if port.scale and port.spec.datatype in ("UINT8", "INT8", "INT16")
        )

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """One batch. Raises EngineFailed with what the library said."""
        arrays = [inputs[port.spec.name] for port in self._inputs]
        try:
            interpreter = self._fitting(tuple(array.shape for array in arrays))
            for port, array in zip(self._inputs, arrays, strict=True):
                interpreter.set_tensor(port.number, np.ascontiguousarray(array))
            if self._variables:
                interpreter.reset_all_variables()  # what a recurrent layer remembers of the call before
            interpreter.invoke()
            return {port.spec.name: interpreter.get_tensor(port.number) for port in self._outputs}
        except Exception as error:
            raise EngineFailed(f"TensorFlow Lite cannot run this input: {_reason(error)}") from None

    def _fitting(self, shapes: Shapes) -> Any:
        """An interpreter whose memory is planned for inputs of these shapes."""
        found = self._interpreters.get(shapes)
        if found is None:
            found = self._open()
            for port, shape in zip(self._inputs, shapes, strict=True):
                found.resize_tensor_input(port.number, shape)
            found.allocate_tensors()
            self._interpreters[shapes] = found
            if len(self._interpreters) > _KEPT:
                self._interpreters.popitem(last=False)
        self._interpreters.move_to_end(shapes)
        return found

    def _open(self) -> Any:
        from ai_edge_litert.interpreter import Interpreter

        try:
            return Interpreter(model_path=str(self._path), num_threads=max(1, self._threads))
        except Exception as error:
            raise Refused(f"TensorFlow Lite cannot load the model: {_reason(error)}", code="model_not_runnable") from None


def _ports(interpreter: Any, side: str) -> list[_Port]:
    details: Sequence[Mapping[str, Any]] = getattr(interpreter, f"get_{side}_details")()
    names = _names(interpreter, side, [int(one["index"]) for one in details])
    return [_port(name, one) for name, one in zip(names, details, strict=True)]


def _names(interpreter: Any, side: str, indexes: list[int]) -> list[str]:
    """By the signature for the main graph, if there is exactly one; else the tensors' own, numbered where two are the same."""
    signatures = interpreter.get_signature_list()
    if len(signatures) == 1:
        runner = interpreter.get_signature_runner(next(iter(signatures)))
        by_index = {int(one["index"]): str(name) for name, one in getattr(runner, f"get_{side}_details")().items()}
        if set(by_index) == set(indexes):
            return [by_index[index] for index in indexes]
    names = [str(one["name"]) for one in getattr(interpreter, f"get_{side}_details")()]
    return [name if names.count(name) == 1 and name else f"{name or side}_{number}" for number, name in enumerate(names)]


def _port(name: str, details: Mapping[str, Any]) -> _Port:
    dtype = np.dtype(details["dtype"]).name
    if dtype not in _DATATYPES:
        held = "text" if details["dtype"] is np.bytes_ else dtype
        raise Refused(
            f"{name[:80]!r} holds {held}, which is not served from TensorFlow Lite.",
            code="unsupported_type",
            next_step="Convert the model without its preprocessing.",
        )
    shape = tuple(int(axis) for axis in details.get("shape_signature", details["shape"]))
    scale, zero_point = details["quantization"]
    return _Port(int(details["index"]), TensorSpec(name=name, datatype=_DATATYPES[dtype], shape=shape), scale, zero_point)


def _reason(error: Exception) -> str:
    return without_paths(" ".join(str(error).split()) or type(error).__name__)[:400].rstrip(". ") + "."

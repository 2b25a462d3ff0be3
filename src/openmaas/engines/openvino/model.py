"""A model that OpenVINO has compiled for the CPU: the proof at push and the engine that serves run this code."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmaas.core.errors import EngineFailed, without_paths
from openmaas.core.packed import plain_file
from openmaas.core.signal_stack import drop_signal_stack
from openmaas.core.types import DataType, Signature, TensorSpec

# `import openvino` sends usage data to its maker; without this package it has nothing to send them with.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

_DATATYPES: dict[str, DataType] = {
    "boolean": "BOOL", "u8": "UINT8", "u16": "UINT16", "u32": "UINT32", "u64": "UINT64", "i8": "INT8", "i16": "INT16",
    "i32": "INT32", "i64": "INT64", "f16": "FP16", "f32": "FP32", "f64": "FP64", "string": "BYTES", "bf16": "BF16",
}  # fmt: skip


_FRONTENDS = {"onnx": "onnx", "openvino": "ir"}


def read_model(path: Path, kind: str) -> Any:
    """The graph of an artifact, by the reader of its kind alone, whatever the file is called.

    openvino.Core.read_model would offer the file to every reader that it has, Python's pickles among them.
    """
    from openvino.frontend import FrontEndManager

    reader = FrontEndManager().load_by_framework(_FRONTENDS[kind])
    with plain_file(path) as plain:
        return reader.convert(reader.load(str(plain)))


def write_ir(source: Path, target: Path) -> str:
    """An ONNX file as IR in its own precision: the .xml `target`, and a .bin beside it. Returns OpenVINO's version.

    Raises EngineFailed with what it cannot convert.
    """
    import openvino

    try:
        openvino.save_model(read_model(source, "onnx"), str(target), compress_to_fp16=False)
    except Exception as error:
        raise EngineFailed(f"OpenVINO cannot convert the model: {_reason(error)}") from None
    return str(openvino.__version__)


class OpenVinoModel:
    """`run` takes and gives arrays by name, as a signature has them. Not for two threads at once."""

    def __init__(self, path: Path, kind: str, threads: int = 1, precision: str = "") -> None:
        """Load an artifact of the kind onnx, or openvino (an .xml with its .bin beside it).

        precision: empty for the file's own, or bf16. Raises EngineFailed with what the library said.
        """
        import openvino
        from openvino._pyopenvino import InferRequest

        self.version: str = openvino.__version__.partition("-")[0]
        try:
            self.model = read_model(path, kind)
            self._compiled = openvino.Core().compile_model(self.model, "CPU", _options(threads, precision or "f32"))
            self._request = self._compiled.create_infer_request()
        except Exception as error:
            raise EngineFailed(f"OpenVINO cannot load the model: {_reason(error)}", code="load_failed") from None
        finally:
            drop_signal_stack()
        self._tensor = openvino.Tensor
        # The binding under `request.infer`, whose Python layers would be a third of a tiny model's 30 µs.
        self._infer = partial(InferRequest.infer, self._request)
        self._inputs: dict[str, int] = {}
        self._outputs: list[tuple[str, int]] = []
        self.bind(self.signature())

    def signature(self) -> Signature:
        """As the model declares it; an axis is -1 where its length is free. Raises EngineFailed for a type without a name."""
        inputs = tuple(_spec(port) for port in self.model.inputs)
        return Signature(inputs=inputs, outputs=tuple(_spec(port) for port in self.model.outputs))

    def unknown_ranks(self) -> frozenset[str]:
        """Names of inputs and outputs whose number of axes the model leaves open."""
        ports = (*self.model.inputs, *self.model.outputs)
        return frozenset(_name(port) for port in ports if port.partial_shape.rank.is_dynamic)

    def keeps_state(self) -> bool:
        """Whether an answer depends on the calls before it."""
        return bool(self.model.get_variables())

    def bind(self, signature: Signature) -> None:
        """Run with this signature from now on. Raises EngineFailed for a name that the model does not have."""
        self._inputs = {spec.name: _index(self._compiled.inputs, spec.name) for spec in signature.inputs}
        self._outputs = [(spec.name, _index(self._compiled.outputs, spec.name)) for spec in signature.outputs]

    def run(self, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """One batch. The answers are the caller's to keep. Raises EngineFailed with what the library said."""
        try:
            tensors = {self._inputs[name]: self._shared(array) for name, array in inputs.items()}
            answers = list(self._infer(tensors, False, False).values())
        except Exception as error:
            raise EngineFailed(f"OpenVINO cannot run this input: {_reason(error)}") from None
        return {name: answers[index] for name, index in self._outputs}

    def _shared(self, array: NDArray[Any]) -> Any:
        """The array's own memory where OpenVINO can read it in place: it takes none that is read-only, nor with gaps."""
        array = np.ascontiguousarray(array) if array.ndim else array
        return self._tensor(array, shared_memory=array.flags.writeable and array.ndim > 0)


def _options(threads: int, precision: str) -> dict[str, Any]:
    return {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        # Replicas pinned to the same first cores would wait for each other while others idle.
        "ENABLE_CPU_PINNING": False,
        "ENABLE_CPU_RESERVATION": False,
        "ENABLE_HYPER_THREADING": True,
    }


def _name(port: Any) -> str:
    """The alphabetically first of its names; one without a name is called by its node."""
    names = sorted(port.names)
    return str(names[0] if names else port.node.friendly_name)


def _index(ports: list[Any], name: str) -> int:
    for index, port in enumerate(ports):
        if name in port.names or (not port.names and name == port.node.friendly_name):
            return index
    raise EngineFailed(f"OpenVINO finds no input or output {name[:80]!r} in the model.", code="load_failed")


def _spec(port: Any) -> TensorSpec:
    kind = port.element_type.get_type_name()
    if kind not in _DATATYPES:
        raise EngineFailed(f"{_name(port)[:80]!r} has the element type {kind}, which no protocol here can carry.")
    shape = port.partial_shape
    axes = () if shape.rank.is_dynamic else tuple(axis.get_length() if axis.is_static else -1 for axis in shape)
    return TensorSpec(name=_name(port), datatype=_DATATYPES[kind], shape=axes)


def _reason(error: Exception) -> str:
    """What the library said, on one line, without the places in its own source and without paths."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith(("Exception from", "Check '"))]
    return without_paths(" ".join(said or lines) or type(error).__name__)[:600].rstrip(". ") + "."

"""An ONNX model in memory that answers: the proof at push and the engine that serves run this code with these options."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmaas.core.datatypes import numpy_dtype, to_bytes, to_text
from openmaas.core.errors import EngineFailed, InvalidInput, without_paths
from openmaas.core.packed import plain_file
from openmaas.core.types import Signature

# The published builds of onnxruntime send usage data to their maker unless this is set before they are loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_PREFIX = "[ONNXRuntimeError] : "
_BFLOAT16 = 16  # onnx.TensorProto.BFLOAT16
_FATAL = 4  # what is less is raised as well, and need not be printed too


class OnnxSession:
    """`run` takes and gives arrays by name, as a signature has them. Not for two threads at once."""

    def __init__(self, path: Path, threads: int = 1) -> None:
        """Load a model file and the external data beside it. Raises EngineFailed with what the library said."""
        import onnxruntime

        onnxruntime.set_default_logger_severity(_FATAL)
        try:
            with plain_file(path) as plain:
                self.session = onnxruntime.InferenceSession(plain, _options(threads), providers=["CPUExecutionProvider"])
        except Exception as error:
            raise EngineFailed(f"onnxruntime cannot load the model: {_reason(error)}", code="load_failed") from None
        # The binding under `session.run`, whose checks were made already and would be a sixth of a tiny model's 6 µs.
        self._call = self.session._sess.run
        self._options = onnxruntime.RunOptions()
        self._outputs: list[str] = [output.name for output in self.session.get_outputs()]
        self._text_in: list[str] = []
        self._text_out = False
        self._plain = True

    def bind(self, signature: Signature) -> None:
        """Run with this signature from now on: its outputs alone are computed."""
        self._outputs = [output.name for output in signature.outputs]
        self._text_in = [spec.name for spec in signature.inputs if spec.datatype == "BYTES"]
        self._text_out = any(spec.datatype == "BYTES" for spec in signature.outputs)
        bfloat = any(spec.datatype == "BF16" for spec in (*signature.inputs, *signature.outputs))
        self._plain = not (self._text_in or self._text_out or bfloat)
        self._call = self._run_bfloat if bfloat else self.session._sess.run

    def run(self, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """One batch. Raises EngineFailed with what the library said, InvalidInput for BYTES that are not text."""
        outputs = self._outputs
        try:
            if self._plain:
                return dict(zip(outputs, self._call(outputs, inputs, self._options), strict=False))
            inputs = inputs | {name: to_text(inputs[name]) for name in self._text_in}
            answers = self._call(outputs, inputs, self._options)
        except InvalidInput:
            raise
        except Exception as error:
            raise EngineFailed(f"onnxruntime cannot run this input: {_reason(error)}") from None
        if self._text_out:
            answers = [to_bytes(answer) if answer.dtype.kind in "OSU" else answer for answer in answers]
        return dict(zip(outputs, answers, strict=True))

    def _run_bfloat(self, outputs: Sequence[str], inputs: dict[str, NDArray[Any]], options: Any) -> list[NDArray[Any]]:
        """bfloat16 is no type of numpy's, so it goes in and comes out as its raw bits."""
        values = {name: _ort_value(array) for name, array in inputs.items()}
        return [_array(value) for value in self.session.run_with_ort_values(outputs, values, options)]


def _options(threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    # A thread that spins while it waits takes a whole core from the other replicas.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.add_session_config_entry("session.load_model_format", "ONNX")  # whatever the file is called
    options.log_severity_level = _FATAL
    return options


def _ort_value(array: NDArray[Any]) -> Any:
    import onnxruntime

    if array.dtype.name != "bfloat16":
        return onnxruntime.OrtValue.ortvalue_from_numpy(array)
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), _BFLOAT16)


def _array(value: Any) -> NDArray[Any]:
    if value.element_type() != _BFLOAT16:
        return np.asarray(value.numpy())
    bits = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return np.frombuffer(bits, numpy_dtype("BF16")).reshape(value.shape())


def _reason(error: Exception) -> str:
    """The library's own words on one line, without its prefix and without paths."""
    text = " ".join(str(error).split())
    return without_paths(text.partition(_PREFIX)[2] or text)[:600].rstrip(". ") + "."

"""A Keras model on the PyTorch backend: the proof at push and the engine that serves load and run it by this same code."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmaas.core.errors import EngineFailed, InvalidInput, OpenMaaSError, Refused, without_paths
from openmaas.core.types import DataType, Signature, TensorSpec
from openmaas.engines.keras.config import check_configuration, check_names
from openmaas.engines.keras.file import kind_of, read_configuration

Arrays = dict[str, NDArray[Any]]
_DATATYPES: dict[str, DataType] = {
    "bool": "BOOL", "float16": "FP16", "bfloat16": "BF16", "float32": "FP32", "float64": "FP64",
    "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64",
    "int8": "INT8", "int16": "INT16", "int32": "INT32", "int64": "INT64",
}  # fmt: skip


def import_keras() -> Any:
    """Keras, on PyTorch unless this process has it already. Raises InvalidInput where either is not installed."""
    os.environ.setdefault("KERAS_BACKEND", "torch")
    try:
        import keras
    except ImportError:
        raise _missing() from None
    return keras


def _missing() -> InvalidInput:
    return InvalidInput(
        "This is a Keras model, and Keras or PyTorch is not installed here.",
        code="library_missing",
        next_step="pip install 'openmaas[keras]' where the server runs.",
    )


class KerasModel:
    """`run` takes and gives arrays by name, as `signature` has them.

    Inputs bear the names of their input layers. Outputs bear their keys where the model gives a dictionary, else the names of
    the layers that they come from.
    """

    def __init__(self, model: Any) -> None:
        """Raises InvalidInput for a model whose inputs cannot be known, Refused for one that takes or gives no tensors."""
        keras = import_keras()
        if not getattr(model, "inputs", None):
            raise InvalidInput(
                f"The Keras model {str(model.name)[:60]!r} does not say what it takes.",
                code="signature_needed",
                next_step="Begin it with keras.Input(shape), or call it once, and save it again.",
            )
        self.names = _unique([_layer_of(tensor) for tensor in model.inputs])
        outputs = _outputs(keras, model)
        inputs = list(model.inputs)
        # Called with a plain list, whatever structure of dictionaries the model itself has; a list of one would be taken
        # for a batch.
        self.flat = keras.Model(inputs if len(inputs) > 1 else inputs[0], list(outputs.values()))
        self.signature = Signature(
            inputs=tuple(map(_spec, self.names, inputs)), outputs=tuple(_spec(name, one) for name, one in outputs.items())
        )

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """One batch, without dropout and the like. Raises EngineFailed with what the library said."""
        arrays = [inputs[name] for name in self.names]
        try:
            answers = self._call(arrays if len(arrays) > 1 else arrays[0])
        except Exception as error:
            raise EngineFailed(f"Keras cannot run this input: {reason(error)}") from None
        return {spec.name: _array(answer, spec) for spec, answer in zip(self.signature.outputs, answers, strict=True)}

    def _call(self, inputs: Any) -> Sequence[Any]:
        if import_keras().backend.backend() != "torch":
            return _as_list(self.flat(inputs, training=False))
        import torch

        with torch.no_grad():
            return _as_list(self.flat(inputs, training=False))


def load_keras(path: Path) -> KerasModel:
    """The model in a .keras or .h5 file, told by content. Nothing that the file holds is executed.

    Raises Refused for layers that would run code or read files and for weights elsewhere, InvalidInput for a damaged file.
    """
    if find_spec("keras") is None:
        raise _missing()
    configuration = read_configuration(path)
    check_names(configuration)
    keras = import_keras()
    check_configuration(configuration)
    with tempfile.TemporaryDirectory(prefix="openmaas-keras-") as scratch:
        place = Path(scratch) / f"model.{kind_of(path)}"  # Keras goes by the name
        place.symlink_to(path.absolute())
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = keras.saving.load_model(place, compile=False, safe_mode=True)
        except (MemoryError, OpenMaaSError):
            raise
        except Exception as error:
            raise InvalidInput(
                f"Keras cannot load the file: {reason(error)}",
                code="load_failed",
                next_step="Check that keras.saving.load_model loads it on the torch backend.",
            ) from None
    return KerasModel(model)


def reason(error: BaseException) -> str:
    """What the library said, on one line and without paths."""
    text = without_paths(" ".join(str(error).split())) or type(error).__name__
    return text[:400].rstrip(". ") + "."


# ── names and types ──────────────────────────────────────────────────────────────────────────────────────────────────


def _as_list(answers: Any) -> Sequence[Any]:
    return answers if isinstance(answers, list | tuple) else [answers]


def _layer_of(tensor: Any) -> str:
    """The name of the layer that gives a symbolic tensor; the tensor's own is counted anew in each process."""
    return str(tensor._keras_history.operation.name)


def _outputs(keras: Any, model: Any) -> dict[str, Any]:
    structure = getattr(model, "output", None)
    flat = keras.tree.flatten(model.outputs)
    if isinstance(structure, dict) and not any(keras.tree.is_nested(one) for one in structure.values()):
        return {str(key): structure[key] for key in structure}
    return dict(zip(_unique([_layer_of(tensor) for tensor in flat]), flat, strict=True))


def _unique(names: Sequence[str]) -> list[str]:
    """Each name, with _1, _2 … behind it where it has come before."""
    return list(_numbered(names))


def _numbered(names: Sequence[str]) -> Iterator[str]:
    taken: set[str] = set()
    for name in names:
        candidates = (name, *(f"{name}_{number}" for number in range(1, len(names) + 1)))
        taken.add(free := next(one for one in candidates if one not in taken))
        yield free


def _spec(name: str, tensor: Any) -> TensorSpec:
    dtype = str(tensor.dtype)
    if dtype not in _DATATYPES:
        raise Refused(
            f"{name[:80]!r} has the type {dtype}, which Keras computes with TensorFlow alone.",
            code="unsupported_type",
            next_step="Leave the preprocessing of text out of the model, and push the rest.",
        )
    return TensorSpec(name=name, datatype=_DATATYPES[dtype], shape=tuple(-1 if axis is None else axis for axis in tensor.shape))


def _array(answer: Any, spec: TensorSpec) -> NDArray[Any]:
    if not hasattr(answer, "detach"):
        return np.asarray(answer)
    tensor = answer.detach().cpu()
    if spec.datatype == "BF16":
        import ml_dtypes

        return np.asarray(tensor.float().numpy().astype(ml_dtypes.bfloat16))
    return np.asarray(tensor.numpy())

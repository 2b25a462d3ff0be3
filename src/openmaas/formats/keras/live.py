"""A live Keras model as files: .keras, ONNX where that gives the same answers, and a sample with the answers."""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmaas.core.errors import InvalidInput, OpenMaaSError
from openmaas.core.made_up import make_up
from openmaas.core.manifest import Parity
from openmaas.engines.keras.config import check_configuration
from openmaas.engines.keras.file import read_configuration
from openmaas.engines.keras.model import Arrays, KerasModel, import_keras, reason
from openmaas.formats.base import Exported
from openmaas.formats.batching import BATCH
from openmaas.formats.compare import rows
from openmaas.formats.description import FILE_NAME
from openmaas.formats.kept import write_sample
from openmaas.formats.sample import MAX_ROWS, UNNAMED, fit

_KERAS, _ONNX, _SAMPLE = "model.keras", "model.onnx", "sample.npz"
_SAMPLE_STEP = "Give sample=X: an array, or a list or dictionary of them, as the model takes it."


def export_keras(model: Any, sample: Any, folder: Path) -> Exported:
    """Write a model into `folder`. Raises InvalidInput for one that was never called, or that no server could run."""
    if not model.built:
        raise InvalidInput("The Keras model has no weights yet.", code="not_fitted", next_step="Train it before push.")
    functional = _functional(model, sample)
    named = _named(model, functional, sample)
    inputs = make_up(functional.signature.inputs, BATCH) if sample is None else fit(named, functional.signature.inputs)
    answers = functional.run(inputs)
    origin = "generated" if sample is None else "given"
    unsaved = _save(model, folder / _KERAS)
    parity = _converted(functional, inputs, origin, folder / _ONNX)
    converted = parity is not None and parity.passed
    if unsaved and not converted:
        raise InvalidInput(
            f"A server cannot load the model itself: {unsaved} "
            f"And ONNX cannot stand for it: {parity.reason if parity else 'that needs the torch backend.'}",
            code="not_exportable",
            next_step="Build it from Keras' own layers, or export ONNX yourself and push the file.",
        )
    write_sample(folder / _SAMPLE, inputs, answers)
    files = [_SAMPLE] if unsaved else [_KERAS, _SAMPLE]
    if converted:
        entry = "" if unsaved else f"entry: {_KERAS}\n"
        (folder / FILE_NAME).write_text(f"format: keras\nconverted: {_ONNX}\n{entry}", "utf-8")
        files += [_ONNX, FILE_NAME]
    return Exported(files=tuple(files), sample=_SAMPLE, parity=parity)


def _converted(model: KerasModel, inputs: Arrays, origin: str, path: Path) -> Parity | None:
    """What the conversion gave; None on another backend than PyTorch, where the server converts what was saved."""
    from openmaas.formats.keras.conversion import convert

    if import_keras().backend.backend() != "torch":
        return None
    return convert(model, inputs, origin, path).parity


def _save(model: Any, path: Path) -> str:
    """Why a server could not load what was saved; empty when it can. Nothing is left behind when it cannot."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.save(path)
        check_configuration(read_configuration(path))
    except OpenMaaSError as error:
        path.unlink(missing_ok=True)
        return error.message
    except Exception as error:
        path.unlink(missing_ok=True)
        return f"Keras cannot save it ({reason(error)})"
    make_canonical(path)
    return ""


def make_canonical(path: Path) -> None:
    """Rewrite a .keras file so that the same model is always the same bytes: without the hour at which it was saved."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    metadata = json.loads(members["metadata.json"])
    members["metadata.json"] = json.dumps({"keras_version": metadata.get("keras_version")}).encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(members):
            archive.writestr(zipfile.ZipInfo(name), members[name])


# ── inputs ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _functional(model: Any, sample: Any) -> KerasModel:
    """The model with named inputs; one that is a class of its own is called once on symbols of the sample's shape."""
    if getattr(model, "inputs", None):
        return KerasModel(model)
    if sample is None:
        raise InvalidInput(
            f"The {type(model).__name__} does not say what it takes.", code="signature_needed", next_step=_SAMPLE_STEP
        )
    keras = import_keras()
    structure = _as_arrays(sample)
    try:
        symbols = _symbols(keras, structure)
        return KerasModel(keras.Model(symbols, model(symbols)))
    except OpenMaaSError:
        raise
    except Exception as error:
        raise InvalidInput(
            f"The {type(model).__name__} cannot be followed from its inputs to its outputs: {reason(error)}",
            code="not_exportable",
            next_step="Use keras.ops in its call method, and give a sample that it takes.",
        ) from None


def _symbols(keras: Any, structure: Any) -> Any:
    def symbol(name: str, array: NDArray[Any]) -> Any:
        dtype = keras.config.floatx() if array.dtype.kind == "f" else array.dtype.name
        return keras.Input(array.shape[1:], dtype=dtype, name=name)

    if isinstance(structure, dict):
        return {name: symbol(name, array) for name, array in structure.items()}
    if isinstance(structure, list):
        return [symbol(f"input_{number}", array) for number, array in enumerate(structure)]
    return symbol("input", structure)


def _named(model: Any, functional: KerasModel, sample: Any) -> Arrays:
    """The sample's arrays by input name, at most MAX_ROWS rows."""
    structure = _as_arrays(sample) if sample is not None else {}
    if isinstance(structure, list):
        structure = dict(zip(functional.names, structure, strict=False)) if len(structure) == len(functional.names) else {
            str(number): array for number, array in enumerate(structure)}  # fmt: skip
    if not isinstance(structure, dict):
        structure = {UNNAMED: structure}
    declared = getattr(model, "input", None)
    if isinstance(declared, dict) and set(declared) == set(structure):
        names = {id(tensor): name for tensor, name in zip(model.inputs, functional.names, strict=True)}
        structure = {names.get(id(declared[key]), key): array for key, array in structure.items()}
    return rows(structure, 0, MAX_ROWS)


def _as_arrays(sample: Any) -> Any:
    if isinstance(sample, Mapping):
        return {str(name): _array(value) for name, value in sample.items()}
    if isinstance(sample, list | tuple) and len(sample) and all(hasattr(one, "shape") for one in sample):
        return [_array(one) for one in sample] if len(sample) > 1 else _array(sample[0])
    return _array(sample)


def _array(value: Any) -> NDArray[Any]:
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    array: NDArray[Any] = np.asarray(value)
    if not array.ndim or not array.size or array.dtype.kind not in "biuf":
        raise InvalidInput("The sample holds no rows of numbers.", code="invalid_sample", next_step=_SAMPLE_STEP)
    return array

"""The signature of a program that carries none: names from the program, types and shapes from a sample, proved by runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmaas.core.errors import InvalidInput, OpenMaaSError, Refused
from openmaas.core.made_up import make_up
from openmaas.core.types import Signature, TensorSpec
from openmaas.engines.torch.program import ScriptProgram
from openmaas.engines.torch.values import DATATYPES, Arrays
from openmaas.formats.sample import UNNAMED, read_sample, require_equal_rows, split_expected, stretch

_ROWS = 3
_LENGTH = 16


def read_shapes(program: ScriptProgram, sample: Path | None, declared: Signature | None) -> Signature:
    """The signature from what openmaas.yaml declares, or else from the sample.

    Sequences are what `sequences` finds in the sample. Raises InvalidInput (sample_needed) where nothing tells the shapes.
    """
    if declared is not None:
        _require_names(program, {spec.name for spec in declared.inputs})
        inputs = make_up(declared.inputs, _ROWS, length=_LENGTH)
    elif sample is not None:
        inputs = _named(program, split_expected(read_sample(sample))[0])
    else:
        raise InvalidInput(
            f"A TorchScript file does not say what shapes its inputs have ({', '.join(map(repr, program.inputs))}).",
            code="sample_needed",
            next_step="Push it with a sample of real inputs (--sample FILE), or write the signature into openmaas.yaml.",
        )
    axes = {spec.name: _free(spec.shape) for spec in declared.inputs} if declared else sequences(inputs, _whole(inputs))
    return observe(program, inputs, axes)


def observe(program: ScriptProgram, inputs: Arrays, axes: Mapping[str, set[int]]) -> Signature:
    """What TorchScript takes and gives: an axis is -1 where a run with another length of it went well, or made it differ.

    axes: of the inputs, those that may be sequences; axis 0 is always tried. Raises Refused where it does not run.
    """
    try:
        answers = program.run(inputs)
    except OpenMaaSError as error:
        raise Refused(f"The model does not run on the sample: {error.message}", code="model_not_runnable") from None
    free: dict[str, set[int]] = {name: set() for name in (*inputs, *answers)}
    for changed in (_other_rows(inputs), _shorter(inputs, axes)):
        if changed is None or (found := _tried(program, changed)) is None or set(found) != set(answers):
            continue
        for name, array in inputs.items():
            free[name] |= _differing(array, changed[name])
        for name, array in answers.items():
            free[name] |= _differing(array, found[name])
    return Signature(
        inputs=tuple(_spec(name, array, free[name]) for name, array in inputs.items()),
        outputs=tuple(_spec(name, array, free[name]) for name, array in answers.items()),
    )


def _whole(inputs: Arrays) -> list[str]:
    return [name for name, array in inputs.items() if array.dtype.kind in "iub"]


def _free(shape: tuple[int, ...]) -> set[int]:
    return {axis for axis, length in enumerate(shape) if length == -1}


def _differing(a: NDArray[Any], b: NDArray[Any]) -> set[int]:
    if a.ndim != b.ndim:
        raise Refused("An output's number of axes depends on the input.", code="unsupported_type")
    return {axis for axis, (one, other) in enumerate(zip(a.shape, b.shape, strict=True)) if one != other}


def _tried(program: ScriptProgram, inputs: Arrays) -> Arrays | None:
    try:
        return program.run(inputs)
    except OpenMaaSError:
        return None


def _other_rows(inputs: Arrays) -> Arrays | None:
    """The same inputs with one row more."""
    counts = {len(array) if array.ndim else 0 for array in inputs.values()}
    return stretch(inputs, counts.pop() + 1) if len(counts) == 1 and 0 not in counts else None


def _shorter(inputs: Arrays, axes: Mapping[str, set[int]]) -> Arrays | None:
    """The same inputs, cut by one along every sequence; None where there is none that could be."""
    cut = {name: {axis for axis in axes.get(name, ()) if axis and array.shape[axis] > 2} for name, array in inputs.items()}
    if not any(cut.values()):
        return None
    return {
        name: np.ascontiguousarray(array[tuple(slice(None, -1 if n in cut[name] else None) for n in range(array.ndim))])
        for name, array in inputs.items()
    }


def sequences(inputs: Mapping[str, Any], whole: Collection[str]) -> dict[str, set[int]]:
    """Axis 1 of each input that begins with [N, L], where two or more inputs of whole numbers have just that shape.

    inputs: arrays or tensors by name. whole: the names of those that hold integers or booleans.
    """
    shapes = [tuple(inputs[name].shape) for name in whole if inputs[name].ndim == 2]
    pair = next((shape for shape in shapes if shapes.count(shape) > 1 and shape[1] > 1), None)
    return {name: {1} if pair is not None and tuple(value.shape[:2]) == pair else set() for name, value in inputs.items()}


def _spec(name: str, array: NDArray[Any], free: set[int]) -> TensorSpec:
    shape = tuple(-1 if axis in free else length for axis, length in enumerate(array.shape))
    return TensorSpec(name=name, datatype=DATATYPES[array.dtype.name], shape=shape)


def _named(program: ScriptProgram, arrays: Arrays) -> Arrays:
    """A sample's arrays under the names of forward's arguments, floats in the precision of the weights."""
    if UNNAMED in arrays:
        arrays = {program.inputs[0] if program.inputs else UNNAMED: arrays[UNNAMED]}
    elif len(program.required) == 1 and not set(arrays) & set(program.inputs):
        arrays = {program.required[0]: _joined(arrays)}
    _require_names(program, set(arrays))
    precision = next((str(one.dtype)[6:] for one in program.module.parameters() if one.dtype.is_floating_point), "float32")
    dtype = np.dtype(precision) if precision in ("float16", "float32", "float64") else np.dtype(np.float32)
    ordered = {name: arrays[name] for name in program.inputs if name in arrays}
    return {name: array.astype(dtype) if array.dtype.kind == "f" else array for name, array in ordered.items()}


def _joined(arrays: Arrays) -> NDArray[Any]:
    """A table's columns as one matrix."""
    require_equal_rows(arrays)
    if len(arrays) > 1 and any(array.ndim != 2 or array.dtype.kind not in "biuf" for array in arrays.values()):
        raise InvalidInput(
            f"The model takes one input; the sample has {', '.join(map(repr, list(arrays)[:12]))}.", code="invalid_sample"
        )
    return np.concatenate(list(arrays.values()), axis=1) if len(arrays) > 1 else next(iter(arrays.values()))


def _require_names(program: ScriptProgram, names: set[str]) -> None:
    if not set(program.required) <= names <= set(program.inputs):
        raise InvalidInput(
            f"The sample or signature names {', '.join(map(repr, sorted(names)))}; forward takes "
            f"{', '.join(map(repr, program.inputs)) or 'nothing'}.",
            code="invalid_sample",
            next_step="Name the inputs after the parameters of forward.",
        )

"""ONNX files that are served in another form than they were pushed: operators of old versions, and a batch axis fixed at 1.

Each form is held against the pushed one before it serves: the old operators against ONNX's own reference implementation, the
free batch axis against the pushed model run row by row.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from openmaas.core.errors import OpenMaaSError
from openmaas.core.made_up import make_up
from openmaas.core.manifest import Parity
from openmaas.core.types import Signature, TensorSpec
from openmaas.engines.onnxruntime.session import OnnxSession
from openmaas.formats.base import Task
from openmaas.formats.batching import BATCH, all_same
from openmaas.formats.compare import ATOL, RTOL, compare, rows, stack
from openmaas.formats.files import free_name
from openmaas.formats.onnx import graph
from openmaas.formats.sample import fit, read_sample, split_expected, stretch
from openmaas.formats.time_limit import time_limit

Arrays = dict[str, NDArray[Any]]
Run = Callable[[Arrays], Arrays]
_FIRST_SUPPORTED = 7
"""The oldest version of ONNX's operators that onnxruntime has all of."""
_TARGET = 13
_SECONDS = 30.0
_BATCH = "batch"


class Rewritten(NamedTuple):
    """Another form of a model, loaded: where it was written, what was compared, and what to tell."""

    model: Any
    name: str
    session: OnnxSession
    signature: Signature
    parity: Parity
    note: str


# ── operators of old versions ────────────────────────────────────────────────────────────────────────────────────────


def with_newer_operators(task: Task, model: Any) -> Rewritten | None:
    """The model with operators that onnxruntime has; None where it is not old, cannot be rewritten, or answers otherwise."""
    import onnx
    from onnx import version_converter

    version = max((opset.version for opset in model.opset_import if not opset.domain), default=_TARGET)
    if version >= _FIRST_SUPPORTED:
        return None
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for value in (*fixed.graph.input, *fixed.graph.output):
        _set_batch(value, 1)  # the converter of versions takes no free axes
    with contextlib.suppress(RuntimeError, ValueError, OpenMaaSError), time_limit(_SECONDS):
        newer = version_converter.convert_version(fixed, _TARGET)
        newer.ir_version = max(newer.ir_version, 7)
        name, session, signature = _load(task, newer, "newer-operators.onnx")
        inputs = _rows_for(task, signature, 1)
        expected = _by_reference(fixed, signature, inputs)
        comparison, wrong = compare(1, session.run(inputs), expected)
        if wrong is None:
            parity = _parity(f"onnx reference {onnx.__version__}", task, (comparison,))
            note = f"Its operators of version {version} were rewritten in version {_TARGET}, which onnxruntime has."
            return Rewritten(newer, name, session, signature, parity, note)
    return None


def _by_reference(model: Any, signature: Signature, inputs: Arrays) -> Arrays:
    """The answers of ONNX's own implementation in numpy. Raises ValueError where it has not all operators."""
    import warnings

    from onnx.reference import ReferenceEvaluator

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            names = [output.name for output in signature.outputs]
            return dict(zip(names, ReferenceEvaluator(model).run(names, inputs), strict=True))
    except Exception as error:
        raise ValueError(f"the reference cannot run it: {error}") from None


# ── a batch axis fixed at 1 ──────────────────────────────────────────────────────────────────────────────────────────


def with_free_batch(task: Task, model: Any, session: OnnxSession, signature: Signature) -> Rewritten | None:
    """The model with axis 0 free, where each row of a batch then has the answer that it has alone; else None."""
    if not _fixed_at_one(signature.inputs) or not _fixed_at_one(signature.outputs):
        return None
    import onnx
    import onnxruntime

    free = onnx.ModelProto()
    free.CopyFrom(model)
    del free.graph.value_info[:]
    _free_axes(free)
    _free_reshapes(free)
    with contextlib.suppress(OpenMaaSError):
        name, freed, opened = _load(task, free, "free-batch.onnx")
        inputs = _rows_for(task, opened, BATCH)
        comparisons, wrong = _hold(session.run, freed.run, inputs)
        if wrong is None:
            parity = _parity(f"onnxruntime {onnxruntime.__version__}, the batch axis fixed at 1", task, comparisons)
            note = "Its batch axis was fixed at 1 and is free now: rows of a batch were compared with each row alone."
            return Rewritten(free, name, freed, opened, parity, note)
    return None


def _fixed_at_one(specs: tuple[TensorSpec, ...]) -> bool:
    return bool(specs) and all(spec.shape and spec.shape[0] == 1 for spec in specs)


def _free_axes(model: Any) -> None:
    constants = {tensor.name for tensor in model.graph.initializer}
    for value in (*model.graph.input, *model.graph.output):
        if value.name not in constants:
            _set_batch(value, _BATCH)


def _set_batch(value: Any, batch: int | str) -> None:
    """Axis 0 as a length, where it has none, or as a name."""
    axes = value.type.tensor_type.shape.dim
    if not axes:
        return
    if isinstance(batch, str):
        axes[0].dim_param = batch
    elif axes[0].dim_value <= 0:
        axes[0].dim_value = batch


def _free_reshapes(model: Any) -> None:
    """Shapes that begin with the fixed 1, told by constants: -1 there, or the input's own length where -1 is taken."""
    from onnx import numpy_helper

    constants = _constants(model)
    for number, node in enumerate(model.graph.node):
        shape = constants.get(node.input[1]) if node.op_type == "Reshape" and len(node.input) == 2 else None
        if shape is None or shape.ndim != 1 or not len(shape) or shape[0] != 1:
            continue
        keeps_zero = any(attribute.name == "allowzero" and attribute.i for attribute in node.attribute)
        if (shape == -1).any() and keeps_zero:
            continue
        first = 0 if (shape == -1).any() else -1
        name = next(free for free in (f"{_BATCH}_shape_{number}_{more}" for more in itertools.count()) if free not in constants)
        model.graph.initializer.append(numpy_helper.from_array(np.array([first, *shape[1:]], np.int64), name))
        node.input[1] = name


def _constants(model: Any) -> Mapping[str, NDArray[Any]]:
    from onnx import numpy_helper

    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer if tensor.data_type == 7}
    for node in model.graph.node:
        if node.op_type == "Constant":
            found.update(
                (node.output[0], numpy_helper.to_array(attribute.t))
                for attribute in node.attribute
                if attribute.name == "value" and attribute.t.data_type == 7
            )
    return found


def _hold(source: Run, target: Run, inputs: Arrays) -> tuple[tuple[Any, ...], str | None]:
    """Each row alone by the source, and all at once, two by two and one by one by the target."""
    alone = stack([source(rows(inputs, index, index + 1)) for index in range(BATCH)])
    comparisons, reason = [], None
    for size in (1, 2, BATCH):
        parts = [target(rows(inputs, start, min(start + size, BATCH))) for start in range(0, BATCH, size)]
        if any(not array.ndim for part in parts for array in part.values()):
            return (), "an output has no axis"
        comparison, wrong = compare(size, stack(parts), alone)
        comparisons.append(comparison)
        reason = reason or wrong
    return tuple(comparisons), reason


# ── both ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _load(task: Task, model: Any, name: str) -> tuple[str, OnnxSession, Signature]:
    """Write it below the output and load it. Raises EngineFailed where onnxruntime cannot."""
    name = free_name(task.folder, name)
    path: Path = task.output / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    try:
        session = OnnxSession(path, threads=2)
    except OpenMaaSError:
        path.unlink()
        raise
    signature = graph.read_signature(model)
    session.bind(signature)
    return name, session, signature


def _rows_for(task: Task, signature: Signature, count: int) -> Arrays:
    """So many different rows: the sample's, or made up. Raises InvalidInput where the sample does not fit."""
    if task.sample is not None:
        given = stretch(fit(split_expected(read_sample(task.folder / task.sample))[0], signature.inputs), count)
        if count == 1 or not all_same(given):
            return given
    return make_up(signature.inputs, count)


def _parity(source: str, task: Task, comparisons: tuple[Any, ...]) -> Parity:
    import onnxruntime

    return Parity(
        source=source,
        target=f"onnxruntime {onnxruntime.__version__}",
        passed=True,
        sample="given" if task.sample is not None else "generated",
        rtol=RTOL,
        atol=ATOL,
        comparisons=comparisons,
    )

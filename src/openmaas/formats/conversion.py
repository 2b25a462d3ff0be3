"""A scikit-learn estimator as ONNX, held against the estimator itself."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from openmaas.core.errors import OpenMaaSError, without_paths
from openmaas.core.manifest import Comparison, Parity
from openmaas.core.types import Signature
from openmaas.engines.estimator import Arrays, Estimator
from openmaas.engines.onnx_session import OnnxSession
from openmaas.formats.compare import ATOL, RTOL, compare, rows, stack
from openmaas.formats.graph import read_signature
from openmaas.formats.layouts import Rows
from openmaas.formats.sample import stretch
from openmaas.formats.time_limit import time_limit

BATCHES = (1, 2, 7)
_CALLS = 32
"""Runs at each batch size: so many rows at batch 1, seven times as many at batch 7, if the sample has them."""
SECONDS = 60.0
"""Time for one conversion: skl2onnx takes exponentially long for some models, which scikit-learn can serve at once."""


class Converted(NamedTuple):
    """The best that conversion gave. Where `parity` has passed, the ONNX file is at the path that was given.

    rows are what was compared, inputs the same as the ONNX model takes them.
    """

    parity: Parity
    rows: Rows
    signature: Signature | None = None
    session: OnnxSession | None = None
    inputs: Arrays = {}  # noqa: RUF012  never changed


def convert(model: Any, candidates: Sequence[Rows], path: Path) -> Converted:
    """Write the estimator to `path` as ONNX that answers as it does: with float32 inputs, else doubles, else not at all."""
    failures: list[str] = []
    measured: tuple[Comparison, ...] = ()
    for rows_, precision in _attempts(candidates):
        try:
            session, signature, inputs = _write(model, rows_, precision, path)
            comparisons, wrong = hold_against(Estimator(model, rows_.layout), rows_.inputs, session, inputs)
        except OpenMaaSError as error:
            comparisons, wrong = (), error.message
        if wrong is None:
            return Converted(_parity(True, rows_, comparisons, failures), rows_, signature, session, inputs)
        failures.append(f"{precision.name} inputs{' as columns' if rows_.layout == 'columns' else ''}: {wrong}")
        measured = measured or comparisons
    path.unlink(missing_ok=True)
    return Converted(_parity(False, candidates[0], measured, failures), candidates[0])


def _attempts(candidates: Sequence[Rows]) -> Iterator[tuple[Rows, np.dtype[Any]]]:
    for rows_ in candidates:
        yield rows_, np.dtype(np.float32)
        if any(array.dtype.kind == "f" for array in rows_.inputs.values()):
            yield rows_, np.dtype(np.float64)


def _parity(passed: bool, rows_: Rows, comparisons: tuple[Comparison, ...], failures: Sequence[str]) -> Parity:
    import onnxruntime
    import sklearn

    return Parity(
        source=f"scikit-learn {sklearn.__version__}",
        target=f"onnxruntime {onnxruntime.__version__}",
        passed=passed,
        sample=rows_.origin,
        rtol=RTOL,
        atol=ATOL,
        comparisons=comparisons,
        reason=" ".join(failures) or None,
    )


# ── converting ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _write(model: Any, rows_: Rows, precision: np.dtype[Any], path: Path) -> tuple[OnnxSession, Signature, Arrays]:
    """Raises OpenMaaSError when skl2onnx cannot convert it, or onnxruntime cannot load what came of it."""
    inputs = {name: array.astype(precision) if array.dtype.kind == "f" else array for name, array in rows_.inputs.items()}
    graph = _to_onnx(model, inputs, rows_.outputs)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(graph.SerializeToString())
    session = OnnxSession(path, threads=2)
    signature = read_signature(graph)
    session.bind(signature)
    return session, signature, inputs


def _to_onnx(model: Any, inputs: Arrays, outputs: Arrays) -> Any:
    try:
        with time_limit(SECONDS):
            return _name_outputs(_convert(model, inputs), outputs)
    except (MemoryError, OpenMaaSError):
        raise
    except Exception as error:
        cause = _root(error)
        said = without_paths(" ".join(str(cause).split())).partition(". ")[0][:300].rstrip(".")
        raise OpenMaaSError(f"skl2onnx cannot convert it ({type(cause).__name__}: {said}).") from None


def _convert(model: Any, inputs: Arrays) -> Any:
    import warnings

    from skl2onnx import convert_sklearn
    from sklearn.base import is_classifier

    types = [(name, _onnx_type(array)) for name, array in inputs.items()]
    fixed = {"initial_types": types, "name": type(model).__name__, "target_opset": _opsets()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if is_classifier(model):
            with contextlib.suppress(NameError):  # not every classifier's converter knows the option
                return convert_sklearn(model, options={id(model): {"zipmap": False}}, **fixed)
        return convert_sklearn(model, **fixed)


def _opsets() -> dict[str, int]:
    """The newest that skl2onnx writes for every kind of model; it has not all of them in ai.onnx.ml 4 and later."""
    import skl2onnx

    return {"": skl2onnx.__max_supported_opset__, "ai.onnx.ml": 3}


def _root(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _onnx_type(array: NDArray[Any]) -> Any:
    from skl2onnx.common import data_types

    kinds = {
        "float32": data_types.FloatTensorType,
        "float64": data_types.DoubleTensorType,
        "int64": data_types.Int64TensorType,
        "bool": data_types.BooleanTensorType,
        "object": data_types.StringTensorType,
    }
    return kinds[array.dtype.name]([None, *array.shape[1:]])


def _name_outputs(model: Any, expected: Arrays) -> Any:
    """The graph with the estimator's own outputs only, under our names and with as many axes as the estimator gives.

    Of what skl2onnx gives, the first outputs are the estimator's; that they are is what the comparison then shows.
    """
    import onnx

    theirs = [value.name for value in model.graph.output]
    if len(theirs) < len(expected):
        raise OpenMaaSError(f"skl2onnx gives {len(theirs)} outputs, the estimator {len(expected)}.")
    kept = list(model.graph.output)[: len(expected)]
    del model.graph.output[:]
    taken = {name for node in model.graph.node for name in (*node.input, *node.output)} | {i.name for i in model.graph.input}
    for value, (name, array) in zip(kept, expected.items(), strict=True):
        inner = next(free for free in (f"inner_{name}_{number}" for number in itertools.count()) if free not in taken)
        if name in taken:
            _rename(model, name, inner)
            value.name = inner if value.name == name else value.name
        _append(model, value, name, array)
    onnx.checker.check_model(model)
    return model


def _rename(model: Any, old: str, new: str) -> None:
    """Another name for a value inside the graph."""
    for node in model.graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == old:
                    names[index] = new


def _append(model: Any, value: Any, name: str, array: NDArray[Any]) -> None:
    """A last node that gives the value under its new name: reshaped where the estimator has fewer axes, or more."""
    import onnx

    axes = len(value.type.tensor_type.shape.dim)
    target = [None, *array.shape[1:]]
    if axes == array.ndim or array.ndim not in (1, 2):
        model.graph.node.append(onnx.helper.make_node("Identity", [value.name], [name]))
        target = [axis.dim_value if axis.HasField("dim_value") else None for axis in value.type.tensor_type.shape.dim]
    else:
        shape = onnx.numpy_helper.from_array(np.array([-1, *array.shape[1:]], np.int64), f"shape_of_{name}")
        model.graph.initializer.append(shape)
        model.graph.node.append(onnx.helper.make_node("Reshape", [value.name, shape.name], [name]))
    kind = value.type.tensor_type.elem_type
    model.graph.output.append(onnx.helper.make_tensor_value_info(name, kind, target))


# ── comparing ────────────────────────────────────────────────────────────────────────────────────────────────────────


def hold_against(
    source: Estimator, given: Arrays, session: OnnxSession, inputs: Arrays
) -> tuple[tuple[Comparison, ...], str | None]:
    """Source and ONNX on the same rows at each batch size: what to store, and what is wrong (None when nothing is)."""
    comparisons = []
    reason = None
    for batch in BATCHES:
        count = max(batch, min(len(next(iter(given.values()))), _CALLS * batch) // batch * batch)
        expected = _in_batches(source.answer, stretch(given, count), batch)
        comparison, wrong = compare(batch, _in_batches(session.run, stretch(inputs, count), batch), expected)
        comparisons.append(comparison)
        reason = reason or wrong
    return tuple(comparisons), f"{reason}." if reason else None


def _in_batches(run: Any, inputs: Arrays, batch: int) -> Arrays:
    count = len(next(iter(inputs.values())))
    return stack([run(rows(inputs, start, start + batch)) for start in range(0, count, batch)])

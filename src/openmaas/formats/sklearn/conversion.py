"""A scikit-learn estimator or a booster as ONNX, held against itself."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from openmaas.core.errors import OpenMaaSError, without_paths
from openmaas.core.manifest import Comparison, Parity
from openmaas.core.types import Signature
from openmaas.engines.onnxruntime.session import OnnxSession
from openmaas.engines.sklearn.estimator import Arrays, Estimator
from openmaas.formats.compare import ATOL, RTOL, compare, rows, stack
from openmaas.formats.onnx.graph import read_signature
from openmaas.formats.sample import stretch
from openmaas.formats.sklearn.layouts import Rows
from openmaas.formats.time_limit import time_limit


class Source(Protocol):
    """What is converted, and answers itself."""

    def answer(self, inputs: Mapping[str, NDArray[Any]], /) -> Arrays: ...


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
    import sklearn

    def write(rows_: Rows, inputs: Arrays) -> Any:
        return _to_onnx(model, inputs, rows_.outputs)

    def source(rows_: Rows) -> Source:
        return Estimator(model, rows_.layout)

    return attempt(f"scikit-learn {sklearn.__version__}", source, write, _attempts(candidates), path)


def attempt(
    name: str,
    source: Callable[[Rows], Source],
    write: Callable[[Rows, Arrays], Any],
    attempts: Iterator[tuple[Rows, np.dtype[Any]]],
    path: Path,
) -> Converted:
    """The first of the attempts that answers as the source does; no file remains where none does.

    name: of the source, in words. write: the ONNX model that takes these inputs. attempts: rows and the precision of the
    inputs; at least one.
    """
    failures: list[str] = []
    measured: tuple[Comparison, ...] = ()
    first: Rows | None = None
    for rows_, precision in attempts:
        first = first or rows_
        inputs = {key: array.astype(precision) if array.dtype.kind == "f" else array for key, array in rows_.inputs.items()}
        try:
            session, signature = _load(write(rows_, inputs), path)
            comparisons, wrong = hold_against(source(rows_), rows_.inputs, session, inputs)
        except OpenMaaSError as error:
            comparisons, wrong = (), error.message
        if wrong is None:
            return Converted(parity_of(name, True, rows_, comparisons, failures), rows_, signature, session, inputs)
        failures.append(f"{precision.name} inputs{' as columns' if rows_.layout == 'columns' else ''}: {wrong}")
        measured = measured or comparisons
    path.unlink(missing_ok=True)
    assert first is not None
    return Converted(parity_of(name, False, first, measured, failures), first)


def _attempts(candidates: Sequence[Rows]) -> Iterator[tuple[Rows, np.dtype[Any]]]:
    for rows_ in candidates:
        yield rows_, np.dtype(np.float32)
        if any(array.dtype.kind == "f" for array in rows_.inputs.values()):
            yield rows_, np.dtype(np.float64)


def parity_of(name: str, passed: bool, rows_: Rows, comparisons: tuple[Comparison, ...], failures: Sequence[str]) -> Parity:
    import onnxruntime

    return Parity(
        source=name,
        target=f"onnxruntime {onnxruntime.__version__}",
        passed=passed,
        sample=rows_.origin,
        rtol=RTOL,
        atol=ATOL,
        comparisons=comparisons,
        reason=" ".join(failures) or None,
    )


# ── converting ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _load(graph: Any, path: Path) -> tuple[OnnxSession, Signature]:
    """Write and load it. Raises OpenMaaSError when onnxruntime cannot."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(graph.SerializeToString())
    session = OnnxSession(path, threads=2)
    signature = read_signature(graph)
    session.bind(signature)
    return session, signature


def _to_onnx(model: Any, inputs: Arrays, outputs: Arrays) -> Any:
    return converted_by("skl2onnx", lambda: name_outputs(_convert(model, inputs), outputs))


def converted_by(converter: str, convert: Callable[[], Any]) -> Any:
    """What `convert` gives within SECONDS. Raises OpenMaaSError with what the converter said."""
    try:
        with time_limit(SECONDS):
            return convert()
    except (MemoryError, OpenMaaSError):
        raise
    except Exception as error:
        cause = _root(error)
        said = without_paths(" ".join(str(cause).split())).partition(". ")[0][:300].rstrip(".")
        raise OpenMaaSError(f"{converter} cannot convert it ({type(cause).__name__}: {said}).") from None


def _convert(model: Any, inputs: Arrays) -> Any:
    import warnings

    from skl2onnx import convert_sklearn
    from sklearn.base import is_classifier

    register_boosters()
    types = [(name, _onnx_type(array)) for name, array in inputs.items()]
    fixed = {"initial_types": types, "name": type(model).__name__, "target_opset": opsets()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if is_classifier(model):
            with contextlib.suppress(NameError):  # not every classifier's converter knows the option
                return convert_sklearn(model, options={id(model): {"zipmap": False}}, **fixed)
        return convert_sklearn(model, **fixed)


def register_boosters() -> None:
    """Teach skl2onnx the boosters that a pipeline may hold, where their library is loaded anyway and onnxmltools is there."""
    import sys
    from importlib.util import find_spec

    if find_spec("onnxmltools") is None:
        return
    from openmaas.formats.boosters.onnx import register

    for library in ("xgboost", "lightgbm"):
        if library in sys.modules:
            register(library)


def opsets() -> dict[str, int]:
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


def name_outputs(model: Any, expected: Arrays) -> Any:
    """The graph with the estimator's own outputs only, under our names and with as many axes as the estimator gives.

    Of what the converter gives, the first outputs are the estimator's; that they are is what the comparison then shows.
    """
    import onnx

    theirs = [value.name for value in model.graph.output]
    if len(theirs) < len(expected):
        raise OpenMaaSError(f"The converter gives {len(theirs)} outputs, the model {len(expected)}.")
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
        declared = [axis.dim_value if axis.HasField("dim_value") else None for axis in value.type.tensor_type.shape.dim]
        target = [None, *declared[1:]]  # some converters declare one row
    else:
        shape = onnx.numpy_helper.from_array(np.array([-1, *array.shape[1:]], np.int64), f"shape_of_{name}")
        model.graph.initializer.append(shape)
        model.graph.node.append(onnx.helper.make_node("Reshape", [value.name, shape.name], [name]))
    kind = value.type.tensor_type.elem_type
    model.graph.output.append(onnx.helper.make_tensor_value_info(name, kind, target))


# ── comparing ────────────────────────────────────────────────────────────────────────────────────────────────────────


def hold_against(
    source: Source, given: Arrays, session: OnnxSession, inputs: Arrays
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

"""A Keras model as ONNX, held against Keras itself."""

from __future__ import annotations

import contextlib
import importlib.metadata
import inspect
import io
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from openmaas.core.errors import InvalidInput, OpenMaaSError
from openmaas.core.made_up import make_up
from openmaas.core.manifest import Comparison, Parity
from openmaas.engines.keras.model import Arrays, KerasModel, reason
from openmaas.engines.onnxruntime.session import OnnxSession
from openmaas.formats.compare import ATOL, RTOL, compare, rows, stack
from openmaas.formats.sample import stretch
from openmaas.formats.time_limit import time_limit

BATCHES = (1, 2, 7)
_CALLS = 32
"""Runs at each batch size: so many rows at batch 1, seven times as many at batch 7, if the sample has them."""
_OTHER_LENGTH = 11
"""Of free axes: a conversion may have taken the sample's length for the only one."""
SECONDS = 90.0
"""For one way of converting: an unrolled network over long sequences has millions of operators."""
Write = Callable[[KerasModel, Arrays, Path], None]


class Converted(NamedTuple):
    """The best that conversion gave. Where `parity` has passed, the ONNX file is at the path that was given."""

    parity: Parity
    session: OnnxSession | None = None


def convert(model: KerasModel, inputs: Arrays, origin: str, path: Path) -> Converted:
    """Write the model to `path` as ONNX that answers as it does: by PyTorch's exporter of graphs, else by its tracer.

    inputs: rows that the model has answered, at least one; origin: "given" or "generated".
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    failures: list[str] = []
    measured: tuple[Comparison, ...] = ()
    for way, write in (("As a graph", _write_graph), ("As a trace", _write_trace)):
        session = None
        try:
            session = _written(model, inputs, path, write)
            comparisons, wrong = hold_against(model, session, inputs)
        except OpenMaaSError as error:
            comparisons, wrong = (), error.message
        if wrong is None:
            return Converted(_parity(True, origin, comparisons), session)
        failures.append(f"{way} {wrong}")
        measured = measured or comparisons
    path.unlink(missing_ok=True)
    return Converted(_parity(False, origin, measured, " ".join(failures)))


def _parity(passed: bool, origin: str, comparisons: tuple[Comparison, ...], why: str | None = None) -> Parity:
    import keras

    return Parity(
        source=f"keras {keras.__version__}",
        target=f"onnxruntime {importlib.metadata.version('onnxruntime')}",
        passed=passed,
        sample=origin,
        rtol=RTOL,
        atol=ATOL,
        comparisons=comparisons,
        reason=why,
    )


# ── converting ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _written(model: KerasModel, inputs: Arrays, path: Path, write: Write) -> OnnxSession:
    """Raises OpenMaaSError when it cannot be converted, or onnxruntime cannot load what came of it."""
    try:
        with time_limit(SECONDS), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            write(model, inputs, path)
            _give_names(model, path)
    except (MemoryError, OpenMaaSError):
        raise
    except Exception as error:
        said = re.split(r"[.!] ", reason(error))[0][:200].rstrip(".!")
        raise OpenMaaSError(f"it cannot be converted ({type(error).__name__}: {said}).") from None
    session = OnnxSession(path, threads=2)
    session.bind(model.signature)
    return session


def _write_graph(model: KerasModel, inputs: Arrays, path: Path) -> None:
    """torch.export with every free axis left free, sequences too; loops over a free axis it cannot express."""
    import torch

    program, arguments = export_graph(model, inputs)
    onnx_program = torch.onnx.export(program, arguments, dynamo=True, verbose=False)
    if onnx_program is None:
        raise RuntimeError("torch.onnx.export gave no program")
    onnx_program.save(path, external_data=False)


def export_graph(model: KerasModel, inputs: Arrays) -> tuple[Any, tuple[Any, ...]]:
    """The torch.export program that takes the model's inputs one by one, and the arguments it was exported with."""
    import torch

    two = stretch(inputs, 2) if _free_batch(model) else inputs  # an axis of length one would be taken for a constant
    arguments = tuple(torch.from_numpy(np.ascontiguousarray(two[name])) for name in model.names)
    batch = torch.export.Dim("batch", min=1)
    shapes = tuple(
        {
            axis: batch if axis == 0 else torch.export.Dim.DYNAMIC  # type: ignore[attr-defined,unused-ignore]
            for axis, length in enumerate(spec.shape)
            if length == -1
        }
        for spec in model.signature.inputs
    )
    with torch.no_grad():
        program = torch.export.export(_module(model), arguments, dynamic_shapes=shapes, strict=False)
    return program, arguments


def write_program(model: KerasModel, inputs: Arrays, path: Path) -> None:
    """Write the model as a torch.export program with the signature's names. Raises InvalidInput where it cannot be one."""
    import torch

    if unfit := [name for name in model.names if not name.isidentifier()]:
        raise InvalidInput(f"{unfit[0][:80]!r} cannot be the name of an argument in PyTorch.", code="conversion_failed")
    try:
        with time_limit(SECONDS), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program, _ = export_graph(model, inputs)
            _rename_weights(program)
            torch.export.save(program, path)
    except (MemoryError, OpenMaaSError):
        raise
    except Exception as error:
        raise InvalidInput(
            f"PyTorch cannot export the model: {reason(error)}",
            code="conversion_failed",
            next_step="Loops over sequences need a fixed length: keras.Input((length, features)).",
        ) from None


def _rename_weights(program: Any) -> None:
    """Keras names a weight as layer/weight, which is no name of an attribute in PyTorch."""
    state = program.state_dict
    names = {name: re.sub(r"[^A-Za-z0-9_.]", "_", name) for name in state}
    if len(set(names.values())) != len(names):
        raise ValueError("two weights have nearly the same name")
    for old, new in names.items():
        state[new] = state.pop(old)
    for spec in (*program.graph_signature.input_specs, *program.graph_signature.output_specs):
        spec.target = names.get(spec.target, spec.target)


def _module(model: KerasModel) -> Any:
    import torch

    class Flat(torch.nn.Module):  # type: ignore[misc,unused-ignore]
        """Inputs one by one in, outputs by name out."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model.flat

        def forward(self, *inputs: Any) -> dict[str, Any]:
            answers = self.model(list(inputs) if len(inputs) > 1 else inputs[0], training=False)
            answers = answers if isinstance(answers, list | tuple) else [answers]
            return {spec.name: answer for spec, answer in zip(model.signature.outputs, answers, strict=True)}

    # What torch.export calls the program's inputs.
    names = [name if name.isidentifier() else f"input_{number}" for number, name in enumerate(model.names)]
    parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in ("self", *names)]
    Flat.forward.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined,unused-ignore]
    return Flat().eval()


def _write_trace(model: KerasModel, inputs: Arrays, path: Path) -> None:
    """Keras' own export: a trace at the lengths of one row, with loops unrolled."""
    model.run(rows(inputs, 0, 1) if _free_batch(model) else inputs)  # Keras exports only what was called once
    model.flat.export(path, format="onnx", verbose=False)


def _free_batch(model: KerasModel) -> bool:
    return all(spec.shape[:1] == (-1,) for spec in model.signature.inputs)


def _give_names(model: KerasModel, path: Path) -> None:
    """The signature's names for inputs and outputs, whatever the values inside the graph are called."""
    import onnx

    proto = onnx.compose.add_prefix(onnx.load(path), prefix="keras/")
    graph = proto.graph
    if len(graph.input) != len(model.names) or len(graph.output) != len(model.signature.outputs):
        raise ValueError(f"the graph has {len(graph.input)} inputs and {len(graph.output)} outputs")
    for value, name in zip(graph.input, model.names, strict=True):
        graph.node.insert(0, onnx.helper.make_node("Identity", [name], [value.name]))
        value.name = name
    for value, spec in zip(graph.output, model.signature.outputs, strict=True):
        graph.node.append(onnx.helper.make_node("Identity", [value.name], [spec.name]))
        value.name = spec.name
    onnx.checker.check_model(proto)
    onnx.save(proto, path)


# ── comparing ────────────────────────────────────────────────────────────────────────────────────────────────────────


def hold_against(source: KerasModel, target: OnnxSession, inputs: Arrays) -> tuple[tuple[Comparison, ...], str | None]:
    """Both on the same rows at each batch size, and at another length where one is free: what to store, and what is wrong."""
    comparisons, wrong = [], None
    for batch, some in _batches(source, inputs):
        comparison, found = compare(batch, _in_batches(target.run, some, batch), _in_batches(source.run, some, batch))
        comparisons.append(comparison)
        wrong = wrong or found
    return tuple(comparisons), f"{wrong}." if wrong else None


def _batches(source: KerasModel, inputs: Arrays) -> Iterator[tuple[int, Arrays]]:
    if not _free_batch(source):
        yield len(next(iter(inputs.values()))), inputs
        return
    for batch in BATCHES:
        count = max(batch, min(len(next(iter(inputs.values()))), _CALLS * batch) // batch * batch)
        yield batch, stretch(inputs, count)
    if any(-1 in spec.shape[1:] for spec in source.signature.inputs):
        other = make_up(source.signature.inputs, 2, length=_OTHER_LENGTH)
        with contextlib.suppress(OpenMaaSError):  # Keras itself does not take such a length
            source.run(other)
            yield 2, other


def _in_batches(run: Callable[[Arrays], Arrays], inputs: Arrays, batch: int) -> Arrays:
    count = len(next(iter(inputs.values())))
    return stack([run(rows(inputs, start, start + batch)) for start in range(0, count, batch)])

"""PyTorch programs as ONNX, under the names that the program itself has, held against it."""

from __future__ import annotations

import contextlib
import itertools
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from openmaas.core.errors import OpenMaaSError, TooLarge
from openmaas.core.manifest import Parity
from openmaas.core.types import Signature
from openmaas.engines.onnxruntime.session import OnnxSession
from openmaas.engines.torch.program import ExportedProgram, TorchProgram
from openmaas.engines.torch.script import reason
from openmaas.engines.torch.values import to_tensor
from openmaas.formats import trial
from openmaas.formats.time_limit import time_limit
from openmaas.formats.torch.parity import Arrays, hold_against, parity_of

SECONDS = 240.0
EXTERNAL = 1_500_000_000
"""Bytes of weights from which on they lie beside the ONNX file: a protobuf message holds 2 GB at most."""


class NotConvertible(OpenMaaSError):
    """The exporter's own words."""


def convert(
    program: TorchProgram, signature: Signature, sample: Path | None, path: Path
) -> tuple[Parity, OnnxSession | None] | None:
    """Write the program to `path` as ONNX that answers as it does: the comparison, and the session where it passed.

    None where nothing can be compared, because made-up input would be giant. Raises Refused where the program does not run.
    """
    try:
        first = trial.try_given(program, signature, sample) if sample else trial.try_generated(program, signature, {})
    except TooLarge:
        return None
    return write_and_compare(program, program.run, signature, first.inputs, first.origin, path)


def write_and_compare(
    program: TorchProgram, source: Any, signature: Signature, inputs: Arrays, origin: str, path: Path
) -> tuple[Parity, OnnxSession | None]:
    """`source` runs what the ONNX file is held against."""
    import onnxruntime

    target = f"onnxruntime {onnxruntime.__version__}"
    try:
        write_onnx(program, signature, inputs, path)
        session = OnnxSession(path, threads=2)
        session.bind(signature)
        comparisons, wrong = hold_against(source, session.run, inputs, signature)
    except OpenMaaSError as error:
        comparisons, wrong = (), error.message
    if wrong is not None:
        for file in (path, path.with_name(path.name + ".data")):
            file.unlink(missing_ok=True)
        return parity_of(target, origin, comparisons, wrong), None
    return parity_of(target, origin, comparisons, None), session


def write_onnx(program: TorchProgram, signature: Signature, inputs: Arrays, path: Path) -> None:
    """Raises NotConvertible with the exporter's own words."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with quiet(), time_limit(SECONDS):
            if isinstance(program, ExportedProgram):
                _write_exported(program, [spec.name for spec in signature.outputs], path)
            else:
                _write_script(program.module, signature, inputs, path)
    except OpenMaaSError:
        raise
    except Exception as error:
        raise NotConvertible(f"torch.onnx cannot convert it ({type(error).__name__}: {reason(error)})") from None


# ── exported programs ────────────────────────────────────────────────────────────────────────────────────────────────


def _write_exported(program: ExportedProgram, wanted: Sequence[str], path: Path) -> None:
    import torch

    written = torch.onnx.export(program.exported, dynamo=True, verbose=False)
    _name_ports(written.model, program.inputs, list(program.answer_nodes()), wanted)
    size = sum(tensor.numel() * tensor.element_size() for tensor in program.exported.state_dict.values())
    written.save(path, external_data=size > EXTERNAL)


def _name_ports(model: Any, inputs: Sequence[str], outputs: Sequence[str], wanted: Sequence[str]) -> None:
    """Give the graph's inputs and outputs our names, and keep the outputs that are wanted.

    Each output is a last node of its own: the exporter may give one value twice, or an input. What bears such a name inside of
    the graph gets another one.
    """
    import onnx_ir

    graph = model.graph
    if (len(graph.inputs), len(graph.outputs)) != (len(inputs), len(outputs)):
        raise NotConvertible(
            f"torch.onnx gives {len(graph.inputs)} inputs and {len(graph.outputs)} outputs, the program {len(inputs)} and "
            f"{len(outputs)}."
        )
    values = [value for node in graph.all_nodes() for value in node.outputs] + list(graph.initializers.values())
    taken = {value.name for value in (*values, *graph.inputs)}
    fresh = (name for number in itertools.count() if (name := f"inner_{number}") not in taken)
    for value in values:
        if value.name in (*inputs, *outputs):
            _rename(graph, value, next(fresh))
    for value, name in zip(graph.inputs, inputs, strict=True):
        value.name = name
    ends = []
    for value, name in zip(graph.outputs, outputs, strict=True):
        node = onnx_ir.node("Identity", [value])
        end = node.outputs[0]
        end.name, end.shape, end.type = name, value.shape, value.type
        if name in wanted:
            graph.append(node)
            ends.append(end)
    graph.outputs[:] = ends


def _rename(graph: Any, value: Any, name: str) -> None:
    if (old := value.name) in graph.initializers and graph.initializers[old] is value:
        del graph.initializers[old]
        value.name = name
        graph.initializers[name] = value
    else:
        value.name = name


# ── TorchScript ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _write_script(module: Any, signature: Signature, inputs: Arrays, path: Path) -> None:
    """By the exporter that reads TorchScript's graphs, the only one that does."""
    import torch

    names = [spec.name for spec in signature.inputs]
    outputs = [spec.name for spec in signature.outputs]
    axes = {
        spec.name: {axis: _axis_name(axis) for axis, length in enumerate(spec.shape) if length == -1}
        for spec in (*signature.inputs, *signature.outputs)
    }
    torch.onnx.export(
        torch.jit.freeze(_flat(module, names, outputs)),
        tuple(to_tensor(inputs[name]) for name in names),
        path,
        dynamo=False,
        input_names=names,
        output_names=outputs,
        dynamic_axes={name: found for name, found in axes.items() if found},
    )
    _fix_shapes(path, signature)


def _fix_shapes(path: Path, signature: Signature) -> None:
    """Write the lengths that are known into the outputs, where the exporter has lost them."""
    import onnx

    model = onnx.load(path)
    shapes = {spec.name: spec.shape for spec in signature.outputs}
    for value in model.graph.output:
        axes = value.type.tensor_type.shape.dim
        if len(axes) == len(shapes[value.name]):
            for axis, length in zip(axes, shapes[value.name], strict=True):
                if length != -1:
                    axis.dim_value = length
    onnx.save(model, path)


def _flat(module: Any, inputs: Sequence[str], outputs: Sequence[str]) -> Any:
    """The module with a tuple of tensors where it gives a dict, for which ONNX has no form."""
    import torch

    if module.forward.schema.returns[0].type.kind() != "DictType":
        return module
    holder = torch.nn.Module()
    holder.inner = module
    flat = torch.jit.script(holder)
    given = ", ".join(inputs)
    picked = ", ".join(f"answer[{name!r}]" for name in outputs)
    flat.define(f"def forward(self, {given}):\n    answer = self.inner({given})\n    return ({picked},)\n")
    return flat.eval()


def _axis_name(axis: int) -> str:
    return "batch" if axis == 0 else f"axis_{axis}"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The libraries' own deprecations and progress are not our callers' concern."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)


def tensors_of(inputs: Mapping[str, Any], signature: Signature) -> tuple[Any, ...]:
    """Sample inputs as tensors in the signature's order."""
    return tuple(to_tensor(inputs[spec.name]) for spec in signature.inputs)

"""A live nn.Module as files: model.pt2, model.onnx where that gives the same answers, and the sample with the module's answers.

sample
    an array or tensor        the one input
    a tuple or list of them   forward's inputs in their order
    a dict                    forward's inputs by name
    a list of such tuples or dicts   several samples of different lengths; an array is no sample here, it is an input

Which axes are dynamic: axis 0 of every input is the batch. An axis in which several samples differ is a sequence. With one
sample, axis 1 is a sequence where two or more integer or boolean inputs have one shape [N, L], and so it is in every other
input that begins with [N, L]. Where the module itself fixes a length, the length is fixed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from openmaas.core.errors import InvalidInput, OpenMaaSError
from openmaas.core.manifest import Parity
from openmaas.core.processing import Padding
from openmaas.core.types import Signature
from openmaas.engines.torch.archive import Archive
from openmaas.engines.torch.exported import write_clean
from openmaas.engines.torch.program import ExportedProgram, ScriptProgram, TorchProgram
from openmaas.engines.torch.script import reason
from openmaas.engines.torch.values import Arrays, name_outputs, to_array, to_tensor
from openmaas.formats.base import Exported
from openmaas.formats.description import FILE_NAME
from openmaas.formats.kept import write_sample
from openmaas.formats.sample import stretch
from openmaas.formats.torch.arguments import Call, calls_of
from openmaas.formats.torch.onnx import quiet, write_and_compare
from openmaas.formats.torch.parity import hold_against
from openmaas.formats.torch.shapes import observe

_EXPORTED, _SCRIPT, _ONNX, _SAMPLE = "model.pt2", "model.pt", "model.onnx", "sample.npz"
_TRACED_ROWS = (3, 5, 7, 11, 13, 17, 19, 23)


class _Written(NamedTuple):
    """What PyTorch itself can load again: the file's name, the program, its signature, and why nothing better was written."""

    file: str
    program: TorchProgram
    signature: Signature
    failures: tuple[str, ...]


def export_module(module: Any, sample: Any, folder: Path) -> Exported:
    """Write a module into `folder`. Raises InvalidInput without a sample, and for a module that nothing can export."""
    if sample is None:
        raise InvalidInput(
            "A PyTorch module is exported by running it on a sample.",
            code="sample_needed",
            next_step="Give one: push(module, name=…, sample=X), X as forward takes it.",
        )
    with evaluation(module):
        _require_cpu(module)
        call = calls_of(module, sample)
        adapter = _adapter(module, call)
        inputs = {name: to_array(tensor) for name, tensor in call.tensors.items()}
        expected = _run(adapter, call)(inputs)
        written = _write(adapter, call, inputs, folder)
        return _export(written, _run(adapter, call), inputs, expected, folder)


def _export(written: _Written, source: Any, inputs: Arrays, expected: Arrays, folder: Path) -> Exported:
    fixed = [spec.shape[0] for spec in written.signature.inputs if spec.shape[:1] != (-1,)]
    if fixed:
        inputs = stretch(inputs, fixed[0])
        expected = source(inputs)
    parity, session = write_and_compare(written.program, source, written.signature, inputs, "given", folder / _ONNX)
    write_sample(folder / _SAMPLE, inputs, expected)
    files = [written.file, _SAMPLE]
    if session is not None:
        text = f"format: torch\nconverted: {_ONNX}\nentry: {written.file}\n{_padding(written.signature)}"
        (folder / FILE_NAME).write_text(text, "utf-8")
        files += [_ONNX, FILE_NAME, *(file.name for file in folder.glob(f"{_ONNX}.data"))]
    else:
        parity = _told(parity, written.failures)
    return Exported(files=tuple(files), sample=_SAMPLE, parity=parity)


def _padding(signature: Signature) -> str:
    """What openmaas.yaml says, for the server to prove: where a mask is 0, other inputs may hold anything."""
    import msgspec

    sequences = {spec.name: 0 for spec in signature.inputs if len(spec.shape) > 1 and spec.shape[1] == -1}
    if len(sequences) < 2 or not any("mask" in name for name in sequences):
        return ""
    trim = tuple(spec.name for spec in signature.outputs if len(spec.shape) > 1 and spec.shape[1] == -1)
    return f"padding: {msgspec.json.encode(Padding(pad=sequences, trim=trim)).decode()}\n"


def _told(parity: Parity, failures: tuple[str, ...]) -> Parity:
    import msgspec

    return msgspec.structs.replace(parity, reason=" ".join(filter(None, (parity.reason, *failures))))


@contextlib.contextmanager
def evaluation(module: Any) -> Iterator[None]:
    """Evaluation mode and no gradients; every part is left as it was."""
    import torch

    before = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in before:
            part.training = training


def _require_cpu(module: Any) -> None:
    places = {str(tensor.device.type) for tensor in (*module.parameters(), *module.buffers())}
    if places - {"cpu"}:
        raise InvalidInput(
            f"The module lies on {', '.join(sorted(places))}; it is exported on the CPU.",
            code="device",
            next_step="Push module.cpu().",
        )


# ── running it ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _adapter(module: Any, call: Call) -> Any:
    """The module with tensors alone as inputs, under their names, and a dict of tensors as its answer."""
    import inspect

    import torch

    class Adapter(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.module = module

            def forward(*values: Any) -> Any:
                arguments, named = call.arranged(dict(zip(call.tensors, values, strict=True)))
                return name_outputs(module(*arguments, **named), tuple(call.tensors))

            kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
            forward.__signature__ = inspect.Signature([inspect.Parameter(name, kind) for name in call.tensors])  # type: ignore[attr-defined]
            self.forward = forward

    adapter = Adapter()
    adapter.training = False
    return adapter


def _run(adapter: Any, call: Call) -> Any:
    """The module as a function of arrays by name. Raises InvalidInput where it fails: the sample does not fit it."""

    def run(inputs: Arrays) -> Arrays:
        try:
            with quiet():
                answers = adapter(*(to_tensor(inputs[name]) for name in call.tensors))
        except OpenMaaSError:
            raise
        except Exception as error:
            raise InvalidInput(
                f"The module does not run on the sample: {type(error).__name__}: {reason(error)}",
                code="invalid_sample",
                next_step="Give the sample as forward takes it: one array, a tuple, or a dict by parameter name.",
            ) from None
        return {name: to_array(tensor).copy() for name, tensor in answers.items()}

    return run


# ── writing it ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _write(adapter: Any, call: Call, inputs: Arrays, folder: Path) -> _Written:
    """By torch.export, else by tracing. Whatever is written is loaded again, and held against the module.

    torch.export fixes the length of what it takes apart step by step (an LSTM); then a trace serves, if it does not.
    """
    failures: list[str] = []
    second_best = None
    for write in (_write_exported, _write_traced):
        try:
            file, program, signature = write(adapter, call, folder)
            program.bind(signature)
            _, wrong = hold_against(_run(adapter, call), program.run, inputs, signature)
            if wrong is not None:
                failures.append(f"{file} gives other answers: {wrong}")
            elif fixed := _fixed(call, signature):
                failures.append(f"{file} has a fixed length in {fixed}.")
                second_best = second_best or _Written(file, program, signature, ())
            else:
                return _Written(file, program, signature, tuple(failures))
        except OpenMaaSError as error:
            failures.append(error.message)
        except Exception as error:  # whatever a module's own code raises when it is traced
            name = "torch.export" if write is _write_exported else "torch.jit.trace"
            failures.append(f"{name} fails ({type(error).__name__}): {reason(error)}")
    if second_best is not None:
        return second_best
    raise InvalidInput(
        f"The module can neither be exported nor traced. {' '.join(failures)}",
        code="not_exportable",
        next_step="Let forward compute with tensors alone, or export ONNX yourself and push the file.",
    )


def _fixed(call: Call, signature: Signature) -> str:
    """The sequences that the sample shows and the program has at one length only, in words."""
    shapes = {spec.name: spec.shape for spec in signature.inputs}
    return ", ".join(
        f"axis {axis} of {name!r}"
        for name, axes in call.dynamic.items()
        for axis in sorted(axes)
        if axis and shapes[name][axis] != -1
    )


def _write_exported(adapter: Any, call: Call, folder: Path) -> tuple[str, TorchProgram, Signature]:
    import tempfile

    import torch

    path = folder / _EXPORTED
    with quiet():
        program = _exported(adapter, call)
        with tempfile.TemporaryDirectory() as scratch:
            raw = Path(scratch) / "raw.pt2"
            torch.export.save(program, raw)
            # Without the source lines, paths and sample inputs of this machine, and the same bytes for the same module.
            with Archive(raw) as archive, path.open("wb") as file:
                write_clean(archive, file)
    loaded = ExportedProgram(path)
    return _EXPORTED, loaded, loaded.signature


def _exported(adapter: Any, call: Call) -> Any:
    """With every dynamic axis that the module allows; where it fixes the batch, of one row, or of the sample's rows."""
    import torch

    shapes = {name: dict.fromkeys(sorted(axes), torch.export.Dim.AUTO) for name, axes in call.dynamic.items()}
    lengths = {name: {axis: way for axis, way in axes.items() if axis} for name, axes in shapes.items()}
    first: Exception | None = None
    for rows, dynamic in ((_trace_rows(call), shapes), (1, lengths), (call.rows, lengths)):
        try:
            program = torch.export.export(adapter, tuple(call.traced(rows).values()), dynamic_shapes=dynamic, strict=False)
        except Exception as error:  # whatever a module's own code raises
            first = first or error
            continue
        if dynamic is lengths or all(isinstance(_first_axis(program, name), torch.SymInt) for name in call.tensors):
            return program
    assert first is not None
    raise first


def _first_axis(program: Any, name: str) -> Any:
    node = next(node for node in program.graph.nodes if node.name == name)
    return node.meta["val"].shape[0] if node.meta["val"].ndim else None


def _trace_rows(call: Call) -> int:
    """A number of rows that is no other axis' length, so that the exporter cannot take one for the other."""
    lengths = {length for tensor in call.tensors.values() for length in tensor.shape[1:]}
    return next((rows for rows in _TRACED_ROWS if rows not in lengths), _TRACED_ROWS[0])


def _write_traced(adapter: Any, call: Call, folder: Path) -> tuple[str, TorchProgram, Signature]:
    import torch

    path = folder / _SCRIPT
    with quiet():
        traced = torch.jit.trace(adapter, tuple(call.tensors.values()), strict=False, check_trace=False)
        traced.save(str(path))
    program = ScriptProgram(path)
    return _SCRIPT, program, observe(program, {name: to_array(tensor) for name, tensor in call.tensors.items()}, call.dynamic)

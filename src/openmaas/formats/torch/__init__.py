"""PyTorch: TorchScript and exported programs (.pt2), and a live nn.Module from Python.

Served as ONNX where that gives the same answers, else by PyTorch itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from openmaas.core.errors import InvalidInput, OpenMaaSError, Refused
from openmaas.core.manifest import Artifact
from openmaas.formats.base import Examined, Exported, Format, Task
from openmaas.formats.description import refuse_unused

if TYPE_CHECKING:
    from openmaas.core.types import Signature
    from openmaas.engines.torch.program import TorchProgram
    from openmaas.formats.trial import Runner


class TorchFormat(Format):
    name = "torch"
    kinds = "PyTorch modules (torch.nn.Module)"

    def find(self, folder: Path, files: Sequence[str]) -> list[str]:
        from openmaas.engines.torch.archive import kind_of

        return [file for file in files if kind_of(folder / file) in ("torchscript", "torch-export")]

    def examine(self, task: Task, entry: str) -> Examined:
        from openmaas.formats.proof import prove_answers

        refuse_unused(task.description, self.name, "options")
        artifact, program = _load(task, entry)
        signature = _signature(task, program)
        program.bind(signature)
        found = Examined(format=self.name, engine="torch", entry=entry, signature=signature, artifacts=(artifact,))
        runner: Runner = program
        if task.description.converted is None:  # else somebody has converted to this very kind
            found, runner = _as_onnx(task, program, found)
        return prove_answers(task, runner, found, unknown=frozenset(), axes={})

    def native(self, task: Task, entry: str) -> tuple[Artifact, ...]:
        import tempfile

        from openmaas.engines.torch.archive import Archive, kind_of
        from openmaas.engines.torch.exported import write_clean
        from openmaas.engines.torch.script import check_script

        kind = kind_of(task.folder / entry)
        if kind not in ("torchscript", "torch-export"):
            raise InvalidInput(f"{entry!r} is no TorchScript file and no exported program.", code="invalid_description")
        with Archive(task.folder / entry) as archive, tempfile.TemporaryFile() as copy:
            check_script(archive) if kind == "torchscript" else write_clean(archive, copy)
        return (Artifact(kind=kind, entry=entry),)

    def export(self, model: object, sample: Any, folder: Path) -> Exported | None:
        import sys

        library = sys.modules.get("torch")
        if library is None or not isinstance(model, library.nn.Module):
            return None
        from openmaas.formats.torch.live import export_module

        return export_module(model, sample, folder)


def require_torch() -> None:
    """Raises InvalidInput where PyTorch is not installed."""
    if find_spec("torch") is None:
        raise InvalidInput(
            "This is a PyTorch model, and torch is not installed here.",
            code="library_missing",
            next_step="pip install 'openmaas[torch]' where the server runs.",
        )


def _load(task: Task, entry: str) -> tuple[Artifact, TorchProgram]:
    require_torch()
    from openmaas.engines.torch.archive import kind_of
    from openmaas.engines.torch.program import load_program

    kind = kind_of(task.folder / entry)
    assert kind is not None
    try:
        return Artifact(kind=kind, entry=entry), load_program(task.folder / entry, kind)
    except (InvalidInput, Refused):
        raise
    except OpenMaaSError as error:
        raise Refused(
            error.message, code="model_not_runnable", next_step="Check that torch loads the file, of which version it is."
        ) from None


def _signature(task: Task, program: TorchProgram) -> Signature:
    from openmaas.engines.torch.program import ExportedProgram, ScriptProgram
    from openmaas.formats.overrides import override
    from openmaas.formats.torch.shapes import read_shapes

    declared = task.description.signature
    if isinstance(program, ExportedProgram):
        return override(program.signature, frozenset(), declared)
    assert isinstance(program, ScriptProgram)
    return override(read_shapes(program, task.folder / task.sample if task.sample else None, declared), frozenset(), declared)


def _as_onnx(task: Task, program: TorchProgram, found: Examined) -> tuple[Examined, Runner]:
    """As onnxruntime serves it where that gives the same answers, else as it is, with the reason; and what is run."""
    from openmaas.formats.files import free_name
    from openmaas.formats.torch.onnx import convert

    added = free_name(task.folder, "model.onnx")
    path = task.output / added
    converted = convert(program, found.signature, task.folder / task.sample if task.sample else None, path)
    if converted is None:
        return found, program
    parity, session = converted
    if session is None:
        note = f"PyTorch itself serves it: {parity.reason}"
        return msgspec.structs.replace(found, parity=parity, notes=(*found.notes, note)), program
    artifacts = (Artifact(kind="onnx", entry=added), *found.artifacts)
    served = msgspec.structs.replace(
        found, engine="onnxruntime", entry=added, artifacts=artifacts, parity=parity, added=(added,)
    )
    return served, session

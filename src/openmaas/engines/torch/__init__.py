"""PyTorch itself on the CPU: TorchScript and exported programs, as they are or compiled, in float32 or bfloat16."""

from __future__ import annotations

import shutil
import sysconfig
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from openmaas.core.errors import EngineFailed, OpenMaaSError
from openmaas.core.hardware import computes_bf16
from openmaas.core.made_up import make_up
from openmaas.core.manifest import Artifact, EngineChoice, Manifest
from openmaas.engines.base import Engine, EngineSpec, Tensors
from openmaas.engines.warm import warm_up

if TYPE_CHECKING:
    from openmaas.engines.torch.program import TorchProgram

COMPILE_SECONDS = 300.0
"""Time that torch.compile may take before the version counts as not loadable in that way."""


class TorchEngine(Engine):
    """precision: bf16 is PyTorch's autocast. options: `compile` for torch.compile, which exported programs alone allow."""

    name = "torch"
    kinds = frozenset({"torchscript", "torch-export"})
    library = "torch"

    def __init__(self) -> None:
        self._spec: EngineSpec | None = None
        self._program: TorchProgram | None = None

    @classmethod
    def choices(cls, artifact: Artifact, manifest: Manifest) -> tuple[EngineChoice, ...]:
        plain = super().choices(artifact, manifest)
        if not plain:
            return ()
        precisions = ("", "bf16") if computes_bf16() else ("",)
        options = ({}, {"compile": True}) if artifact.kind == "torch-export" and can_compile() else ({},)
        return tuple(
            EngineChoice(engine=cls.name, artifact=artifact, precision=precision, options=option)
            for option in options
            for precision in precisions
        )

    def load(self, spec: EngineSpec) -> None:
        import torch

        from openmaas.engines.torch.program import load_program

        choice = spec.chosen
        torch.set_num_threads(max(1, choice.threads or spec.threads))
        try:
            program = load_program(spec.entry, choice.artifact.kind)
        except EngineFailed:
            raise
        except OpenMaaSError as error:
            raise EngineFailed(error.message, code="load_failed", next_step=error.next_step) from None
        program.bind(spec.manifest.signature)
        program.precision = choice.precision
        if choice.options.get("compile"):
            program.compile()
        self._spec, self._program = spec, program
        self.run = program.run  # type: ignore[method-assign]  # a wrapper would cost the hot path a call

    def warm(self) -> None:
        assert self._spec is not None
        if self._spec.chosen.options.get("compile"):
            self._compile(self._spec)
        warm_up(self, self._spec.manifest.signature)

    def _compile(self, spec: EngineSpec) -> None:
        """Run at several batch sizes, so that nothing is left to compile later. Raises EngineFailed when it takes too long."""
        failures: list[OpenMaaSError] = []

        def compile_now() -> None:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    for rows in (2, 7, 1):  # 1 last: it is a case of its own to the compiler
                        self.run(make_up(spec.manifest.signature.inputs, rows))
            except OpenMaaSError as error:
                failures.append(error)

        worker = threading.Thread(target=compile_now, daemon=True)
        worker.start()
        worker.join(COMPILE_SECONDS)
        if worker.is_alive() or failures:
            why = failures[0].message if failures else f"it takes longer than {COMPILE_SECONDS:g} s."
            raise EngineFailed(
                f"torch.compile cannot make code of the model: {why}",
                code="load_failed",
                next_step="Deploy it with --engine torch, without compile.",
            )

    def run(self, inputs: Tensors) -> Tensors:
        raise EngineFailed("The model is not loaded.")

    def describe(self) -> dict[str, str]:
        import torch

        choice = self._spec.chosen if self._spec else None
        return {
            "library": "torch",
            "version": str(torch.__version__),
            "device": "cpu",
            "threads": str(torch.get_num_threads()),
            "precision": (choice and choice.precision) or "f32",
            "compiled": str(bool(choice and choice.options.get("compile"))).lower(),
        }


def can_compile() -> bool:
    """Whether what torch.compile needs is here: a C++ compiler and Python's headers."""
    compiler = any(shutil.which(name) for name in ("g++", "clang++", "c++"))
    return compiler and (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file()

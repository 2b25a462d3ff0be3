"""Keras itself on PyTorch, for what ONNX cannot give the same answers as."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from openmaas.core.errors import EngineFailed, OpenMaaSError
from openmaas.core.manifest import Artifact, EngineChoice, Manifest
from openmaas.engines.base import Engine, EngineSpec, Tensors
from openmaas.engines.warm import warm_up

if TYPE_CHECKING:
    from openmaas.engines.keras.model import KerasModel


class KerasEngine(Engine):
    name = "keras"
    kinds = frozenset({"keras"})
    library = "keras"

    def __init__(self) -> None:
        self._spec: EngineSpec | None = None
        self._model: KerasModel | None = None

    @classmethod
    def choices(cls, artifact: Artifact, manifest: Manifest) -> tuple[EngineChoice, ...]:
        return super().choices(artifact, manifest) if find_spec("torch") is not None else ()

    def load(self, spec: EngineSpec) -> None:
        from openmaas.engines.keras.model import load_keras

        try:
            self._model = load_keras(spec.entry)
        except OpenMaaSError as error:
            raise EngineFailed(error.message, code="load_failed", next_step=error.next_step) from None
        import torch

        torch.set_num_threads(max(1, spec.threads))
        self._spec = spec
        self._outputs = tuple(output.name for output in spec.manifest.signature.outputs)

    def warm(self) -> None:
        assert self._spec is not None
        warm_up(self, self._spec.manifest.signature)

    def run(self, inputs: Tensors) -> Tensors:
        if self._model is None:
            raise EngineFailed("The model is not loaded.")
        answers = self._model.run(inputs)
        return {name: answers[name] for name in self._outputs}

    def describe(self) -> dict[str, str]:
        import importlib.metadata

        versions = {name: importlib.metadata.version(name) for name in ("keras", "torch")}
        threads = str(self._spec.threads) if self._spec else "0"
        return {"library": "keras", "version": versions["keras"], "backend": f"torch {versions['torch']}", "device": "cpu",
                "threads": threads}  # fmt: skip

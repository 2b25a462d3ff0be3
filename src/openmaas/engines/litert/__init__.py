"""TensorFlow Lite models on the CPU through LiteRT."""

from __future__ import annotations

from typing import TYPE_CHECKING

from openmaas.core.errors import EngineFailed, OpenMaaSError
from openmaas.engines.base import Engine, EngineSpec, Tensors
from openmaas.engines.warm import warm_up

if TYPE_CHECKING:
    from openmaas.engines.litert.model import LiteRtModel


class LiteRtEngine(Engine):
    name = "litert"
    kinds = frozenset({"tflite"})
    library = "ai_edge_litert"

    def __init__(self) -> None:
        self._spec: EngineSpec | None = None
        self._model: LiteRtModel | None = None
        self._outputs: tuple[str, ...] = ()

    def load(self, spec: EngineSpec) -> None:
        from openmaas.engines.litert.model import LiteRtModel

        try:
            self._model = LiteRtModel(spec.entry, spec.threads)
        except OpenMaaSError as error:
            raise EngineFailed(error.message, code="load_failed", next_step=error.next_step) from None
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

        threads = str(self._spec.threads) if self._spec else "0"
        version = importlib.metadata.version("ai-edge-litert")
        return {"library": "ai-edge-litert", "version": version, "device": "cpu", "threads": threads}

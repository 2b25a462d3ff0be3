"""ONNX models on the CPU through onnxruntime."""

from __future__ import annotations

from openmaas.core.errors import EngineFailed
from openmaas.engines.base import Engine, EngineSpec, Tensors
from openmaas.engines.onnxruntime.session import OnnxSession
from openmaas.engines.warm import warm_up


class OnnxRuntimeEngine(Engine):
    name = "onnxruntime"
    kinds = frozenset({"onnx"})
    library = "onnxruntime"

    def __init__(self) -> None:
        self._spec: EngineSpec | None = None

    def load(self, spec: EngineSpec) -> None:
        session = OnnxSession(spec.entry, spec.threads)
        session.bind(spec.manifest.signature)
        self._spec = spec
        self.run = session.run  # type: ignore[method-assign]  # a wrapper would cost the hot path a call

    def warm(self) -> None:
        assert self._spec is not None
        warm_up(self, self._spec.manifest.signature)

    def run(self, inputs: Tensors) -> Tensors:
        raise EngineFailed("The model is not loaded.")

    def describe(self) -> dict[str, str]:
        import onnxruntime

        threads = str(self._spec.threads) if self._spec else "0"
        return {"library": "onnxruntime", "version": onnxruntime.__version__, "device": "cpu", "threads": threads}

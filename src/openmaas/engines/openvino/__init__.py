"""ONNX models and OpenVINO's own IR on the CPU through OpenVINO: in float32, or in bfloat16 where the processor has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from openmaas.core.errors import EngineFailed
from openmaas.core.hardware import computes_bf16
from openmaas.core.manifest import Artifact, EngineChoice, Manifest
from openmaas.engines.base import Engine, EngineSpec, Tensors
from openmaas.engines.warm import warm_up

if TYPE_CHECKING:
    from openmaas.engines.openvino.model import OpenVinoModel

_NOT_CARRIED = frozenset({"BYTES", "BF16"})  # datatypes that numpy and OpenVINO cannot hand to each other in place


class OpenVinoEngine(Engine):
    name = "openvino"
    kinds = frozenset({"onnx", "openvino"})
    library = "openvino"

    def __init__(self) -> None:
        self._spec: EngineSpec | None = None
        self._model: OpenVinoModel | None = None

    @classmethod
    def choices(cls, artifact: Artifact, manifest: Manifest) -> tuple[EngineChoice, ...]:
        plain = super().choices(artifact, manifest)
        specs = (*manifest.signature.inputs, *manifest.signature.outputs)
        if not plain or any(spec.datatype in _NOT_CARRIED for spec in specs):
            return ()
        bf16 = EngineChoice(engine=cls.name, artifact=artifact, precision="bf16")
        return (*plain, bf16) if computes_bf16() else plain

    def load(self, spec: EngineSpec) -> None:
        from openmaas.engines.openvino.model import OpenVinoModel

        choice = spec.chosen
        model = OpenVinoModel(spec.entry, choice.artifact.kind, spec.threads, choice.precision)
        model.bind(spec.manifest.signature)
        self._spec, self._model = spec, model
        self.run = model.run  # type: ignore[method-assign]  # a wrapper would cost the hot path a call

    def warm(self) -> None:
        assert self._spec is not None
        warm_up(self, self._spec.manifest.signature)

    def run(self, inputs: Tensors) -> Tensors:
        raise EngineFailed("The model is not loaded.")

    def describe(self) -> dict[str, str]:
        import importlib.metadata

        spec = self._spec
        return {
            "library": "openvino",
            "version": self._model.version if self._model else importlib.metadata.version("openvino"),
            "device": "cpu",
            "threads": str(spec.threads) if spec else "0",
            "precision": (spec.chosen.precision if spec else "") or "f32",
        }

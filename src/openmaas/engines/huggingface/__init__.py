"""transformers itself: the source that conversions are compared with, and what serves where none gives the same answers."""

from __future__ import annotations

from openmaas.core.errors import EngineFailed, OpenMaaSError
from openmaas.core.manifest import Artifact, EngineChoice, Manifest
from openmaas.engines.base import Engine, EngineSpec, Tensors
from openmaas.engines.huggingface.encoder import Encoder, EncoderOptions
from openmaas.engines.warm import warm_up


class HuggingFaceEngine(Engine):
    """options of the artifact: EncoderOptions. precision: float32, or bf16."""

    name = "huggingface"
    kinds = frozenset({"huggingface"})
    library = "transformers"

    def __init__(self) -> None:
        self._spec: EngineSpec | None = None
        self._encoder: Encoder | None = None

    @classmethod
    def choices(cls, artifact: Artifact, manifest: Manifest) -> tuple[EngineChoice, ...]:
        plain = super().choices(artifact, manifest)
        return (*plain, *(EngineChoice(engine=cls.name, artifact=choice.artifact, precision="bf16") for choice in plain))

    def load(self, spec: EngineSpec) -> None:
        choice = spec.chosen
        try:
            options = EncoderOptions.read(choice.artifact.options)
            self._encoder = Encoder.load(spec.entry.parent, options, choice.precision)
        except OpenMaaSError as error:
            raise EngineFailed(error.message, code="load_failed", next_step=error.next_step) from None
        import torch

        torch.set_num_threads(max(1, spec.threads))
        self._spec = spec

    def warm(self) -> None:
        assert self._spec is not None
        warm_up(self, self._spec.manifest.signature)

    def run(self, inputs: Tensors) -> Tensors:
        if self._encoder is None:
            raise EngineFailed("The model is not loaded.")
        return {**self._encoder.answer(inputs)}

    def describe(self) -> dict[str, str]:
        import transformers

        threads = str(self._spec.threads) if self._spec else "0"
        return {"library": "transformers", "version": transformers.__version__, "device": "cpu", "threads": threads}

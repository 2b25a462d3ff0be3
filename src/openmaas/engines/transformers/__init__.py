"""Decoders as transformers loads them, without any conversion, on the CPU or an NVIDIA GPU."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from openmaas.core.errors import EngineFailed
from openmaas.core.generation import EngineLoad, GenerationRequest, Progress, Sampling
from openmaas.core.hardware import computes_bf16, free_memory, sees_nvidia
from openmaas.core.manifest import Artifact, EngineChoice, Manifest
from openmaas.engines.base import EngineSpec, GenerationEngine

if TYPE_CHECKING:
    from openmaas.engines.transformers.model import Decoder
    from openmaas.engines.transformers.schedule import Schedule

_DTYPES = {"f32": "float32", "bf16": "bfloat16"}
_SHARE = 4  # of the memory that is free once the model is loaded, one part of so many is for the cache


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """EngineChoice.options. cache_mib: for what sequences remember, 0 for a quarter of the free memory (of a GPU's, three
    quarters). sequences: that run at a time, 0 for 32 (on a GPU 128). part: tokens of prompts that a step reads at most, 0 for
    512 (on a GPU 2048). batched: whether sequences are computed together or one after the other; empty for what the device
    is faster with: together on a GPU, one after the other on a CPU."""

    cache_mib: int = 0
    sequences: int = 0
    part: int = 0
    batched: bool | None = None


class TransformersEngine(GenerationEngine):
    """precision: f32, bf16, or empty: bf16 where the files hold no more than that and the machine computes it, else f32."""

    name = "transformers"
    kinds = frozenset({"causal"})
    library = "transformers"
    honours = frozenset(
        {"min_p", "presence_penalty", "frequency_penalty", "repetition_penalty", "logprobs", "top_logprobs"}
    )  # fmt: skip

    def __init__(self) -> None:
        self._spec: EngineSpec | None = None
        self._schedule: Schedule | None = None
        self._device = "cpu"
        self._precision = ""
        self._cache = 0
        self._batched = False

    @classmethod
    def choices(cls, artifact: Artifact, manifest: Manifest) -> tuple[EngineChoice, ...]:
        plain = super().choices(artifact, manifest)
        other = "f32" if _own_precision(manifest) == "bf16" else "bf16"
        if other == "bf16" and not _computes_bf16():
            return plain
        return (*plain, *(EngineChoice(engine=cls.name, artifact=choice.artifact, precision=other) for choice in plain))

    def load(self, spec: EngineSpec) -> None:
        from openmaas.engines.huggingface.encoder import library
        from openmaas.engines.transformers.batched import BatchedDecoder
        from openmaas.engines.transformers.model import Decoder
        from openmaas.engines.transformers.schedule import Schedule

        precision = spec.chosen.precision or _own_precision(spec.manifest)
        if precision not in _DTYPES:
            raise EngineFailed(f"The precision {precision!r} is not one of {', '.join(_DTYPES)}.", code="load_failed")
        try:
            options = msgspec.convert(spec.chosen.options, Options)
        except msgspec.ValidationError as error:
            raise EngineFailed(f"The engine's options are not right: {error}.", code="load_failed") from None
        # Where others want the cores too, threads that spin while they wait made each step take six times as long.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        library()
        import torch

        torch.set_num_threads(max(1, spec.threads))
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        gpu = self._device == "cuda"
        # It makes a plan for each length that it has not met, for a millisecond, and lengths grow with every token.
        torch.backends.cuda.enable_cudnn_sdp(False)
        self._batched = gpu if options.batched is None else options.batched
        sequences, part = options.sequences or (128 if gpu else 32), options.part or (2048 if gpu else 512)
        decoder = (BatchedDecoder if self._batched else Decoder).load(spec.entry.parent, _DTYPES[precision], self._device)
        tokens = self._cache_tokens(decoder, options, _context(spec.manifest) * sequences)
        self._schedule = Schedule(decoder, tokens=tokens, sequences=sequences, longest_part=part)
        self._spec, self._precision, self._cache = spec, precision, tokens

    def _cache_tokens(self, decoder: Decoder, options: Options, most: int) -> int:
        import torch

        free = torch.cuda.mem_get_info()[0] * 3 if self._device == "cuda" else free_memory()
        given = options.cache_mib << 20 or free // _SHARE
        return max(1, min(given // decoder.bytes_a_token, most))

    def warm(self) -> None:
        self.admit(GenerationRequest(id=-1, prompt=[0] * 8, max_tokens=2, end=(), sampling=Sampling(seed=0)))
        while self.busy:
            self.step()

    def admit(self, request: GenerationRequest) -> None:
        self._loaded.admit(request)

    def cancel(self, request_id: int) -> None:
        self._loaded.cancel(request_id)

    def step(self) -> list[Progress]:
        return self._loaded.step()

    def load_now(self) -> EngineLoad:
        return self._loaded.load_now()

    @property
    def busy(self) -> bool:
        return self._loaded.busy

    @property
    def _loaded(self) -> Schedule:
        if self._schedule is None:
            raise EngineFailed("The model is not loaded.")
        return self._schedule

    def describe(self) -> dict[str, str]:
        import transformers

        return {
            "library": "transformers",
            "version": transformers.__version__,
            "device": self._device,
            "threads": str(self._spec.threads if self._spec else 0),
            "precision": self._precision,
            "attention": "together" if self._batched else "by sequence",
            "cache_tokens": str(self._cache),
        }


def _context(manifest: Manifest) -> int:
    if manifest.generator is None:
        raise EngineFailed("The version's manifest says nothing of generation.", code="load_failed")
    return manifest.generator.context


def _own_precision(manifest: Manifest) -> str:
    """As the files have it: bfloat16 in float32 has the same values, and is faster where the processor multiplies no other."""
    weights = manifest.generator.weights if manifest.generator else ""
    return "bf16" if weights == "bf16" and _computes_bf16() else "f32"


def _computes_bf16() -> bool:
    return computes_bf16() or sees_nvidia()

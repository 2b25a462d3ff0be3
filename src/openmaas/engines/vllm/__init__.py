"""Decoders on NVIDIA GPUs through vLLM's own engine, in this process."""

from __future__ import annotations

import importlib
import os
from typing import Any

import msgspec

from openmaas.core.errors import EngineFailed, InvalidInput, without_paths
from openmaas.core.generation import EngineLoad, GenerationRequest, Progress, Sampling, TokenLogprob
from openmaas.core.hardware import sees_nvidia
from openmaas.core.manifest import Artifact, EngineChoice, Manifest
from openmaas.engines.base import EngineSpec, GenerationEngine
from openmaas.engines.vllm.sampling import sampling_params

# vLLM's engine would start a process of its own, report its use to its makers, and ask the network for models.
_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
_DTYPES = {"": "auto", "f32": "float32", "bf16": "bfloat16", "f16": "float16"}


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """EngineChoice.options. memory: share of each GPU's memory that vLLM takes. cache_mib: for what sequences remember, 0 for
    all that `memory` leaves. sequences: that run at a time, 0 for vLLM's own number. gpus: that share each layer.
    eager: without compiling and CUDA graphs."""

    memory: float = 0.9
    cache_mib: int = 0
    sequences: int = 0
    gpus: int = 1
    eager: bool = False


class VllmEngine(GenerationEngine):
    """precision: as the files have it, or f32, bf16, f16."""

    name = "vllm"
    kinds = frozenset({"causal"})
    library = "vllm"
    honours = frozenset(
        {"min_p", "presence_penalty", "frequency_penalty", "repetition_penalty", "logprobs", "top_logprobs", "grammar"}
    )  # fmt: skip

    def __init__(self) -> None:
        self._spec: EngineSpec | None = None
        self._engine: Any = None
        self._scheduler: Any = None
        self._tops: dict[str, int] = {}
        self._refusal: type[Exception] = ValueError

    @classmethod
    def choices(cls, artifact: Artifact, manifest: Manifest) -> tuple[EngineChoice, ...]:
        return super().choices(artifact, manifest) if sees_nvidia() else ()

    def load(self, spec: EngineSpec) -> None:
        generator, choice = spec.manifest.generator, spec.chosen
        if generator is None:
            raise EngineFailed("The version's manifest says nothing of generation.", code="load_failed")
        if choice.precision not in _DTYPES:
            raise EngineFailed(
                f"The precision {choice.precision!r} is not one of {', '.join(filter(None, _DTYPES))}.", code="load_failed"
            )
        try:
            options = msgspec.convert(choice.options, Options)
        except msgspec.ValidationError as error:
            raise EngineFailed(f"The engine's options are not right: {error}.", code="load_failed") from None
        os.environ.update(_ENVIRONMENT)
        folder = str(spec.entry.parent)
        try:
            from vllm import EngineArgs, LLMEngine
            from vllm.config import StructuredOutputsConfig

            given = EngineArgs(
                model=folder,
                tokenizer=folder,
                trust_remote_code=False,
                load_format="safetensors",
                dtype=_DTYPES[choice.precision],
                max_model_len=generator.context,
                tensor_parallel_size=options.gpus,
                gpu_memory_utilization=options.memory,
                kv_cache_memory_bytes=options.cache_mib << 20 or None,
                max_num_seqs=options.sequences or None,
                enforce_eager=options.eager,
                enable_prefix_caching=True,
                enable_chunked_prefill=True,
                # It refuses what it cannot enforce, and writes no blanks that a model might go on writing for ever.
                structured_outputs_config=StructuredOutputsConfig(backend="guidance", disable_any_whitespace=True),
                generation_config="vllm",  # what the model's own files recommend comes with the request
                disable_log_stats=True,
                use_tqdm_on_load=False,
            )
            self._engine = LLMEngine.from_engine_args(given)
            self._scheduler = self._engine.engine_core.engine_core.scheduler
            # Newer versions have an error of their own for what a caller did wrong, beside ValueError.
            self._refusal = getattr(importlib.import_module("vllm.exceptions"), "VLLMClientError", ValueError)
        except Exception as error:
            raise EngineFailed(f"vLLM cannot load the model: {_reason(error)}", code="load_failed") from None
        self._spec = spec

    def warm(self) -> None:
        # Sampling and logarithms of probabilities have kernels of their own, which are made at their first use.
        sampling = Sampling(seed=0, top_p=0.9, top_k=5, min_p=0.01, repetition_penalty=1.1, logprobs=1)
        for number, chosen in enumerate((Sampling(seed=0, temperature=0.0), sampling), 1):
            self.admit(GenerationRequest(id=-number, prompt=[0] * 8, max_tokens=2, end=(), sampling=chosen))
        while self.busy:
            self.step()

    def admit(self, request: GenerationRequest) -> None:
        prompt: dict[str, Any] = {"prompt_token_ids": request.prompt}
        if request.salt:
            prompt["cache_salt"] = request.salt
        try:
            self._loaded.add_request(str(request.id), prompt, sampling_params(request))
        except (ValueError, self._refusal) as error:
            raise InvalidInput(f"vLLM cannot do this: {_reason(error)}") from None
        self._tops[str(request.id)] = max(0, request.sampling.logprobs)

    def cancel(self, request_id: int) -> None:
        self._loaded.abort_request([str(request_id)])
        self._tops.pop(str(request_id), None)

    def step(self) -> list[Progress]:
        if not self.busy:
            return []
        return [self._progress(output) for output in self._loaded.step() if output.request_id in self._tops]

    def _progress(self, output: Any) -> Progress:
        """What vLLM says of one request: its new tokens alone, as was asked for."""
        (answer,) = output.outputs
        known = None
        if answer.logprobs is not None:
            top = self._tops[output.request_id]
            known = [_logprob(token, found, top) for token, found in zip(answer.token_ids, answer.logprobs, strict=True)]
        progress = Progress(id=int(output.request_id), tokens=list(answer.token_ids), logprobs=known)
        progress.cached = -1 if output.num_cached_tokens is None else output.num_cached_tokens
        if output.finished:
            del self._tops[output.request_id]
            if answer.finish_reason == "stop":
                progress.finish = "stop"
            elif answer.finish_reason == "length":
                progress.finish = "length"
            else:
                progress.error = EngineFailed(f"vLLM ended the request with {answer.finish_reason!r}.")
        return progress

    def load_now(self) -> EngineLoad:
        running, waiting = self._scheduler.get_request_counts()
        return EngineLoad(running=running, waiting=waiting, cache=self._scheduler.kv_cache_manager.usage)

    @property
    def busy(self) -> bool:
        return bool(self._loaded.has_unfinished_requests())

    @property
    def _loaded(self) -> Any:
        if self._engine is None:
            raise EngineFailed("The model is not loaded.")
        return self._engine

    def describe(self) -> dict[str, str]:
        import importlib.metadata

        said = {"library": "vllm", "version": importlib.metadata.version("vllm")}
        if self._spec is not None:
            said["device"] = self._engine.vllm_config.device_config.device_type
            said["threads"] = str(self._spec.threads)
            said["precision"] = str(self._engine.model_config.dtype).removeprefix("torch.")
        return said


def _logprob(token: int, found: dict[int, Any], top: int) -> TokenLogprob:
    likeliest = sorted(found.items(), key=lambda pair: -pair[1].logprob)[:top]
    return TokenLogprob(logprob=found[token].logprob, top=tuple((other, each.logprob) for other, each in likeliest))


def _reason(error: object) -> str:
    """The library's own words on one line, without paths."""
    return (without_paths(" ".join(str(error).split())) or type(error).__name__)[:600].rstrip(". ") + "."

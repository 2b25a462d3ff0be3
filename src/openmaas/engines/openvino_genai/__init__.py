"""Text generation on the CPU by OpenVINO GenAI's continuous batching, from OpenVINO's own files or from GGUF.

What GenAI 2026.4 does wrong is kept from callers here: its presence and frequency penalties favour what they should avoid
wherever a logit is negative, so they are not among what this engine honours; and its prefix cache mixes prompts up, which
disguise.py prevents.
"""

from __future__ import annotations

import importlib.metadata
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from openmaas.core.errors import EngineFailed, InvalidInput, OpenMaaSError, Unavailable
from openmaas.core.generation import EngineLoad, GenerationRequest, Generator, Progress
from openmaas.core.hardware import computes_bf16, free_memory
from openmaas.core.manifest import Artifact, EngineChoice, Manifest
from openmaas.engines.base import EngineSpec, GenerationEngine

if TYPE_CHECKING:
    from openmaas.engines.openvino_genai.grammars import Grammars
    from openmaas.engines.openvino_genai.lane import Lane
    from openmaas.engines.openvino_genai.pipeline import PipelineOptions

_PRECISIONS = ("", "f32", "bf16")
_SHARE = 4  # of the free memory, one part of so many is for the cache
_TOKENS = 131_072  # that the cache has room for where memory allows, or one context where that is longer
_LEAST = 4  # blocks, for the check of what was opened
_BESIDE = 128 << 20  # bytes that a second pipeline takes beside its weights
_PATIENCE = 60.0  # seconds that a request waits for a grammar or a pipeline


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """EngineChoice.options. cache_mib: for what sequences remember, 0 for as much as 131,072 tokens or one context take, but a
    quarter of the free memory at most. sequences: that run at a time. part: tokens of a long prompt that a step reads, 64 or
    more; prompts of up to twice as many are read at once. prefix_cache: whether prompts share it. kv_cache: its precision,
    empty for u8."""

    cache_mib: int = 0
    sequences: int = 32
    part: int = 64
    prefix_cache: bool = True
    kv_cache: str = ""


class Early(msgspec.Struct):
    """A request that waits for a grammar to be compiled, or for its pipeline to be opened."""

    request: GenerationRequest
    config: Any
    ready: Future[Any]
    until: float


class OpenVinoGenAiEngine(GenerationEngine):
    """precision: f32, bf16, or empty: bf16 where the machine computes it.

    Requests with a repetition penalty look at the ids of their prompts, which then cannot be in disguise: they run in a second
    pipeline without a prefix cache. It has the weights in memory once more, so each of the two is opened when it is needed
    first; at the start it is the one that the model's own defaults ask for.
    """

    name = "openvino-genai"
    kinds = frozenset({"openvino-genai", "gguf"})
    library = "openvino_genai"
    honours = frozenset({"min_p", "repetition_penalty", "logprobs", "grammar"})

    def __init__(self) -> None:
        self._spec: EngineSpec | None = None
        self._options = Options()
        self._opened: PipelineOptions | None = None
        self._blocks = 0
        self._grammars: Grammars | None = None
        self._tokenizer: Any = None
        self._vocabulary_holds = False
        self._lanes: dict[bool, Lane] = {}
        self._opening: dict[bool, Future[Lane]] = {}
        self._early: list[Early] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="open-pipeline")

    @classmethod
    def choices(cls, artifact: Artifact, manifest: Manifest) -> tuple[EngineChoice, ...]:
        plain = super().choices(artifact, manifest)
        if not computes_bf16() or manifest.generator is None:
            return plain
        return (*plain, *(EngineChoice(engine=cls.name, artifact=choice.artifact, precision="f32") for choice in plain))

    def load(self, spec: EngineSpec) -> None:
        from openmaas.engines.openvino_genai.disguise import BLOCK
        from openmaas.engines.openvino_genai.grammars import Grammars
        from openmaas.engines.openvino_genai.pipeline import PipelineOptions, has_vocabulary
        from openmaas.engines.openvino_genai.room import token_bytes

        choice, generator = spec.chosen, _generator(spec.manifest)
        if choice.precision not in _PRECISIONS:
            raise EngineFailed(f"The precision {choice.precision!r} is not one of f32, bf16.", code="load_failed")
        try:
            options = msgspec.convert(choice.options, Options)
        except msgspec.ValidationError as error:
            raise EngineFailed(f"The engine's options are wrong: {error}.", code="load_failed") from None
        size = token_bytes(spec.entry, options.kv_cache)
        memory = options.cache_mib << 20 or min(free_memory() // _SHARE, size * max(_TOKENS, generator.context))
        self._spec, self._options = spec, options
        self._blocks = min(memory // (size * BLOCK), max(_LEAST, options.sequences * (generator.context // BLOCK + 1)))
        if self._blocks < _LEAST:
            raise EngineFailed(
                f"The cache has {memory >> 10} KiB (cache_mib, or a quarter of the free memory); {_LEAST * BLOCK} tokens, the "
                f"least, take {_LEAST * BLOCK * size >> 10} KiB.",
                code="load_failed",
            )
        self._opened = PipelineOptions(
            threads=max(1, spec.threads),
            step=3 * self._part + options.sequences,
            precision=choice.precision,
            kv_precision=options.kv_cache,
        )
        cached = options.prefix_cache and generator.defaults.get("repetition_penalty", 1.0) == 1.0
        self._keep(cached, self._open(cached))
        if self._vocabulary_holds and has_vocabulary(self._tokenizer):
            self._grammars = Grammars(self._tokenizer, generator.vocabulary)
        else:
            self.honours = self.honours - {"grammar"}  # type: ignore[misc]

    def admit(self, request: GenerationRequest) -> None:
        from openmaas.engines.openvino_genai.sampling import check_ids, generation_config

        assert self._spec is not None
        check_ids(request, _generator(self._spec.manifest).vocabulary)
        self._compiled(request)  # before anything reads the schema
        self._place(request, generation_config(request))

    def cancel(self, request_id: int) -> None:
        self._early = [early for early in self._early if early.request.id != request_id]
        for lane in self._lanes.values():
            lane.cancel(request_id)

    def step(self) -> list[Progress]:
        progresses = self._join_early() if self._early else []
        for lane in list(self._lanes.values()):
            progresses += lane.step()
        return progresses

    def load_now(self) -> EngineLoad:
        loads = [lane.load_now() for lane in self._lanes.values()]
        return EngineLoad(
            running=sum(load.running for load in loads),
            waiting=sum(load.waiting for load in loads) + len(self._early),
            cache=max((load.cache for load in loads), default=0.0),
        )

    @property
    def busy(self) -> bool:
        return bool(self._early) or any(lane.busy for lane in self._lanes.values())

    def describe(self) -> dict[str, str]:
        said = {"library": self.library, "version": importlib.metadata.version("openvino-genai"), "device": "cpu"}
        if self._spec is None or self._opened is None:
            return said
        return {
            **said,
            "threads": str(self._opened.threads),
            "precision": self._opened.computed,
            "weights": _generator(self._spec.manifest).weights,
            "cache_tokens": str(self._blocks * 32),
            "prefix_cache": "on" if self._options.prefix_cache else "off",
        }

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)
        if self._grammars is not None:
            self._grammars.close()

    def _place(self, request: GenerationRequest, config: Any) -> None:
        """Into the pipeline that suits it, or to those who wait for one."""
        cached = self._options.prefix_cache and request.sampling.repetition_penalty == 1.0
        ready = self._compiled(request) or self._lane(cached)
        if ready is not None:
            self._early.append(Early(request, config, ready, time.monotonic() + _PATIENCE))
        else:
            self._lanes[cached].admit(request, config)

    def _compiled(self, request: GenerationRequest) -> Future[None] | None:
        grammar = request.sampling.grammar
        if grammar is None:
            return None
        if self._grammars is None:
            raise InvalidInput("This version cannot hold answers to a JSON schema: OpenVINO GenAI has no vocabulary for it.")
        return self._grammars.compile(grammar)

    def _lane(self, cached: bool) -> Future[Lane] | None:
        if cached in self._lanes:
            return None
        opening = self._opening.pop(cached, None)
        if opening is not None and opening.done() and opening.exception() is None:
            self._keep(cached, opening.result())
            return None
        if opening is None or opening.done():  # those who waited for one that failed were told; this one tries again
            self._require_memory()
            opening = self._thread.submit(self._open, cached)
        self._opening[cached] = opening
        return opening

    def _require_memory(self) -> None:
        """Before the weights are loaded once more. Raises Unavailable: without memory, the library ends the process."""
        assert self._spec is not None
        entry = self._spec.entry
        needed = (entry if entry.suffix == ".gguf" else entry.with_suffix(".bin")).stat().st_size + _BESIDE
        if (free := free_memory()) < needed:
            raise Unavailable(
                f"Requests with a repetition penalty and those without need the weights each for themselves, {needed >> 20} "
                f"MiB with what goes with them; {free >> 20} MiB are free.",
                code="memory_full",
                next_step="Ask for another repetition_penalty (1 for none), or deploy with more --memory.",
            )

    def _keep(self, cached: bool, lane: Lane) -> None:
        if cached and not lane.caches:
            cached, self._options = False, msgspec.structs.replace(self._options, prefix_cache=False)
        self._lanes[cached] = lane

    def _join_early(self) -> list[Progress]:
        if not any(lane.busy for lane in self._lanes.values()):
            wait([early.ready for early in self._early], timeout=0.05, return_when=FIRST_COMPLETED)
        progresses = []
        waiting, self._early = self._early, []
        for early in waiting:
            try:
                if early.ready.done():
                    early.ready.result()
                    self._place(early.request, early.config)
                elif time.monotonic() < early.until:
                    self._early.append(early)
                else:
                    raise Unavailable(
                        f"The request could not begin within {_PATIENCE:g} s: JSON schemas are being compiled, or a second "
                        "pipeline is being opened for requests with a repetition penalty.",
                        retry_after=30.0,
                    )
            except OpenMaaSError as error:
                progresses.append(Progress(id=early.request.id, tokens=[], error=error))
        return progresses

    @property
    def _part(self) -> int:
        return max(2 * 32, self._options.part)

    def _open(self, cached: bool) -> Lane:
        from openmaas.engines.openvino_genai.disguise import Disguise
        from openmaas.engines.openvino_genai.lane import Lane
        from openmaas.engines.openvino_genai.pipeline import open_pipeline, takes_disguise

        assert self._spec is not None and self._opened is not None
        vocabulary = _generator(self._spec.manifest).vocabulary
        open_one = partial(open_pipeline, self._spec.entry, self._opened, blocks=self._blocks, tokenizer=self._tokenizer)
        pipeline = open_one(prefix_cache=cached)
        self._vocabulary_holds = takes_disguise(pipeline, vocabulary)  # and the first caller does not pay for the first answer
        if cached and not self._vocabulary_holds:
            cached = False
            del pipeline
            pipeline = open_one(prefix_cache=False)
        self._tokenizer = self._tokenizer or pipeline.get_tokenizer()
        disguise = Disguise(vocabulary) if cached else None
        return Lane(pipeline, blocks=self._blocks, slots=self._options.sequences, part=self._part, disguise=disguise)


def _generator(manifest: Manifest) -> Generator:
    if manifest.generator is None:
        raise EngineFailed("The version does not say that it generates text (manifest.generator).", code="load_failed")
    return manifest.generator

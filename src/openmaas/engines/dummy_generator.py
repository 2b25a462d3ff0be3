"""The fake that generates: continuous batching without a model, whose behaviour is written in the manifest's options.

By default an answer is the prompt's own tokens round and round, without those that would end it, until max_tokens. Where the
temperature is not 0 it begins at the place that the seed says.

text            token ids that every answer consists of instead, and then the first of the request's end ids
token_delay     seconds that each step takes (time.sleep, as a real engine that has released the interpreter's lock)
prefill_delay   seconds that a step takes for each token of a prompt that begins in it and that no cached prefix gave
burst           tokens that one step gives each request (default 1), as engines that speculate have it
slots           requests that run at a time (default 256); others wait inside the engine
cache_tokens    tokens, of prompts and answers, that those which run may have together; one that needs more is refused
fail_at         the step that would give a request so many tokens raises
exit_at         it ends the process at once, as a segmentation fault would
hang_at         it never returns
honours         names, in place of everything that GenerationEngine.honours may hold
fail_load       load raises with this text
load_delay      seconds that loading takes
"""

from __future__ import annotations

import os
import time
from collections import deque
from typing import Any, Final

from openmaas.core.errors import EngineFailed, Unavailable
from openmaas.core.generation import EngineLoad, GenerationRequest, Progress, TokenLogprob
from openmaas.engines.base import EngineSpec, GenerationEngine

_ALL: Final = frozenset(
    {
        "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty", "logprobs", "top_logprobs", "grammar",
    }
)  # fmt: skip
_LOGPROB: Final = -0.25


class _Running:
    """A request that has its place, and where its answer stands."""

    __slots__ = ("answer", "given", "request", "start")

    def __init__(self, request: GenerationRequest, text: list[int]) -> None:
        self.request = request
        end = request.end
        self.answer = text or [token for token in request.prompt if token not in end] or [0]
        self.start = request.sampling.seed % len(self.answer) if request.sampling.temperature and not text else 0
        if text and end:
            self.answer = [*text, end[0]]
        self.given = 0

    def next(self) -> int:
        answer = self.answer
        token = answer[(self.start + self.given) % len(answer)]
        self.given += 1
        return token


class DummyGenerator(GenerationEngine):
    name = "dummy-generator"
    kinds = frozenset({"dummy-generator"})
    honours = _ALL

    def __init__(self) -> None:
        self._options: dict[str, Any] = {}
        self._waiting: deque[GenerationRequest] = deque()
        self._running: dict[int, _Running] = {}
        self._used = 0
        self._seen: dict[str, list[int]] = {}

    def load(self, spec: EngineSpec) -> None:
        options = self._options = spec.manifest.options | spec.chosen.options
        if "honours" in options:
            self.honours = frozenset(options["honours"])  # type: ignore[misc]  # real ones honour the same whatever they run
        time.sleep(float(options.get("load_delay", 0)))
        if reason := options.get("fail_load"):
            raise EngineFailed(str(reason))
        self._text = [int(token) for token in options.get("text", ())]
        self._delay = float(options.get("token_delay", 0))
        self._prefill_delay = float(options.get("prefill_delay", 0))
        self._burst = int(options.get("burst", 1))
        self._slots = int(options.get("slots", 256))
        self._cache = int(options.get("cache_tokens", 1 << 30))
        self._trouble = min((int(options[name]) for name in ("fail_at", "exit_at", "hang_at") if name in options), default=0)

    def admit(self, request: GenerationRequest) -> None:
        if _size(request) > self._cache:
            raise Unavailable(
                f"Prompt and answer need {_size(request)} tokens of cache; it holds {self._cache} (cache_tokens).",
                code="cache_too_small",
            )
        self._waiting.append(request)

    def cancel(self, request_id: int) -> None:
        running = self._running.pop(request_id, None)
        if running is not None:
            self._used -= _size(running.request)
        else:
            self._waiting = deque(request for request in self._waiting if request.id != request_id)

    def step(self) -> list[Progress]:
        cached: dict[int, int] = {}
        delay = self._delay
        while self._waiting and len(self._running) < self._slots and self._used + _size(self._waiting[0]) <= self._cache:
            request = self._waiting.popleft()
            cached[request.id] = shared = self._prefix(request)
            delay += self._prefill_delay * (len(request.prompt) - shared)
            self._used += _size(request)
            self._running[request.id] = _Running(request, self._text)
        time.sleep(delay)
        return [self._advance(running, cached) for running in tuple(self._running.values())]

    def _prefix(self, request: GenerationRequest) -> int:
        """Tokens of the prompt that the last one of the same salt began with too; the last token is always computed."""
        before, prompt = self._seen.get(request.salt, []), request.prompt
        self._seen[request.salt] = prompt
        most = min(len(before), len(prompt) - 1)
        return next((place for place in range(most) if before[place] != prompt[place]), most)

    def _advance(self, running: _Running, cached: dict[int, int]) -> Progress:
        request = running.request
        progress = Progress(request.id, [], cached=cached.get(request.id, -1))
        tokens = progress.tokens
        for _ in range(self._burst):
            token = running.next()
            if self._trouble and running.given >= self._trouble:
                self._misbehave(request)
            tokens.append(token)
            if token in request.end:
                progress.finish = "stop"
            elif running.given >= request.max_tokens:
                progress.finish = "length"
            if progress.finish:
                del self._running[request.id]
                self._used -= _size(request)
                break
        if request.sampling.logprobs >= 0:
            progress.logprobs = [_logprob(token, request.sampling.logprobs) for token in tokens]
        return progress

    def _misbehave(self, request: GenerationRequest) -> None:
        if "exit_at" in self._options:
            os._exit(139)
        while "hang_at" in self._options:
            time.sleep(1)
        raise RuntimeError(f"the dummy fails at token {self._trouble} of request {request.id}")

    def load_now(self) -> EngineLoad:
        return EngineLoad(len(self._running), len(self._waiting), self._used / self._cache)

    @property
    def busy(self) -> bool:
        return bool(self._running or self._waiting)

    def describe(self) -> dict[str, str]:
        return {"library": "openmaas.dummy", "device": "cpu"}


def _size(request: GenerationRequest) -> int:
    return len(request.prompt) + request.max_tokens


def _logprob(token: int, top: int) -> TokenLogprob:
    """The chosen one as the likeliest, the ids before it each half as likely as the one after them, in logarithms."""
    return TokenLogprob(_LOGPROB, tuple((max(0, token - place), _LOGPROB * 2**place) for place in range(top)))

"""Which sequences a step reads, how much of each, and what becomes of them."""

from __future__ import annotations

import time
from collections import deque

import msgspec

from openmaas.core.errors import EngineFailed, InvalidInput, Unavailable
from openmaas.core.generation import EngineLoad, GenerationRequest, Progress, TokenLogprob
from openmaas.engines.transformers.cache import Held, Memory, Prefixes, Segment
from openmaas.engines.transformers.model import Decoder
from openmaas.engines.transformers.sampler import Chooser

_STEP_SECONDS = 0.25  # that a step with new prompts should take: so long the others wait, and a cancellation too
_PART = 32  # tokens of a prompt that a step reads at least, and a power of two times this at most


class _Running(msgspec.Struct, eq=False):
    """tokens: prompt and answer so far. cached: prompt tokens that another sequence's memory gave."""

    request: GenerationRequest
    tokens: list[int]
    chooser: Chooser
    memory: Memory
    cached: int = 0

    @property
    def todo(self) -> int:
        """Tokens that the model has not read: one while it answers."""
        return len(self.tokens) - self.memory.length


class Schedule:
    """Sequences that answer come first, one token each; what a step has room for besides are parts of prompts, the oldest
    first. Where the cache is full, the youngest waits again and is read anew later: its answer does not change by that."""

    def __init__(self, decoder: Decoder, *, tokens: int, sequences: int, longest_part: int = 512) -> None:
        """tokens: of the cache. sequences: that run at a time. longest_part: tokens of prompts that a step reads at most."""
        self._decoder = decoder
        self._budget = decoder.budget(tokens)
        self._most = sequences
        self._waiting: deque[_Running] = deque()
        self._running: list[_Running] = []
        self._prefixes = Prefixes()
        self._longest_part = longest_part
        self._part = min(4 * _PART, longest_part)

    def admit(self, request: GenerationRequest) -> None:
        length, reach = len(request.prompt) + request.max_tokens, self._decoder.reach
        if length > self._budget.total:
            raise Unavailable(
                f"Prompt and answer may have {length} tokens together, and the engine's cache holds {self._budget.total}.",
                code="cache_too_small",
                next_step="Ask for fewer tokens, or serve where there is more memory.",
            )
        if reach and length > reach:
            raise InvalidInput(
                f"Prompt and answer may have {length} tokens together; beyond {reach} this engine cannot place them, because "
                "the model stretches its positions by the longest sequence in sight.",
                next_step="Ask for fewer tokens, or serve the model converted.",
            )
        if not 0 <= min(request.prompt) <= max(request.prompt) < self._decoder.vocabulary:
            raise InvalidInput(f"A token of the prompt is not between 0 and {self._decoder.vocabulary - 1}.")
        chooser = Chooser(request.sampling, request.prompt)
        self._waiting.append(_Running(request, list(request.prompt), chooser, self._budget.memory()))

    def cancel(self, request_id: int) -> None:
        for sequence in (*self._running, *self._waiting):
            if sequence.request.id == request_id:
                self._end(sequence)

    @property
    def busy(self) -> bool:
        return bool(self._running or self._waiting)

    def load_now(self) -> EngineLoad:
        used = self._budget.taken - self._prefixes.room
        return EngineLoad(running=len(self._running), waiting=len(self._waiting), cache=used / self._budget.total)

    def step(self) -> list[Progress]:
        batch = self._batch()
        if not batch:
            return []
        began = time.perf_counter()
        segments = [Segment(one.tokens[one.memory.length : one.memory.length + count], one.memory) for one, count in batch]
        wanted = [index for index, (one, count) in enumerate(batch) if count == one.todo]
        logits = self._decoder.read(segments, wanted)
        answering = [batch[index][0] for index in wanted]
        chosen = self._decoder.choose(logits, [one.chooser for one in answering])
        told = [self._answer(one, *choice) for one, choice in zip(answering, chosen, strict=True)]
        self._pace(sum(count for _, count in batch if count > 1), time.perf_counter() - began)
        return told

    def _batch(self) -> list[tuple[_Running, int]]:
        """Sequences that have room for the tokens that they read now, and how many these are."""
        batch: list[tuple[_Running, int]] = []
        left, before = self._part, len(self._running)
        for sequence in [*self._running]:
            if sequence not in self._running:
                continue  # it gave way to an older one
            count = min(sequence.todo, max(left, 0)) if sequence.todo > 1 else 1
            if count and self._grow(sequence, sequence.memory.length + count):
                batch.append((sequence, count))
                left -= count if sequence.todo > 1 else 0
        if len(self._running) < before:
            return batch  # whoever gave way would only take the room again
        while left > 0 and self._waiting and len(self._running) < self._most and self._start(self._waiting[0]):
            sequence = self._running[-1]
            batch.append((sequence, min(sequence.todo, left)))
            left -= batch[-1][1]
        return batch

    def _start(self, sequence: _Running) -> bool:
        """Run the first that waits, with what is remembered of its prompt; False where the cache has no room for all of it."""
        memory, shared = self._remembered(sequence)
        while not sequence.memory.reserve(len(sequence.tokens)):
            if not self._prefixes.forget():
                return False
        if memory is not None and memory.length >= shared:  # else it was forgotten just now, to make the room
            sequence.memory.copy_from(memory, shared)
        if len(sequence.tokens) == len(sequence.request.prompt):
            sequence.cached = sequence.memory.length
        self._running.append(self._waiting.popleft())
        return True

    def _remembered(self, sequence: _Running) -> tuple[Memory | None, int]:
        """The memory that begins as the sequence does, and for how many tokens; its last token must be read in any case."""
        running = [Held(one.request.salt, one.tokens, one.memory) for one in self._running]
        begin = sequence.tokens[:-1]
        found = [(held.alike(sequence.request.salt, begin), held) for held in (*running, *self._prefixes)]
        shared, best = max(found, key=lambda pair: pair[0], default=(0, None))
        if best is None or not shared:
            return None, 0
        self._prefixes.touch(best)
        return best.memory, shared

    def _grow(self, sequence: _Running, length: int) -> bool:
        """Room for so many tokens of a sequence that runs; False where it gave way itself."""
        while not sequence.memory.reserve(length):
            if self._prefixes.forget():
                continue
            youngest = self._running.pop()
            youngest.memory.free()
            self._waiting.appendleft(youngest)
            if youngest is sequence:
                return False
        return True

    def _answer(self, sequence: _Running, token: int, known: TokenLogprob | None) -> Progress:
        request = sequence.request
        cached = sequence.cached if len(sequence.tokens) == len(request.prompt) else -1
        if token < 0:
            sequence.memory.free()  # what it holds is no good beginning for another
            self._end(sequence)
            error = EngineFailed("The model's logits are not finite numbers.")
            return Progress(id=request.id, tokens=[], error=error, cached=cached)
        sequence.tokens.append(token)
        progress = Progress(id=request.id, tokens=[token], logprobs=None if known is None else [known], cached=cached)
        if token in request.end:
            progress.finish = "stop"
        elif len(sequence.tokens) == len(request.prompt) + request.max_tokens:
            progress.finish = "length"
        if progress.finish:
            self._end(sequence)
        return progress

    def _end(self, sequence: _Running) -> None:
        (self._running if sequence in self._running else self._waiting).remove(sequence)
        self._prefixes.keep(Held(sequence.request.salt, sequence.tokens, sequence.memory))

    def _pace(self, read: int, seconds: float) -> None:
        """Read smaller parts of prompts where a step took too long, and larger ones where one took little."""
        if seconds > _STEP_SECONDS and read > _PART:
            self._part = max(_PART, self._part // 2)
        elif seconds < _STEP_SECONDS / 4 and read >= self._part:
            self._part = min(self._longest_part, self._part * 2)

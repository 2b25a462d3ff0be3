"""What the engine is asked for: sampling with the model's own defaults, room in the context, and what cannot be done."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from openmaas.core.errors import InvalidInput
from openmaas.core.generation import GenerationRequest, Generator, Grammar, Sampling
from openmaas.protocols.generation import Ask

MAX_TOKENS: Final = 1 << 20
"""That all answers of one request may have together."""
DEFAULT_TOKENS: Final = 4096
"""Of an answer whose request sets no max_tokens, where the context has room for them."""

_NEUTRAL: Final = {"min_p": 0.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "repetition_penalty": 1.0}
_ALWAYS: Final = ("temperature", "top_p", "top_k")


class Planner:
    """Makes an engine's requests of what callers ask for. engine: its name, and honours what it can do."""

    def __init__(self, generator: Generator, engine: str, honours: frozenset[str]) -> None:
        self._generator = generator
        self._engine = engine
        self._honours = honours
        names = [name for name in (*_ALWAYS, *_NEUTRAL) if name in _ALWAYS or name in honours]
        self.defaults: Mapping[str, float] = {name: generator.defaults[name] for name in names if name in generator.defaults}

    def check(self, ask: Ask) -> None:
        """Raise InvalidInput for what this engine or this version cannot do, before any work."""
        honours = self._honours
        for name, neutral in _NEUTRAL.items():
            if name not in honours and getattr(ask, name) not in (None, neutral):
                raise self._unable(name)
        if ask.logprobs >= 0 and "logprobs" not in honours:
            raise self._unable("logprobs")
        if ask.logprobs > 0 and "top_logprobs" not in honours:
            raise self._unable("top_logprobs" if "top_logprobs" in ask.given else "logprobs")
        if "grammar" not in honours:
            if ask.schema is not None:
                raise self._unable("text" if "text" in ask.given else "response_format")
            if ask.tools and ask.tool_choice not in ("auto", "none"):
                raise self._unable("tool_choice")

    def plan(
        self, ask: Ask, prompts: Sequence[list[int]], ids: Iterator[int], salt: str, grammar: Grammar | None
    ) -> list[GenerationRequest]:
        """Of each prompt n requests, whose seeds are seed, seed + 1 … Raises InvalidInput where the context is too small."""
        lengths = [self._length(ask, prompt) for prompt in prompts]
        if (total := ask.n * sum(lengths)) > MAX_TOKENS:
            raise InvalidInput(
                f"All answers together may have {total} tokens (n times max_tokens); a request may ask for {MAX_TOKENS}.",
                next_step="Lower n or max_tokens.",
                param="max_tokens",
            )
        if (told := total * (1 + ask.logprobs)) > MAX_TOKENS:
            raise InvalidInput(
                f"All answers together may have {total} tokens with {ask.logprobs} probabilities beside each of them; a "
                f"request may ask for {MAX_TOKENS}, and this comes to {told}.",
                next_step="Lower n, max_tokens, or the number of probabilities.",
                param="max_tokens",
            )
        seed = random.getrandbits(32) if ask.seed is None else ask.seed
        samplings = [self._sampling(ask, (seed + number) % 2**63, grammar) for number in range(ask.n)]
        return [
            GenerationRequest(
                id=next(ids), prompt=prompt, max_tokens=length, end=self._generator.end, sampling=sampling, salt=salt
            )
            for prompt, length in zip(prompts, lengths, strict=True)
            for sampling in samplings
        ]

    def _length(self, ask: Ask, prompt: list[int]) -> int:
        """Tokens that the answer to a prompt may have."""
        context, vocabulary = self._generator.context, self._generator.vocabulary
        if not prompt:
            raise InvalidInput("The prompt is empty: it has not a single token.", code="empty_prompt")
        left = context - len(prompt)
        length = min(max(1, left), DEFAULT_TOKENS) if ask.max_tokens is None else ask.max_tokens
        if length > left:
            raise InvalidInput(
                f"The model's context is {context} tokens. The prompt has {len(prompt)} and its answer may have {length}, "
                f"together {len(prompt) + length}.",
                code="context_length_exceeded",
                next_step=f"Ask for at most {left} tokens (max_tokens), or shorten the prompt."
                if left > 0
                else f"Shorten the prompt to less than {context} tokens.",
                param="prompt" if ask.messages is None else "messages",
            )
        if min(prompt) < 0 or max(prompt) >= vocabulary:
            wrong = next(token for token in prompt if not 0 <= token < vocabulary)
            raise InvalidInput(f"{wrong} is no token id of this model: it has {vocabulary}, from 0.", code="invalid_token")
        return length

    def _sampling(self, ask: Ask, seed: int, grammar: Grammar | None) -> Sampling:
        chosen: dict[str, Any] = dict(self.defaults)
        for name in (*_ALWAYS, *_NEUTRAL):
            if (value := getattr(ask, name)) is not None:
                chosen[name] = value
        if "top_k" in chosen:
            chosen["top_k"] = int(chosen["top_k"])
        return Sampling(seed=seed, logprobs=ask.logprobs, grammar=grammar, **chosen)

    def _unable(self, name: str) -> InvalidInput:
        return InvalidInput(
            f"The engine {self._engine} cannot do {name!r}.",
            code="parameter_not_supported",
            next_step="Ask without it, or deploy with another --engine.",
            param=name,
        )

    @property
    def ignored(self) -> dict[str, float]:
        """Defaults of the model's own files that this engine cannot follow."""
        return {name: value for name, value in self._generator.defaults.items() if name not in self.defaults}

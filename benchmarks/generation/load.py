"""The load of a visit: streams side by side, one long prompt, and short calls beside a long one. All prompts differ."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from benchmarks.generation.stream import Stream, ask

PROMPT, ANSWER = 256, 96
"""Tokens of a stream's prompt, about, and of its answer."""
LONG = 2048
SHORT = 32
_WORDS = (
    "def", "class", "return", "import", "from", "yield", "while", "lambda", "module", "string", "number", "value", "index",
    "thread", "process", "socket", "buffer", "stream", "object", "method", "argument", "default", "iterator", "exception",
    "handler", "parser", "reader", "writer", "token", "queue", "event", "future", "result", "file", "path",
)  # fmt: skip


@dataclass(frozen=True)
class Endpoint:
    """Where a model is asked, and how."""

    url: str
    model: str
    headers: Mapping[str, str] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)
    """Of each request's body."""

    def body(self, prompt: str, tokens: int) -> dict[str, Any]:
        messages = [{"role": "user", "content": prompt}]
        stream = {"stream": True, "stream_options": {"include_usage": True}}
        return {"model": self.model, "messages": messages, "max_tokens": tokens, "temperature": 0, **stream, **self.more}


@dataclass(frozen=True)
class Level:
    """So many streams side by side. decode: tokens a second of all together, while all of them were being answered."""

    streams: int
    decode: float
    first: float
    """Median seconds to the first token."""
    tokens: int
    """Answered in all."""


@dataclass(frozen=True)
class Reading:
    """What one visit measured. prefill: tokens a second of a long prompt. idle and beside: seconds to the first token of a
    short call, alone and while a long prompt is being read."""

    levels: list[Level]
    prefill: float
    idle: float
    beside: float


class Prompts:
    """Texts of about so many tokens, never the same twice, the same ones for every server."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def text(self, tokens: int) -> str:
        count = max(1, tokens // 2)  # the model's tokenizer makes two of each: the word and the digit
        return " ".join(f"{self._random.choice(_WORDS)}{self._random.randrange(10)}" for _ in range(count))


async def measure(endpoint: Endpoint, levels: Sequence[int], seed: int, tell: Callable[[str], None]) -> Reading:
    """All of the load, after a warm-up."""
    prompts = Prompts(seed)
    tell("warming")
    await _ask(endpoint, prompts.text(PROMPT), 8)
    await asyncio.gather(*(_ask(endpoint, prompts.text(SHORT), 16) for _ in range(max(levels))))
    found = []
    for streams in levels:
        tell(f"{streams} streams")
        found.append(await _level(endpoint, prompts, streams))
    tell("a long prompt")
    long = [await _ask(endpoint, prompts.text(LONG), 1) for _ in range(2)]
    tell("short calls beside a long prompt")
    idle = [(await _ask(endpoint, prompts.text(SHORT), 2)).first for _ in range(7)]
    return Reading(
        found, median((one.prompt or LONG) / one.first for one in long), median(idle), await _beside(endpoint, prompts)
    )


async def _level(endpoint: Endpoint, prompts: Prompts, streams: int) -> Level:
    texts = [prompts.text(PROMPT) for _ in range(streams)]
    answered = await asyncio.gather(*(_ask(endpoint, text, ANSWER) for text in texts))
    return Level(
        streams=streams,
        decode=decode_rate([one.arrivals for one in answered], [one.completion for one in answered]),
        first=median(one.first for one in answered),
        tokens=sum(one.completion for one in answered),
    )


def decode_rate(arrivals: Sequence[Sequence[float]], tokens: Sequence[int]) -> float:
    """Tokens a second of all streams together, from when the last had begun until the first had ended; from the first piece
    to the last where they are answered one after the other.

    A piece may hold several tokens, or none of its own where a character takes several: a stream's pieces share its tokens.
    """
    begin, end = max(times[0] for times in arrivals), min(times[-1] for times in arrivals)
    if end <= begin:
        return sum(tokens) / (max(times[-1] for times in arrivals) - min(times[0] for times in arrivals))
    inside = sum(
        count * sum(begin < moment <= end for moment in times) / len(times)
        for times, count in zip(arrivals, tokens, strict=True)
    )
    return inside / (end - begin)


async def _beside(endpoint: Endpoint, prompts: Prompts) -> float:
    """Median seconds to the first token of short calls, one after the other, while a long prompt is being read."""
    found = []
    for _ in range(2):
        begun = time.perf_counter()
        long = asyncio.create_task(_ask(endpoint, prompts.text(LONG), 1))
        await asyncio.sleep(0.15)
        while not long.done() and time.perf_counter() - begun < 60:
            first = (await _ask(endpoint, prompts.text(SHORT), 2)).first
            if not long.done() or not found:  # the last began beside it, and ended alone
                found.append(first)
        await long
    return median(found)


async def _ask(endpoint: Endpoint, prompt: str, tokens: int) -> Stream:
    return await ask(endpoint.url, endpoint.headers, endpoint.body(prompt, tokens))

"""Whatever callers and the engine do, every request ends exactly once and nothing is left behind."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from typing import Any

import pytest

from openmaas.core.errors import OpenMaaSError
from openmaas.core.generation import GenerationRequest, Progress
from openmaas.engines.dummy_generator import DummyGenerator
from tests.unit.replica.generation.writer import Writer, head, ids, writer

REQUESTS = 120


class Counting(DummyGenerator):
    """Counts what it gives, refuses some, and breaks at a step where it is told to."""

    def __init__(self, breaks_at: int) -> None:
        super().__init__()
        self.given = 0
        self.admitted: set[int] = set()
        self._left = breaks_at

    def admit(self, request: GenerationRequest) -> None:
        assert request.id not in self.admitted
        self.admitted.add(request.id)
        if request.max_tokens == 13:
            raise ValueError("unlucky")
        super().admit(request)

    def step(self) -> list[Progress]:
        self._left -= 1
        if not self._left:
            raise RuntimeError("broke")
        progress = super().step()
        self.given += sum(len(one.tokens) for one in progress)
        return progress


class Caller:
    """One call that is perhaps given up; ends: what came, "answer", "end" or an error's code; sizes of what was read."""

    def __init__(self, one: Writer, chance: random.Random) -> None:
        self.ends: list[str] = []
        self.chunks = 0
        self.cancelled = False
        self._link = one.link
        stream = chance.random() < 0.5
        content: dict[str, Any] = {
            "model": "w", "stream": stream, "prompt": "abc" * chance.randint(1, 5), "max_tokens": chance.randint(1, 40),
            "n": chance.randint(1, 4),
        }  # fmt: skip
        if chance.random() < 0.3:
            content["stop"] = chance.choice(["ca", "bcab", "zz"])
        if chance.random() < 0.1:
            content["min_p"] = 7  # refused
        timeout = chance.choice([0.02, 0.2, 10.0, 10.0])
        self._id = one.link.start(head("completions", timeout), json.dumps(content).encode(), self._end, self._chunk)

    def _end(self, header: bytes, payload: bytes, error: OpenMaaSError | None) -> None:
        self.ends.append(error.code if error is not None else "answer" if payload else "end")

    def _chunk(self, header: bytes, payload: bytes) -> None:
        assert not self.ends
        assert bool(header) == (self.chunks == 0)
        self.chunks += 1

    def leave(self) -> None:
        self.cancelled |= self._link.cancel(self._id)


@pytest.mark.parametrize("breaks_at", [0, 60])
@pytest.mark.parametrize("seed", range(3))
async def test_every_request_ends_once(seed: int, breaks_at: int) -> None:
    chance = random.Random(seed)
    engine = Counting(breaks_at)
    async with writer(engine, token_delay=0.001, burst=chance.randint(1, 3), slots=6, max_batch=8, max_queue=20) as one:
        callers: list[Caller] = []
        for _ in range(REQUESTS):
            callers.append(Caller(one, chance))
            if chance.random() < 0.3:
                chance.choice(callers).leave()
            await asyncio.sleep(chance.choice([0, 0, 0.001, 0.006]))
        await one.until(lambda: all(caller.ends or caller.cancelled for caller in callers))
        await one.until(lambda: not one.server.in_flight)
        ends = Counter(end for caller in callers for end in caller.ends)
        assert all(len(caller.ends) + caller.cancelled == 1 for caller in callers)
        assert ends["answer"] > 0
        assert ends["end"] > 0
        assert len(one.broken) == (1 if breaks_at else 0)
        if not breaks_at:
            await one.until(lambda: not engine.busy)
            await asyncio.sleep(0.01)
            statistics = (await one.statistics())["generation"]
            assert statistics["generation_tokens"] == engine.given
            assert (statistics["running"], statistics["waiting"]) == (0, 0)
            assert statistics["finished"]["cancelled"] > 0
            assert await one.text("still", max_tokens=5) == "still"


async def test_usage_is_what_the_engine_gave() -> None:
    chance = random.Random(7)
    engine = Counting(0)
    async with writer(engine, text=ids("one two three four five")) as one:
        asked = [(chance.randint(1, 30), chance.randint(1, 3), chance.choice([None, "two", "e f"])) for _ in range(40)]
        asked = [(most + (most == 13), n, stop) for most, n, stop in asked]
        answers = await asyncio.gather(*(one.complete("ab", max_tokens=most, n=n, stop=stop) for most, n, stop in asked))
        assert sum(answer["usage"]["prompt_tokens"] for answer in answers) == 2 * len(asked)
        by_usage = sum(answer["usage"]["completion_tokens"] for answer in answers)
        statistics = (await one.statistics())["generation"]
        assert statistics["prompt_tokens"] == 2 * len(asked)
        assert by_usage <= engine.given == statistics["generation_tokens"]
        without_stop = [answer for answer, (_, _, stop) in zip(answers, asked, strict=True) if stop is None]
        for answer in without_stop:
            read = sum(len(choice["text"]) + (choice["finish_reason"] == "stop") for choice in answer["choices"])
            assert answer["usage"]["completion_tokens"] == read

"""A bounded load: a few callers in a closed loop, none of which retries, each outcome kept."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx


@dataclass
class Outcome:
    """One request: its status (0 where the connection broke), what came, when and how long it took (seconds)."""

    status: int
    body: Any
    at: float
    seconds: float
    headers: dict[str, str] = field(default_factory=dict)


class Load:
    """`with Load(server, "name") as load:` … calls until the block ends, or `seconds` are over, or `limit` requests were made.

    factor: what the answer must be the input times of; a wrong answer is kept as status -1.
    """

    def __init__(
        self, server: Any, deployment: str, *, callers: int = 8, seconds: float = 60, limit: int = 100_000, factor: float = 1.0
    ) -> None:
        self._url = f"{server.gateway}/v2/models/{deployment}/infer"
        self._key = server.key
        self._callers = callers
        self._until = time.monotonic() + seconds
        self._left = limit
        self._factor = factor
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self.outcomes: list[Outcome] = []

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(120)
        assert not self._thread.is_alive(), "a request has no end"
        slowest = max((outcome.seconds for outcome in self.outcomes), default=0.0)
        print(f"{self._url}: {len(self.outcomes)} requests, by status {dict(self.statuses())}, slowest {slowest:.2f} s")

    def statuses(self) -> Counter[int]:
        return Counter(outcome.status for outcome in self.outcomes)

    def failures(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.status != 200]

    def wait_for(self, count: int, seconds: float = 60) -> None:
        """Until so many more requests have ended."""
        goal, until = len(self.outcomes) + count, time.monotonic() + seconds
        while len(self.outcomes) < goal:
            assert time.monotonic() < until, f"only {len(self.outcomes)} of {goal} requests ended: {self.statuses()}"
            time.sleep(0.02)

    async def _run(self) -> None:
        limits = httpx.Limits(max_connections=self._callers)
        headers = {"authorization": f"Bearer {self._key}"}
        async with httpx.AsyncClient(limits=limits, headers=headers, timeout=60, trust_env=False) as client:
            await asyncio.gather(*(self._call(client, number) for number in range(self._callers)))

    async def _call(self, client: httpx.AsyncClient, number: int) -> None:
        value = float(number + 1)
        while not self._stop.is_set() and time.monotonic() < self._until and self._left > 0:
            self._left -= 1
            self.outcomes.append(await one(client, self._url, value, self._factor))


async def one(client: httpx.AsyncClient, url: str, value: float, factor: float = 1.0) -> Outcome:
    started = time.monotonic()
    body = {"inputs": [{"name": "X", "shape": [1, 2], "datatype": "FP32", "data": [value, value]}]}
    try:
        answer = await client.post(url, json=body)
    except httpx.HTTPError as error:
        return Outcome(0, repr(error), started, time.monotonic() - started)
    seconds = time.monotonic() - started
    told = answer.json()
    status = answer.status_code
    if status == 200 and told["outputs"][0]["data"] != [value * factor, value * factor]:
        status = -1
    return Outcome(status, told, started, seconds, dict(answer.headers))

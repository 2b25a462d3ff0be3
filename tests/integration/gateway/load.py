"""Steady load on a gateway from a few connections, each answer checked."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.integration.gateway.plane import Plane, infer_body


@dataclass
class Load:
    """What became of the requests: statuses, versions that answered, and everything that was not the right answer."""

    statuses: Counter[int] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    slowest: float = 0.0
    reconnects: int = 0

    @property
    def count(self) -> int:
        return sum(self.statuses.values())


class Loading:
    """Clients in a thread of their own while the test does its harm. `stop` ends them and tells what they saw."""

    def __init__(self, plane: Plane, *, clients: int = 8, path: str = "/v2/models/m/infer", pause: float = 0.002) -> None:
        self._plane = plane
        self._clients = clients
        self._path = path
        self._pause = pause
        self._stop = threading.Event()
        self.load = Load()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="load")

    def __enter__(self) -> Loading:
        self._thread.start()
        self.wait_for(20)
        return self

    def __exit__(self, *_: Any) -> None:
        self.stop()

    def wait_for(self, more: int, seconds: float = 60.0) -> None:
        """Until so many more requests have ended."""
        goal, until = self.load.count + more, time.monotonic() + seconds
        while self.load.count < goal:
            assert time.monotonic() < until, f"{self.load.count} of {goal} requests ended"
            time.sleep(0.005)

    def stop(self) -> Load:
        self._stop.set()
        self._thread.join(90)
        assert not self._thread.is_alive(), "a request has no end"
        return self.load

    async def _run(self) -> None:
        limits = httpx.Limits(max_connections=self._clients)
        async with httpx.AsyncClient(
            base_url=self._plane.url, headers=self._plane.headers, timeout=60, limits=limits, trust_env=False
        ) as client:
            await asyncio.gather(*(self._client(client, float(n + 1)) for n in range(self._clients)))

    async def _client(self, client: httpx.AsyncClient, value: float) -> None:
        body = infer_body([value, value + 0.5])
        while not self._stop.is_set():
            begun = time.monotonic()
            try:
                answer = await client.post(self._path, content=body)
            except httpx.HTTPError as error:
                self.load.statuses[0] += 1
                self.load.wrong.append(f"{type(error).__name__} {error}")
                continue
            self.load.slowest = max(self.load.slowest, time.monotonic() - begun)
            self.load.statuses[answer.status_code] += 1
            if answer.status_code != 200:
                self.load.wrong.append(f"{answer.status_code} {answer.text}")
            else:
                said = answer.json()
                self.load.versions[said["model_version"]] += 1
                if said["outputs"][0]["data"] != [value * 2, value * 2 + 1]:
                    self.load.wrong.append(answer.text)
            await asyncio.sleep(self._pause)

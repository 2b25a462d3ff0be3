"""Look after one start of a child: wait until it is ready, then see that it goes on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus

import msgspec

from openmaas.core.contracts import Cause, Health
from openmaas.core.errors import LinkLost
from openmaas.core.link import Link, connect
from openmaas.core.settings import Settings
from openmaas.fleet.http import status_of
from openmaas.fleet.keeper import Watched, first_of
from openmaas.fleet.memory import resident

_FIRST_LOOK = 0.01
_LONGEST_LOOK = 0.1
_UNPROVEN_PING = 0.1  # a start that has not made progress yet is asked more often: it may end before the next second
_PING = 1.0
_MEMORY_LOOK = 0.5
_PATIENCE = 2.0
_SILENT = 3
PROVEN = 10.0
"""Seconds of being ready that count as progress."""


class Looks:
    """Pauses between looks at a child that starts: short at first, never long."""

    def __init__(self) -> None:
        self._pause = _FIRST_LOOK

    async def pause(self) -> None:
        await asyncio.sleep(self._pause)
        self._pause = min(self._pause * 1.2, _LONGEST_LOOK)


@dataclass
class ReplicaWatch:
    """Pings a replica over its link. memory: the most resident bytes that it may hold, None for no limit."""

    address: str
    memory: int | None
    settings: Settings
    clock: Callable[[], float] | None = None
    _link: Link | None = None

    async def __call__(self, run: Watched) -> Cause:
        try:
            cause = await first_of(self._watch_memory(run), self._watch_life(run))
            assert isinstance(cause, Cause)
            return cause
        finally:
            if self._link is not None:
                self._link.abort()
                self._link = None

    async def _watch_memory(self, run: Watched) -> Cause:
        while True:
            held = resident(run.pid)
            run.holds(held)
            if self.memory is not None and held > self.memory:
                return Cause(
                    code="memory_limit",
                    message=f"It held {held} bytes of memory; its limit is {self.memory}.",
                    next_step="Deploy it again with a larger --memory.",
                )
            await asyncio.sleep(_MEMORY_LOOK)

    async def _watch_life(self, run: Watched) -> Cause:
        health = await self._until_ready()
        if isinstance(health, Cause):
            return health
        run.holds(resident(run.pid))  # the last look was before the model was loaded
        run.became_ready()
        proven, since = False, self._now()
        while (sign := await self._sign_of_life()) is not None and sign.stalled <= self.settings.stall_timeout:
            if not proven and (sign.answered > 0 or self._now() - since >= PROVEN):
                proven = True
                run.made_progress()
            await asyncio.sleep(_PING if proven else _UNPROVEN_PING)
        return self._stalled() if sign is not None else self._hung()

    async def _until_ready(self) -> Health | Cause:
        limit = self.settings.start_timeout
        looks, deadline = Looks(), self._now() + limit
        while self._now() < deadline:
            with contextlib.suppress(LinkLost):  # it listens when it has loaded
                health = await self._look()
                if health is None:
                    return self._hung()
                if health.ready:
                    return health
            await looks.pause()
        return Cause(code="start_timeout", message=f"It was not ready after {limit:g} s (OPENMAAS_START_TIMEOUT).")

    async def _look(self) -> Health | None:
        """Ask once. None when it listens and stays silent; LinkLost when it does not listen."""
        try:
            async with asyncio.timeout(self.settings.hang_timeout):
                return await self._ping()
        except TimeoutError:
            return None

    async def _sign_of_life(self) -> Health | None:
        """Ask until it answers, over a new connection if need be. None when hang_timeout is over.

        One that said that it drains (somebody else told it to stop) answers no more and may take its time to end.
        """
        drains = False
        try:
            async with asyncio.timeout(self.settings.hang_timeout) as bound:
                while True:
                    try:
                        return await self._ping()
                    except LinkLost:
                        if not drains and self._link is not None and self._link.draining:
                            drains = True
                            bound.reschedule(asyncio.get_running_loop().time() + self.settings.drain_timeout + _PING)
                        await asyncio.sleep(_LONGEST_LOOK)
        except TimeoutError:
            return None

    async def _ping(self) -> Health:
        if self._link is None or self._link.closed:
            self._link = await connect(self.address)
        header, _ = await self._link.ping()
        return msgspec.msgpack.decode(header, type=Health)

    def _stalled(self) -> Cause:
        limit = self.settings.stall_timeout
        return Cause(code="hung", message=f"One batch ran longer than {limit:g} s (OPENMAAS_STALL_TIMEOUT).")

    def _hung(self) -> Cause:
        limit = self.settings.hang_timeout
        return Cause(code="hung", message=f"It gave no sign of life for {limit:g} s (OPENMAAS_HANG_TIMEOUT).")

    def _now(self) -> float:
        return self.clock() if self.clock is not None else asyncio.get_running_loop().time()


@dataclass
class ServiceWatch:
    """Waits until a URL of control or a gateway answers 200, then sees that it goes on answering, whatever it answers.

    start_timeout: seconds until the first 200. hang_timeout: seconds that one answer may take; three that do not come in a row
    mean that it hangs. None: only its exit ends it, where several share the URL.
    """

    url: str
    start_timeout: float
    hang_timeout: float | None = None

    async def __call__(self, run: Watched) -> Cause:
        looks, now = Looks(), asyncio.get_running_loop().time
        deadline = now() + self.start_timeout
        while await status_of(self.url, _PATIENCE) != HTTPStatus.OK:
            if now() > deadline:
                return Cause(code="start_timeout", message=f"{self.url} did not answer 200 within {self.start_timeout:g} s.")
            await looks.pause()
        run.became_ready()
        proven, silent = now() + PROVEN, 0
        while silent < _SILENT:
            run.holds(resident(run.pid))
            if now() >= proven:
                run.made_progress()
            await asyncio.sleep(_PING)
            if self.hang_timeout is not None:
                silent = silent + 1 if await status_of(self.url, self.hang_timeout) is None else 0
        return Cause(
            code="hung", message=f"{self.url} gave no answer {_SILENT} times in a row, for {self.hang_timeout:g} s each."
        )

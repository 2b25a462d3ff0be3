"""One replica as a gateway sees it: a connection that is kept, and a health that comes from its answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

import msgspec

from openmaas.core.contracts import Health, Replica
from openmaas.core.errors import LinkLost, OpenMaaSError
from openmaas.core.link import Link, connect

PING_EVERY: Final = 1.0
_RECONNECT_FROM, _RECONNECT_TO = 0.02, 0.5
_decode_health = msgspec.msgpack.Decoder(Health).decode


class Endpoint:
    """Keeps one replica connected. `link` is set while it is in the rotation: connected, answering pings, not draining.

    on_ready: called each time the replica comes into the rotation. hang_timeout: seconds without an answer to a ping after
    which the connection is broken on purpose, so that its calls can go elsewhere.
    """

    def __init__(
        self, replica: Replica, on_ready: Callable[[Endpoint], None], *, hang_timeout: float, stall_timeout: float
    ) -> None:
        self.replica = replica
        self.link: Link | None = None
        self.health: Health | None = None
        self._on_ready = on_ready
        self._hang_timeout = hang_timeout
        self._stall_timeout = stall_timeout
        self._retired = False
        self._open: Link | None = None  # also while it is not in the rotation
        self._ended = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._keep(), name=f"endpoint {replica.id}")

    def retire(self) -> None:
        """Out of the rotation; the connection closes when its last call has ended."""
        self._retired = True
        self.link = None
        link = self._open
        if link is None:
            self._task.cancel()
        else:
            link.draining = True
            if not link.in_flight:
                link.close()

    async def close(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _keep(self) -> None:
        delay = _RECONNECT_FROM
        while not self._retired:
            try:
                link = self._open = await connect(self.replica.address, on_change=self._changed)
            except OpenMaaSError:
                await asyncio.sleep(delay)
                delay = min(delay * 1.5, _RECONNECT_TO)
                continue
            delay = _RECONNECT_FROM
            try:
                await self._watch(link)
            finally:
                self.link = self._open = None
                link.abort()
            await asyncio.sleep(delay)

    async def _watch(self, link: Link) -> None:
        """Ping until the connection ends. A connection that does not answer in time is broken, and its calls with it."""
        self._ended.clear()
        while not link.closed:
            try:
                header, _ = await asyncio.wait_for(link.ping(), self._hang_timeout)
                self.health = _decode_health(header)
            except (TimeoutError, LinkLost, msgspec.MsgspecError):
                return
            fit = self.health.ready and self.health.stalled < self._stall_timeout and not link.draining and not self._retired
            if fit and self.link is None:
                self.link = link
                self._on_ready(self)
            elif not fit:
                self.link = None
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), PING_EVERY)

    def _changed(self, link: Link) -> None:
        if link.closed:
            self._ended.set()
        if link is self.link and (link.closed or link.draining):
            self.link = None

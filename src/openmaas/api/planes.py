"""The link door on control: gateways watch the Snapshot, the supervisor watches Desired and reports Observed.

It listens on a unix socket in a folder of this user's own: whoever can connect is trusted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from openmaas.control.snapshots import Channel, Hub
from openmaas.core.contracts import ControlCall, Observed
from openmaas.core.errors import OpenMaaSError
from openmaas.core.link import IncomingCall
from openmaas.core.log import get_logger

_log = get_logger("planes")


class Planes:
    """The handler of control's LinkServer."""

    def __init__(self, hub: Hub, *observers: Callable[[Observed], None]) -> None:
        """observers: each is told what the supervisor reports, in their order and off the event loop."""
        self._hub = hub
        self._observers = observers
        self._tasks: set[asyncio.Task[None]] = set()

    def handle(self, call: IncomingCall) -> None:
        """Begin to work on a call. Raises msgspec.ValidationError for one that is not a ControlCall."""
        asked = msgspec.msgpack.decode(call.header, type=ControlCall)
        if asked.operation == "observe":
            self._begin(call, self._observe(call))
        else:
            channel = self._hub.snapshots if asked.operation == "watch_snapshot" else self._hub.desired
            self._begin(call, self._watch(call, channel))

    async def close(self) -> None:
        """End all streams."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self, call: IncomingCall, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(self._answer(call, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        call.on_cancel = lambda: _cancel(task)

    async def _answer(self, call: IncomingCall, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except OpenMaaSError as error:
            call.fail(error)
        except Exception:
            _log.exception("call failed")
            call.fail(OpenMaaSError("Control failed at this call; its log says more."))

    async def _observe(self, call: IncomingCall) -> None:
        observed = msgspec.msgpack.decode(call.payload, type=Observed)
        for observe in self._observers:
            await asyncio.to_thread(observe, observed)
        call.answer(b"")

    @staticmethod
    async def _watch(call: IncomingCall, channel: Channel) -> None:
        async for document in channel.follow():
            await call.chunk(document)


def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()

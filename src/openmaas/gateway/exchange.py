"""One request on its way through the door: its clock, its caller's presence, its one answer."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Final

from openmaas.core.errors import Cancelled, DeadlineExceeded, RequestTimeout, TooLarge

LOOK_AFTER: Final = 0.05
"""Seconds after which the door begins to look whether the caller is still there. Most answers come sooner."""


class Exchange:
    """Bounds one request in time. One timer serves all its phases: body to come, answer to come, caller gone.

    deadline: on the loop's clock. The task that waits is cancelled when time is over or the caller has left; `why` says which.
    """

    __slots__ = ("_body_until", "_loop", "_protocol", "_task", "_timer", "_watcher", "deadline", "receiving", "why")

    def __init__(self, protocol: Any, deadline: float, body_timeout: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._protocol = protocol
        self._task = asyncio.current_task()
        self._body_until = self._loop.time() + body_timeout
        self._watcher: asyncio.Task[None] | None = None
        self.deadline = deadline
        self.receiving = True
        self.why: DeadlineExceeded | RequestTimeout | Cancelled | None = None
        self._timer = self._loop.call_later(LOOK_AFTER, self._look)

    async def receive(self, size: int | None, limit: int) -> bytes:
        """The whole body. Raises TooLarge as soon as more than `limit` bytes have come."""
        body: bytes
        if size is not None:
            body = await self._protocol()
        else:
            parts: list[bytes] = []
            total = 0
            async for part in self._protocol:
                total += len(part)
                if total > limit:
                    raise TooLarge(
                        f"The body has more than {limit} bytes.", code="body_too_large", next_step="Raise OPENMAAS_MAX_BODY."
                    )
                parts.append(bytes(part))
            body = b"".join(parts)
        self.receiving = False
        return body

    def end(self) -> None:
        """No more watching; the answer goes out."""
        self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()

    def _look(self) -> None:
        now = self._loop.time()
        until = self._body_until if self.receiving else self.deadline
        if now >= until:
            self._stop(_late(self.receiving))
            return
        if not self.receiving and self._watcher is None:
            self._watcher = self._loop.create_task(self._watch())
        self._timer = self._loop.call_at(until if self._watcher else min(until, now + LOOK_AFTER), self._look)

    async def _watch(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await self._protocol.client_disconnect()
            self._stop(Cancelled("The caller left before the answer."))

    def _stop(self, why: DeadlineExceeded | RequestTimeout | Cancelled) -> None:
        if self.why is None and self._task is not None:
            self.why = why
            self._task.cancel()


def _late(receiving: bool) -> DeadlineExceeded | RequestTimeout:
    if receiving:
        return RequestTimeout(
            "The body did not arrive in time.", next_step="Send it faster, or raise OPENMAAS_BODY_TIMEOUT on the server."
        )
    return DeadlineExceeded(
        "The request's time was over before the model answered.",
        next_step="Allow it more time (X-Request-Timeout, seconds), or deploy with more --replicas.",
    )

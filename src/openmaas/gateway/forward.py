"""One call on its way to a replica: sent at once, once more elsewhere, or held until a replica is there."""

from __future__ import annotations

import asyncio
from typing import Final

from openmaas.core.errors import LinkLost, OpenMaaSError, Unavailable
from openmaas.core.link import Link, OnChunk, OnEnd
from openmaas.gateway.router import Asked, Router, Target

_PATIENCE: Final = 0.5
"""Seconds that a call that was lost with its replica waits for others of its kind before it goes among them."""


class Forward:
    """Ends exactly once by calling `on_end`, on the event loop, unless it is cancelled first.

    A prediction changes nothing, so one that was lost with its replica, or that a full replica refused, is tried once more on
    another. Where no replica is in the rotation, the call waits for one, up to the hold time or `deadline` (the loop's clock).

    One of the calls that were lost with a replica may be what ended it, and will end the next one too. So they are tried again
    one after the other: who was beside it once is not beside it again, and has an answer.

    asked: what the caller named; `version` is what it meant when the call began, None for the deployment's split.
    on_chunk: takes the parts of a streamed answer; after the first of them nothing is tried again.
    """

    __slots__ = (
        "_asked",
        "_begun",
        "_body",
        "_call_id",
        "_deadline",
        "_header",
        "_holding",
        "_link",
        "_on_chunk",
        "_on_end",
        "_router",
        "_target",
        "_tries",
        "_turn",
        "_version",
    )

    def __init__(
        self,
        router: Router,
        asked: Asked,
        target: Target,
        version: int | None,
        header: bytes,
        body: bytes,
        deadline: float,
        on_end: OnEnd,
        on_chunk: OnChunk | None = None,
    ) -> None:
        self._router = router
        self._asked = asked
        self._target = target
        self._version = version
        self._header = header
        self._body = body
        self._deadline = deadline
        self._on_end = on_end
        self._on_chunk = on_chunk
        self._link: Link | None = None
        self._call_id = 0
        self._tries = 0
        self._begun = False  # part of the answer has come
        self._holding: asyncio.Task[None] | None = None
        self._turn: asyncio.Lock | None = None

    def start(self) -> None:
        link = self._pick()
        if link is None:
            self._hold()
        else:
            self._send(link)

    def cancel(self) -> None:
        """Nobody waits any more: the replica is told, and `on_end` is not called."""
        if self._holding is not None:
            self._holding.cancel()
        elif self._link is not None:
            self._link.cancel(self._call_id)
        self._end_turn()

    def _pick(self) -> Link | None:
        """A replica, but the one where it was."""
        version = self._target.choose_version() if self._version is None else self._version
        return self._router.pick(self._target, version, self._link)

    def _send(self, link: Link) -> None:
        self._tries += 1
        self._link = link
        try:
            on_chunk = None if self._on_chunk is None else self._part
            self._call_id = link.start(self._header, self._body, self._ended, on_chunk)
        except OpenMaaSError as error:
            self._ended(b"", b"", error)

    def _part(self, header: bytes, payload: bytes) -> None:
        self._begun = True
        self._end_turn()
        assert self._on_chunk is not None
        self._on_chunk(header, payload)

    def _ended(self, header: bytes, payload: bytes, error: OpenMaaSError | None) -> None:
        self._end_turn()
        if error is not None and self._tries == 1 and not self._begun and isinstance(error, Unavailable):
            if isinstance(error, LinkLost):
                self._hold()
                return
            other = self._pick()
            if other is not None:
                self._send(other)
                return
        self._on_end(header, payload, error)

    def _hold(self) -> None:
        self._holding = asyncio.get_running_loop().create_task(self._wait())

    async def _wait(self) -> None:
        try:
            if self._tries:
                await self._take_turn()
            link = self._pick() or await self._router.hold(self._asked, self._deadline)
        except OpenMaaSError as error:
            self._holding = None
            self._end_turn()
            self._on_end(b"", b"", error)
        else:
            self._holding = None
            self._send(link)

    async def _take_turn(self) -> None:
        """Until no other lost call of the deployment is on its way again, or for as long as may be waited for that."""
        turn = self._router.turn(self._target)
        try:
            async with asyncio.timeout(_PATIENCE):
                await turn.acquire()
        except TimeoutError:
            return
        self._turn = turn

    def _end_turn(self) -> None:
        if self._turn is not None:
            self._turn.release()
            self._turn = None


async def ask(router: Router, asked: Asked, question: bytes, deadline: float) -> bytes:
    """What a replica of what was asked for answers to a question without a body."""
    target, version = router.resolve(*asked)
    future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def end(_: bytes, payload: bytes, error: OpenMaaSError | None) -> None:
        if future.done():  # nobody waits any more
            return
        if error is None:
            future.set_result(payload)
        else:
            future.set_exception(error)

    forward = Forward(router, asked, target, version, question, b"", deadline, end)
    forward.start()
    try:
        return await future
    except asyncio.CancelledError:
        forward.cancel()
        raise

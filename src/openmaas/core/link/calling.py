"""The calling end of the link."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeAlias

import msgspec

from openmaas.core.errors import LinkLost, OpenMaaSError
from openmaas.core.link.frames import (
    ANSWER,
    CALL,
    CANCEL,
    CHUNK,
    DRAIN,
    END,
    ENDS,
    ERROR,
    MAX_FRAME,
    PING,
    Peer,
    decode_error,
    encode,
    host_port,
)
from openmaas.core.log import get_logger

OnEnd: TypeAlias = Callable[[bytes, bytes, OpenMaaSError | None], None]
"""Takes header and payload of an answer, or the error instead of them. After chunks, an end gives both empty."""
OnChunk: TypeAlias = Callable[[bytes, bytes], None]
"""Takes header and payload of one part of a stream; the header of the first is the answer's head, the others' are empty."""


class Link(Peer):
    """The calling end. `in_flight` counts calls without an end; `draining` says that the other end wants no new ones."""

    def __init__(self, max_frame: int = MAX_FRAME, on_change: Callable[[Link], None] | None = None) -> None:
        super().__init__(max_frame)
        self._next_id = 0
        self._calls: dict[int, OnEnd] = {}
        self._chunks: dict[int, OnChunk] = {}
        self._streams: dict[int, asyncio.Queue[tuple[int, bytes, bytes]]] = {}
        self._on_change = on_change
        self.draining = False

    @property
    def in_flight(self) -> int:
        return len(self._calls) + len(self._streams)

    def call(self, header: bytes, payload: bytes = b"") -> Coroutine[Any, Any, tuple[bytes, bytes]]:
        """Send a call and wait for its answer: header and payload. Raises the error that the other end told, or LinkLost.

        Leaving early, by cancellation, tells the other end not to work on it.
        """
        self.check_size(header, payload)
        return self._ask(CALL, header, payload)

    def ping(self) -> Coroutine[Any, Any, tuple[bytes, bytes]]:
        """Ask for a sign of life: (health, b"")."""
        return self._ask(PING, b"", b"")

    def start(self, header: bytes, payload: bytes, on_end: OnEnd, on_chunk: OnChunk | None = None) -> int:
        """Send a call and return its id; `on_end` is called once, on the event loop, unless `cancel` comes first.

        on_chunk: called for each part of a streamed answer, before `on_end`; without it a stream is an error, and if it raises,
        the call ends with one.
        Raises LinkLost when the connection is closed, TooLarge for what does not fit into a frame.
        """
        self.check_size(header, payload)
        call_id = self._start(CALL, header, payload, on_end)
        if on_chunk is not None:
            self._chunks[call_id] = on_chunk
        return call_id

    def cancel(self, call_id: int) -> bool:
        """Give a call up and tell the other end not to work on it. False when it had ended already."""
        if self._calls.pop(call_id, None) is None:
            return False
        self._chunks.pop(call_id, None)
        self.send(CANCEL, call_id)
        self._changed()
        return True

    def _start(self, kind: int, header: bytes, payload: bytes, on_end: OnEnd) -> int:
        if self.closed:
            raise LinkLost("The connection is closed.")
        self._next_id = call_id = self._next_id + 1
        self._calls[call_id] = on_end
        self.send(kind, call_id, header, payload)
        return call_id

    async def _ask(self, kind: int, header: bytes, payload: bytes) -> tuple[bytes, bytes]:
        future: asyncio.Future[tuple[bytes, bytes]] = self._loop.create_future()

        def end(head: bytes, body: bytes, error: OpenMaaSError | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result((head, body))
            else:
                future.set_exception(error)

        call_id = self._start(kind, header, payload, end)
        try:
            return await future
        except asyncio.CancelledError:
            if not self.cancel(call_id) and not future.cancelled():
                future.exception()  # it ended in the same turn; nobody else will look at it
            raise

    async def stream(self, header: bytes, payload: bytes = b"") -> AsyncIterator[bytes]:
        """Send a call and yield its chunks. Leaving the loop early cancels the call at the other end."""
        self.check_size(header, payload)
        if self.closed:
            raise LinkLost("The connection is closed.")
        self._next_id = call_id = self._next_id + 1
        queue: asyncio.Queue[tuple[int, bytes, bytes]] = asyncio.Queue()
        self._streams[call_id] = queue
        self.send(CALL, call_id, header, payload)
        ended = False
        try:
            while True:
                kind, head, body = await queue.get()
                if kind == CHUNK:
                    yield body
                    continue
                ended = True
                if kind == ERROR:
                    raise _told(head)
                if kind == ANSWER:
                    yield body
                return
        finally:
            self._streams.pop(call_id, None)
            if not ended:
                self.send(CANCEL, call_id)
            self._changed()

    def _frame(self, kind: int, call_id: int, header: bytes, payload: bytes) -> None:
        if kind == CHUNK and (on_chunk := self._chunks.get(call_id)) is not None:
            try:
                on_chunk(header, payload)
            except Exception:  # without this part the rest is worth nothing; the connection's other calls go on
                get_logger("link").exception("on_chunk_failed")
                self._give_up(call_id, OpenMaaSError("Something went wrong inside the process that called."))
            return
        on_end = self._calls.pop(call_id, None)
        if on_end is not None:
            streamed = self._chunks.pop(call_id, None) is not None
            try:
                if kind in ENDS or (streamed and kind == END):
                    on_end(header, payload, None)
                elif kind == ERROR:
                    on_end(b"", b"", _told(header))
                else:
                    if kind == CHUNK:
                        self.send(CANCEL, call_id)  # nobody takes the rest
                    on_end(b"", b"", LinkLost(f"The replica sent a frame of kind {kind} where an answer was due."))
            except Exception:
                get_logger("link").exception("on_end_failed")  # and the connection's other calls go on
            if self.draining:
                self._changed()
        elif (queue := self._streams.get(call_id)) is not None:
            queue.put_nowait((kind, header, payload))
        elif kind == DRAIN:
            self.draining = True
            self._changed()

    def _give_up(self, call_id: int, error: OpenMaaSError) -> None:
        on_end = self._calls.get(call_id)
        if on_end is not None and self.cancel(call_id):
            _end_with(on_end, error)

    def _lost(self, reason: str) -> None:
        calls, self._calls = self._calls, {}
        self._chunks.clear()
        for on_end in calls.values():
            _end_with(on_end, LinkLost(reason))
        for queue in self._streams.values():
            queue.put_nowait((ERROR, encode(LinkLost(reason).to_wire()), b""))
        self._changed()

    def _changed(self) -> None:
        """A draining link that has nothing in flight is closed: that is what the other end waits for."""
        if self.draining and not self.in_flight and not self.closed:
            self.close()
        if self._on_change is not None:
            self._on_change(self)


def _end_with(on_end: OnEnd, error: OpenMaaSError) -> None:
    try:
        on_end(b"", b"", error)
    except Exception:
        get_logger("link").exception("on_end_failed")


def _told(header: bytes) -> OpenMaaSError:
    """The error of an ERROR frame."""
    try:
        return OpenMaaSError.from_wire(decode_error(header))
    except (msgspec.MsgspecError, ValueError):
        return LinkLost("The other end told an error in a form that this version does not understand.")


async def connect(
    address: str,
    *,
    max_frame: int = MAX_FRAME,
    on_change: Callable[[Link], None] | None = None,
    tls: ssl.SSLContext | None = None,
) -> Link:
    """A Link to `unix:/path` or `tcp:host:port`. Raises LinkLost when nobody listens there."""
    loop = asyncio.get_running_loop()
    scheme, _, rest = address.partition(":")
    try:
        if scheme == "unix":
            _, link = await loop.create_unix_connection(lambda: Link(max_frame, on_change), rest)
        else:
            host, port = host_port(address, scheme, rest)
            _, link = await loop.create_connection(lambda: Link(max_frame, on_change), host, port, ssl=tls)
    except OSError as error:
        raise LinkLost(f"Nothing listens at {address} ({error.strerror or error}).") from error
    return link

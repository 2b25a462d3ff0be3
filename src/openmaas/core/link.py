"""The link: one framed, multiplexed connection between two of our processes, over a unix socket or TCP.

A frame is a fixed head, a msgpack header and a raw payload, many calls in flight at once:

    u32 length of what follows │ u8 kind │ u32 header length │ u64 call id │ header │ payload         (little-endian)

A call ends exactly once: with an answer, an end (after chunks) or an error. Frames of one event-loop turn are written a few at
a time. Nothing that arrives is ever executed or unpickled. What is too large is refused before it is sent; a frame that comes
over the size limit closes the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, Final, TypeAlias, cast

import msgspec

from openmaas.core.errors import InvalidInput, LinkLost, OpenMaaSError, TooLarge, WireError
from openmaas.core.log import get_logger

CALL: Final = 1
ANSWER: Final = 2
CHUNK: Final = 3
END: Final = 4
ERROR: Final = 5
CANCEL: Final = 6
PING: Final = 7
PONG: Final = 8
DRAIN: Final = 9

_HEAD = struct.Struct("<IBIQ")
_AFTER_LENGTH = _HEAD.size - 4
_ENDS = (ANSWER, PONG)
_FLUSH_AT = 8  # frames; waiting for more makes the two ends take turns instead of working side by side
_COPY_BELOW = 64 * 1024  # joining smaller payloads to their frame costs less than another system call
MAX_FRAME: Final = 256 * 1024 * 1024
_encode = msgspec.msgpack.Encoder().encode
_decode_error = msgspec.msgpack.Decoder(WireError).decode


class _Peer(asyncio.Protocol):
    """Frames in, frames out. Both ends of the link build on it."""

    def __init__(self, max_frame: int) -> None:
        self._max_frame = max_frame
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._incoming = bytearray()
        self._need = _HEAD.size
        self._outgoing: list[bytes] = []
        self._writable = asyncio.Event()
        self._writable.set()
        self.closed = False

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        # A write goes out at once, not when the loop's turn is over. (Under TLS a limit of nothing would be passed, and writing
        # paused, before anything was written.)
        if transport.get_extra_info("sslcontext") is None:
            self._transport.set_write_buffer_limits(high=0)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._writable.set()
        self._lost("The connection closed before the answer." if exc is None else f"The connection broke: {exc}.")

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        if self._incoming:
            self._incoming += data
            if len(self._incoming) < self._need:
                return
            data = bytes(self._incoming)
            self._incoming.clear()
        position, size = 0, len(data)
        while size - position >= _HEAD.size:
            length, kind, header_size, call_id = _HEAD.unpack_from(data, position)
            if length > self._max_frame or length < _AFTER_LENGTH + header_size:
                self.abort()
                return
            end = position + 4 + length
            if end > size:
                self._need = end - position
                break
            body = position + _HEAD.size + header_size
            self._frame(kind, call_id, data[position + _HEAD.size : body], data[body:end])
            position = end
        else:
            self._need = _HEAD.size
        if position < size:
            self._incoming += data[position:]

    # our side

    def send(self, kind: int, call_id: int, header: bytes = b"", payload: bytes = b"") -> None:
        """Queue one frame; it is written with its neighbours, at the latest when this event-loop turn is over."""
        if self.closed:
            return
        outgoing = self._outgoing
        if not outgoing:
            self._loop.call_soon(self._flush)
        head = _HEAD.pack(_AFTER_LENGTH + len(header) + len(payload), kind, len(header), call_id)
        if len(payload) < _COPY_BELOW:
            outgoing.append(head + header + payload)
        else:
            outgoing.append(head + header)
            outgoing.append(payload)
        if len(outgoing) >= _FLUSH_AT:
            self._flush()

    def check_size(self, header: bytes, payload: bytes) -> None:
        """Raise TooLarge for what the other end would close the connection over, and every call on it with it."""
        size = _AFTER_LENGTH + len(header) + len(payload)
        if size > self._max_frame:
            raise TooLarge(
                f"{size} bytes do not fit into one frame between processes, which holds {self._max_frame}.",
                code="frame_too_large",
                next_step="Send fewer rows a request, or ask for binary output: it is smaller than JSON.",
            )

    def _flush(self) -> None:
        outgoing, self._outgoing = self._outgoing, []
        if outgoing and self._transport is not None and not self.closed:
            self._transport.writelines(outgoing)

    async def writable(self) -> None:
        """Wait until the other end has read enough for more to be sent."""
        await asyncio.sleep(0)  # what this turn has queued is written first, and shows whether there is room for more
        await self._writable.wait()

    def close(self) -> None:
        """Write what is queued, then close."""
        if self._transport is not None:
            self._flush()
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _frame(self, kind: int, call_id: int, header: bytes, payload: bytes) -> None:
        raise NotImplementedError

    def _lost(self, reason: str) -> None:
        raise NotImplementedError


# ── the calling end ──────────────────────────────────────────────────────────────────────────────────────────────────


OnEnd: TypeAlias = Callable[[bytes, bytes, OpenMaaSError | None], None]
"""Takes header and payload of an answer, or the error instead of them."""


class Link(_Peer):
    """The calling end. `in_flight` counts calls without an end; `draining` says that the other end wants no new ones."""

    def __init__(self, max_frame: int = MAX_FRAME, on_change: Callable[[Link], None] | None = None) -> None:
        super().__init__(max_frame)
        self._next_id = 0
        self._calls: dict[int, OnEnd] = {}
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

    def start(self, header: bytes, payload: bytes, on_end: OnEnd) -> int:
        """Send a call and return its id; `on_end` is called once, on the event loop, unless `cancel` comes first.

        Raises LinkLost when the connection is closed, TooLarge for what does not fit into a frame.
        """
        self.check_size(header, payload)
        return self._start(CALL, header, payload, on_end)

    def cancel(self, call_id: int) -> bool:
        """Give a call up and tell the other end not to work on it. False when it had ended already."""
        if self._calls.pop(call_id, None) is None:
            return False
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
        on_end = self._calls.pop(call_id, None)
        if on_end is not None:
            try:
                if kind in _ENDS:
                    on_end(header, payload, None)
                elif kind == ERROR:
                    on_end(b"", b"", _told(header))
                else:
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

    def _lost(self, reason: str) -> None:
        calls, self._calls = self._calls, {}
        for on_end in calls.values():
            try:
                on_end(b"", b"", LinkLost(reason))
            except Exception:
                get_logger("link").exception("on_end_failed")
        for queue in self._streams.values():
            queue.put_nowait((ERROR, _encode(LinkLost(reason).to_wire()), b""))
        self._changed()

    def _changed(self) -> None:
        """A draining link that has nothing in flight is closed: that is what the other end waits for."""
        if self.draining and not self.in_flight and not self.closed:
            self.close()
        if self._on_change is not None:
            self._on_change(self)


def _told(header: bytes) -> OpenMaaSError:
    """The error of an ERROR frame."""
    try:
        return OpenMaaSError.from_wire(_decode_error(header))
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
            host, port = _host_port(address, scheme, rest)
            _, link = await loop.create_connection(lambda: Link(max_frame, on_change), host, port, ssl=tls)
    except OSError as error:
        raise LinkLost(f"Nothing listens at {address} ({error.strerror or error}).") from error
    return link


# ── the answering end ────────────────────────────────────────────────────────────────────────────────────────────────


class IncomingCall:
    """One call at the answering end. It ends exactly once; what comes after its end, or after the caller left, is dropped.

    on_cancel: called (at most once) when the caller gives up or its connection breaks.
    """

    __slots__ = ("cancelled", "connection", "done", "header", "id", "on_cancel", "payload")

    def __init__(self, connection: _Connection, call_id: int, header: bytes, payload: bytes) -> None:
        self.connection = connection
        self.id = call_id
        self.header = header
        self.payload = payload
        self.done = False
        self.cancelled = False
        self.on_cancel: Callable[[], None] | None = None

    def answer(self, header: bytes, payload: bytes = b"") -> None:
        """Raises TooLarge, and the call is still to be ended, when the answer does not fit into a frame."""
        self.connection.check_size(header, payload)
        self._end(ANSWER, header, payload)

    def fail(self, error: OpenMaaSError) -> None:
        self._end(ERROR, _encode(error.to_wire()), b"")

    async def chunk(self, payload: bytes) -> None:
        """One part of a stream; waits while the reader is slower than the writer."""
        self.connection.check_size(b"", payload)
        if not self.done:
            self.connection.send(CHUNK, self.id, b"", payload)
            await self.connection.writable()

    def end(self) -> None:
        self._end(END, b"", b"")

    def _end(self, kind: int, header: bytes, payload: bytes) -> None:
        if self.done:
            return
        self.done = True
        self.on_cancel = None  # what it holds often holds this call: without the circle both are freed at once
        connection = self.connection
        connection.calls.pop(self.id, None)
        connection.send(kind, self.id, header, payload)

    def _cancel(self) -> None:
        if not self.done:
            self.done = self.cancelled = True
            on_cancel, self.on_cancel = self.on_cancel, None
            if on_cancel is not None:
                on_cancel()


class _Connection(_Peer):
    def __init__(self, server: LinkServer) -> None:
        super().__init__(server.max_frame)
        self._server = server
        self.calls: dict[int, IncomingCall] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._server.connections.add(self)
        if self._server.draining:
            self.send(DRAIN, 0)

    def _frame(self, kind: int, call_id: int, header: bytes, payload: bytes) -> None:
        if kind == CALL:
            call = IncomingCall(self, call_id, header, payload)
            self.calls[call_id] = call
            try:
                self._server.handler(call)
            except OpenMaaSError as error:
                call.fail(error)
            except msgspec.MsgspecError as error:
                call.fail(InvalidInput(f"The call's header is not what this version understands: {error}."))
            except Exception:
                # One call's trouble must not break the connection, and with it every other call on it.
                get_logger("link").exception("handler_failed")
                call.fail(OpenMaaSError("Something went wrong inside the process that was called."))
        elif kind == PING:
            self.send(PONG, call_id, self._server.health())
        elif kind == CANCEL:
            cancelled = self.calls.pop(call_id, None)
            if cancelled is not None:
                cancelled._cancel()

    def _lost(self, reason: str) -> None:
        self._server.connections.discard(self)
        calls, self.calls = self.calls, {}
        for call in calls.values():
            call._cancel()
        self._server._changed()


class LinkServer:
    """The answering end: listens at an address and hands each call to `handler`, on the event loop and without waiting.

    The handler ends the call now or later; an OpenMaaSError that it raises ends the call as well. `health` is asked at each
    ping and returns msgpack.
    """

    def __init__(
        self,
        handler: Callable[[IncomingCall], Any],
        *,
        health: Callable[[], bytes] = lambda: b"",
        max_frame: int = MAX_FRAME,
    ) -> None:
        self.handler = handler
        self.health = health
        self.max_frame = max_frame
        self.connections: set[_Connection] = set()
        self.draining = False
        self._server: asyncio.Server | None = None
        self._path: str | None = None
        self._quiet = asyncio.Event()

    async def listen(self, address: str, tls: ssl.SSLContext | None = None) -> None:
        """Listen at `unix:/path` (mode 0600; a left-over socket there is removed) or `tcp:host:port`."""
        loop = asyncio.get_running_loop()
        scheme, _, rest = address.partition(":")
        if scheme == "unix":
            if len(rest.encode()) > 100:
                raise TooLarge(
                    f"The socket path {rest!r} has {len(rest.encode())} bytes; the system allows about 100.",
                    next_step="Set OPENMAAS_RUNTIME_DIR to a shorter folder.",
                )
            with contextlib.suppress(FileNotFoundError):
                Path(rest).unlink()
            before = os.umask(0o177)
            try:
                self._server = await loop.create_unix_server(lambda: _Connection(self), rest, backlog=256)
            finally:
                os.umask(before)
            self._path = rest
        else:
            host, port = _host_port(address, scheme, rest)
            self._server = await loop.create_server(lambda: _Connection(self), host, port, ssl=tls)

    async def drain(self, timeout: float) -> bool:
        """Take no new connections, tell every caller to go elsewhere, and wait until all have left. False after `timeout` s."""
        self.draining = True
        if self._server is not None:
            self._server.close()
        for connection in self.connections:
            connection.send(DRAIN, 0)
        self._changed()
        try:
            await asyncio.wait_for(self._quiet.wait(), timeout)
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for connection in tuple(self.connections):
            connection.close()
        if self._path is not None:
            with contextlib.suppress(FileNotFoundError):
                Path(self._path).unlink()

    def _changed(self) -> None:
        if self.draining and not self.connections:
            self._quiet.set()


def _host_port(address: str, scheme: str, rest: str) -> tuple[str, int]:
    host, _, port = rest.rpartition(":")
    if scheme != "tcp" or not host or not port.isdigit():
        raise InvalidInput(f"{address!r} is not a link address: write unix:/path or tcp:host:port.")
    return host, int(port)

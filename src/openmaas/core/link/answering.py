"""The answering end of the link."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from openmaas.core.errors import InvalidInput, OpenMaaSError, TooLarge
from openmaas.core.link.frames import (
    ANSWER,
    CALL,
    CANCEL,
    CHUNK,
    DRAIN,
    END,
    ERROR,
    MAX_FRAME,
    PING,
    PONG,
    Peer,
    encode,
    host_port,
)
from openmaas.core.log import get_logger


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
        self._end(ERROR, encode(error.to_wire()), b"")

    async def chunk(self, payload: bytes) -> None:
        """One part of a stream; waits while the reader is slower than the writer."""
        self.connection.check_size(b"", payload)
        if not self.done:
            self.connection.send(CHUNK, self.id, b"", payload)
            await self.connection.writable()

    def write(self, payload: bytes, header: bytes = b"") -> None:
        """One part of a stream, sent at once, for streams of bounded length. The first carries the answer's head.

        Raises TooLarge, and the call is still to be ended, for what does not fit into a frame.
        """
        self.connection.check_size(header, payload)
        if not self.done:
            self.connection.send(CHUNK, self.id, header, payload)

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


class _Connection(Peer):
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
            host, port = host_port(address, scheme, rest)
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

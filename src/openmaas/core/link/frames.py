"""Frames on the wire: what both ends of the link build on."""

from __future__ import annotations

import asyncio
import struct
from typing import Final, cast

import msgspec

from openmaas.core.errors import InvalidInput, TooLarge, WireError

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
ENDS = (ANSWER, PONG)
_FLUSH_AT = 8  # frames; waiting for more makes the two ends take turns instead of working side by side
_COPY_BELOW = 64 * 1024  # joining smaller payloads to their frame costs less than another system call
MAX_FRAME: Final = 256 * 1024 * 1024
encode = msgspec.msgpack.Encoder().encode
decode_error = msgspec.msgpack.Decoder(WireError).decode


class Peer(asyncio.Protocol):
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


def host_port(address: str, scheme: str, rest: str) -> tuple[str, int]:
    host, _, port = rest.rpartition(":")
    if scheme != "tcp" or not host or not port.isdigit():
        raise InvalidInput(f"{address!r} is not a link address: write unix:/path or tcp:host:port.")
    return host, int(port)

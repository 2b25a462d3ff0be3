"""One connection: bytes to requests, one at a time, and answers to bytes."""

from __future__ import annotations

import asyncio
from collections import deque
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, cast

import httptools

from openmaas.core.errors import InvalidInput, OpenMaaSError, RequestTimeout, TooLarge
from openmaas.gateway.http.parts import MAX_UNREAD, Parts
from openmaas.gateway.http.request import SKIP_BODY_BELOW, Request

if TYPE_CHECKING:
    from openmaas.gateway.http.server import HttpServer


MAX_HEAD: Final = 64 * 1024
"""Bytes of a request's line and headers, and of whatever else frames its body."""
MAX_FIELDS: Final = 128
"""Header fields of a request."""
_MAX_PIPELINE = 32
_SLOWEST = 16 * 1024  # bytes a second below which a body counts as dripping
_KEEP_ALIVE = 75.0
_LINGER = 2.0
_JOIN_BELOW = 64 * 1024

_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus} | {
    499: "HTTP/1.1 499 Client Closed Request\r\n"
}


class _Stop(Exception):
    """No more of this connection's bytes are wanted."""


_BLANK = "\r\n"
_CLOSE = "connection: close\r\n\r\n"


def too_large(limit: int) -> TooLarge:
    return TooLarge(
        f"The body has more than {limit} bytes.",
        code="body_too_large",
        next_step="Send fewer rows a request, or raise OPENMAAS_MAX_BODY.",
    )


class HttpConnection(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._loop = server.loop
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._request: Request | None = None  # the one whose bytes are arriving
        self._active: Request | None = None  # the one that is worked on
        self._parts: Parts | None = None  # of its answer, where that is a stream
        self._waiting: deque[Request] = deque()
        self._fed = 0  # bytes since the request that is arriving began
        self._fields = 0
        self._closing = False
        self._advancing = False
        self._paused = False  # nothing is read
        self._stalled = False  # the client does not read its answers
        self._unsent = 0
        self.checked = 0
        self.until = server.now + _KEEP_ALIVE
        self.unread_until = 0.0

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        # Each answer goes out at once: a client that has its own works on while the others' are written. (Under TLS a limit of
        # nothing would be passed, and writing paused, before anything was written.)
        if transport.get_extra_info("sslcontext") is None:
            self._transport.set_write_buffer_limits(high=0)
        self._server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        self._server.forget(self)
        unanswered = [self._active, *self._waiting, self._request]
        self._active = self._request = self._parts = None
        self._waiting.clear()
        for request in unanswered:
            if request is not None and not request.answered:
                request.answered = True
                if request.on_gone is not None:
                    request.on_gone()

    def pause_writing(self) -> None:
        """The client does not read its answers: it gets no more of them, and is closed if it goes on like that."""
        self._stalled = True
        self._watch_reader(self._server.body_timeout)
        self._regulate()

    def resume_writing(self) -> None:
        self._stalled = False
        if not self._closing:
            self._server.unread.discard(self)
            self._advance()

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        self._fed += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:  # the request itself has come; no other protocol is spoken here
            if self._active is None:
                self.close()
            else:
                self._active.keep_alive = False
        except httptools.HttpParserCallbackError as error:
            if not isinstance(error.__context__, _Stop):
                raise
        except httptools.HttpParserError as error:
            self._fail(InvalidInput(f"This is not a valid HTTP/1.1 request: {error}.", code="malformed_request"))
        request = self._request
        # What is not body is head, chunk sizes and trailers: a client must not send these without end.
        if request is not None and not self._closing and self._fed > MAX_HEAD + 2 * request.received:
            self._fail(TooLarge(f"The request's head is larger than {MAX_HEAD} bytes.", code="head_too_large"))

    # httptools' side

    def on_message_begin(self) -> None:
        self._request = Request(self, self._loop.time())
        self._server.receiving.add(self)
        self._fed = self._fields = self.checked = 0
        self.until = self._request.started + self._server.body_timeout

    def on_url(self, url: bytes) -> None:
        assert self._request is not None
        self._request.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        assert self._request is not None
        self._fields += 1
        if self._fields > MAX_FIELDS:
            self._fail(TooLarge(f"The request has more than {MAX_FIELDS} header fields.", code="head_too_large"))
            raise _Stop
        if self._request.method:  # a trailer: it comes too late to mean anything
            return
        headers = self._request.headers
        name = name.lower()
        headers[name] = (
            f"{headers[name].decode('latin-1')}, {value.decode('latin-1')}".encode("latin-1") if name in headers else value
        )

    def on_headers_complete(self) -> None:
        request = self._request
        assert request is not None
        request.method = self._parser.get_method().decode("latin-1")
        request.keep_alive = self._parser.should_keep_alive()
        if b"transfer-encoding" in request.headers:
            request.content_length = None
        elif length := request.headers.get(b"content-length"):
            request.content_length = int(length)
        try:
            self._server.application.begin(request)
            if (request.content_length or 0) > request.max_body:
                raise too_large(request.max_body)
        except OpenMaaSError as error:
            self._refuse_before_body(request, error)
        else:
            if request.headers.get(b"expect", b"").lower() == b"100-continue" and self._transport is not None:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        request = self._request
        assert request is not None
        request.received += len(body)
        if request.error is not None:
            if request.received > SKIP_BODY_BELOW:
                self._abandon(request)
            return
        try:
            if request.received > request.max_body:
                raise too_large(request.max_body)
            if request.on_part is not None and request.content_length is None:
                request.on_part(len(body))
        except OpenMaaSError as error:
            self._refuse_before_body(request, error)
        else:
            request._parts.append(body)

    def on_message_complete(self) -> None:
        request, self._request = self._request, None
        assert request is not None
        request.whole = True
        self._server.receiving.discard(self)
        if self._active is not None or self._waiting:
            self._waiting.append(request)
            self._regulate()
        elif self._stalled:
            self._waiting.append(request)
        else:
            self._work(request)

    # work

    def _work(self, request: Request) -> None:
        self._active = request
        if request.error is not None:
            self._server.application.refuse(request, request.error)
        else:
            self._server.active.add(self)
            self._server.application.run(request)

    def _next(self) -> None:
        self._active = None
        self._server.active.discard(self)
        if not self._advancing and not self._closing:  # a request that is answered at once ends inside the loop of _advance
            self._advance()

    def _advance(self) -> None:
        """Go on with the requests that wait."""
        self._advancing = True
        while self._waiting and self._active is None and not self._closing and not self._stalled:
            self._work(self._waiting.popleft())
        self._advancing = False
        self._regulate()
        if self._request is None:
            self.until = self._server.now + _KEEP_ALIVE

    def _regulate(self) -> None:
        """Read on, or not: while much waits to be worked on, or to be read by the client, nothing more is taken."""
        full = self._stalled or len(self._waiting) >= _MAX_PIPELINE
        if full is self._paused or self._transport is None or self._transport.is_closing():
            return
        self._paused = full
        if full:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def respond(self, request: Request, status: int, headers: str, body: bytes) -> None:
        """Write an answer; then go on with the next request, or close."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        close = not request.keep_alive or self._server.draining or self._closing
        first = _STATUS_LINES.get(status) or f"HTTP/1.1 {status} Status\r\n"
        end = _CLOSE if close else _BLANK
        head = f"{first}{self._server.date}{headers}content-length: {len(body)}\r\n{end}".encode("latin-1", "replace")
        if request.method == "HEAD":
            body = b""
        if len(body) < _JOIN_BELOW:
            transport.write(head + body)
        else:
            transport.writelines((head, body))
        if close:
            self._finish(transport, whole=request.whole and self._request is None)
        if request is self._active:
            self._next()

    def begin_stream(self, request: Request, status: int, headers: str) -> None:
        """Begin an answer in parts. Its head goes out with the first of them, at the latest when this turn is over."""
        if request is not self._active:  # the client has left
            return
        chunked = self._parser.get_http_version() != "1.0"  # a client speaks one version, also where its next request has begun
        close = not (chunked and request.keep_alive) or self._server.draining or self._closing
        first = _STATUS_LINES.get(status) or f"HTTP/1.1 {status} Status\r\n"
        framing = "transfer-encoding: chunked\r\n" if chunked else ""
        head = f"{first}{self._server.date}{headers}{framing}{_CLOSE if close else _BLANK}".encode("latin-1", "replace")
        request.keep_alive = not close
        self._parts = Parts(head, chunked=chunked, silent=request.method == "HEAD")
        self._loop.call_soon(self._send_parts)

    def write_stream(self, request: Request, data: bytes) -> None:
        if request is self._active and self._parts is not None and self._parts.add(data):
            self._loop.call_soon(self._send_parts)

    def end_stream(self, request: Request, *, close: bool) -> None:
        """Write what is left and the end; then go on with the next request, or close."""
        transport = self._transport
        if request is not self._active or transport is None:
            return
        self._send_parts(last=True)
        self._parts = None
        if transport.is_closing():
            return
        if close or not request.keep_alive or self._server.draining or self._closing:
            self._finish(transport, whole=request.whole and self._request is None)
        self._next()

    def _send_parts(self, *, last: bool = False) -> None:
        transport = self._transport
        if self._parts is None or transport is None or transport.is_closing():
            return
        data = self._parts.take(last=last)
        if data:
            self._unsent += len(data)  # where less than that is left over later, the client has read something
            transport.write(data)
            if transport.get_write_buffer_size() > MAX_UNREAD and not last:  # of a whole answer no more will come
                self.abort()

    def _finish(self, transport: asyncio.Transport, *, whole: bool) -> None:
        """No more requests. A client that is still sending must read the answer before the connection is reset under it."""
        if whole or not transport.can_write_eof():
            self.close()
            return
        self._closing = True
        transport.write_eof()
        self._watch_reader(_LINGER)

    def _watch_reader(self, seconds: float) -> None:
        """Break the connection when the client has read nothing more of its answer for so long."""
        if self._transport is not None:
            self._unsent = self._transport.get_write_buffer_size()
            self.unread_until = self._loop.time() + seconds
            self._server.unread.add(self)

    def _refuse_before_body(self, request: Request, error: OpenMaaSError) -> None:
        """Answer once the rest has come, if that is little; else now, and close: the rest must not pass for a request."""
        request.error = error
        request._parts.clear()
        if request.content_length is None or request.content_length > SKIP_BODY_BELOW:
            self._abandon(request)

    def _abandon(self, request: Request) -> None:
        assert request.error is not None
        request.keep_alive = False
        self._server.receiving.discard(self)
        if self._active is None:
            self._active = request
            self._server.application.refuse(request, request.error)
        self._closing = True  # at once, or after the answer to the request before this one
        raise _Stop

    def _fail(self, error: OpenMaaSError) -> None:
        """The bytes cannot be understood any further."""
        request = self._request or Request(self, self._loop.time())
        request.keep_alive = False
        self._request = None
        self._server.receiving.discard(self)
        if self._active is None:
            self._active = request
            self._server.application.refuse(request, error)
        elif request.on_gone is not None:  # its answer would have to wait for another one
            request.on_gone()
        self._closing = True

    # what the server's clock asks for

    def check_receiving(self, now: float) -> None:
        """Close a client whose bytes drip."""
        request = self._request
        if request is None or now < self.until:
            return
        if request.method and request.received - self.checked >= _SLOWEST * self._server.body_timeout:
            self.checked = request.received
            self.until = now + self._server.body_timeout
            return
        what = "body" if request.method else "head"
        self._fail(
            RequestTimeout(
                f"The {what} of the request did not arrive within {self._server.body_timeout:g} s.",
                next_step="Send it faster, or raise OPENMAAS_BODY_TIMEOUT on the server.",
            )
        )

    def check_deadline(self, now: float) -> None:
        request = self._active
        if request is not None and request.deadline and now >= request.deadline and request.on_late is not None:
            request.on_late()

    def check_unread(self, now: float) -> None:
        """Break the connection of a client that has stopped reading."""
        unsent = self._transport.get_write_buffer_size() if self._transport is not None else 0
        if 0 < unsent < self._unsent:
            self._watch_reader(self._server.body_timeout)
        elif now >= self.unread_until:
            self.abort()

    def check_idle(self, now: float) -> None:
        idle = self._active is None and self._request is None and not self._waiting and not self._stalled
        if idle and now >= min(self.until, self._server.leaving) and not self._closing:
            self.close()

    def break_off(self, error: OpenMaaSError) -> None:
        """End the answer that is worked on."""
        if self._active is not None:
            self._server.application.refuse(self._active, error)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """Close once the client has read what was written to it, if it goes on reading."""
        self._closing = True
        if self._transport is not None:
            self._transport.close()
            # Also under TLS, whose farewell an idle client may never return.
            self._watch_reader(self._server.body_timeout if self._transport.get_write_buffer_size() else _LINGER)

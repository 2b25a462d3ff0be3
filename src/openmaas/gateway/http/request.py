"""One request of a client, and who works on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from openmaas.core.errors import OpenMaaSError

if TYPE_CHECKING:
    from openmaas.gateway.http.connection import HttpConnection


SKIP_BODY_BELOW = 64 * 1024  # a refused body this small is read and dropped, so that its connection can be used again


class Request:
    """One request. Header names are in lower case, values as they came; `content_length` is None for a chunked body.

    max_body: bytes, little unless the application allows more. on_part: called with the size of each part of a chunked body; an
    error that it raises refuses the request. on_gone: called when the client leaves before the end of its answer. deadline: on
    the loop's clock, `on_late` is called after it.

    Its answer is whole (`answer`), or comes in parts (`begin_stream`, any number of `write`, `end`).
    """

    # Defaults live on the class: most requests never change most of them.
    target = b""
    method = ""
    content_length: int | None = 0
    keep_alive = True
    max_body = SKIP_BODY_BELOW
    received = 0
    whole = False  # all of it has come
    streaming = False  # the answer's head has gone out, its end has not
    answered = False
    deadline = 0.0
    error: OpenMaaSError | None = None  # why it is refused, once that is known
    on_part: Callable[[int], None] | None = None
    on_gone: Callable[[], None] | None = None
    on_late: Callable[[], None] | None = None
    state: Any = None  # the application's own

    def __init__(self, connection: HttpConnection, started: float) -> None:
        self._connection = connection
        self.started = started
        self.headers: dict[bytes, bytes] = {}
        self._parts: list[bytes] = []

    @property
    def body(self) -> bytes:
        parts = self._parts
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def header(self, name: bytes) -> str | None:
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")

    def answer(self, status: int, headers: str, body: bytes) -> None:
        """Send the one answer; a second is dropped. headers: whole lines, each with its line break."""
        if not (self.answered or self.streaming):
            self.answered = True
            # No circles (an error's traceback holds the request, too): it is freed when the door lets go of it.
            self.on_part = self.on_gone = self.on_late = self.state = self.error = None
            self._connection.respond(self, status, headers, body)

    def begin_stream(self, status: int, headers: str) -> None:
        """Begin an answer whose length is not known yet. headers: as those of `answer`."""
        if not (self.answered or self.streaming):
            self.streaming = True
            self._connection.begin_stream(self, status, headers)

    def write(self, data: bytes) -> None:
        """More of the answer's body, sent with whatever else this turn of the event loop writes."""
        if self.streaming:
            self._connection.write_stream(self, data)

    def end(self, *, close: bool = False) -> None:
        """The answer's body is whole. close: no more requests are taken from this client."""
        if self.streaming:
            self.streaming = False
            self.answered = True
            self.on_part = self.on_gone = self.on_late = self.state = self.error = None
            self._connection.end_stream(self, close=close)


class Application(Protocol):
    """What stands behind the connections."""

    def begin(self, request: Request) -> None:
        """The head has come. Raises an error to refuse it before its body."""

    def run(self, request: Request) -> None:
        """The body has come too. The request is answered now or later."""

    def refuse(self, request: Request, error: OpenMaaSError) -> None:
        """Answer a request with an error."""

"""An answer in parts on its way to the client."""

from __future__ import annotations

from typing import Final

MAX_UNREAD: Final = 1024 * 1024
"""Bytes of an answer still being made that may lie unread by its client; beyond it the connection is broken."""


class Parts:
    """What is to be written next of one answer whose length nobody knows yet.

    chunked: as HTTP/1.1 frames it; otherwise it goes out bare, and the end of the connection is its end. silent: nothing but
    the head is wanted (a HEAD request).
    """

    __slots__ = ("_chunked", "_head", "_pieces", "_silent")

    def __init__(self, head: bytes, *, chunked: bool, silent: bool) -> None:
        self._head = head
        self._chunked = chunked and not silent
        self._silent = silent
        self._pieces: list[bytes] = []

    def add(self, data: bytes) -> bool:
        """Whether a write is to be arranged for it: it is the first since `take`."""
        if not data or self._silent:
            return False
        self._pieces.append(data)
        return len(self._pieces) == 1 and not self._head

    def take(self, *, last: bool = False) -> bytes:
        """All that has come since the last time, as one chunk; with `last` the end as well."""
        head, self._head = self._head, b""
        pieces, self._pieces = self._pieces, []
        data = b"".join(pieces)
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
            if last:
                data += b"0\r\n\r\n"
        return head + data

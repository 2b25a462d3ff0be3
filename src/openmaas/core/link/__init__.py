"""The link: one framed, multiplexed connection between two of our processes, over a unix socket or TCP.

A frame is a fixed head, a msgpack header and a raw payload, many calls in flight at once:

    u32 length of what follows │ u8 kind │ u32 header length │ u64 call id │ header │ payload         (little-endian)

A call ends exactly once: with an answer, an end (after chunks) or an error. Frames of one event-loop turn are written a few at
a time. Nothing that arrives is ever executed or unpickled. What is too large is refused before it is sent; a frame that comes
over the size limit closes the connection.
"""

from __future__ import annotations

from openmaas.core.link.answering import IncomingCall, LinkServer
from openmaas.core.link.calling import Link, OnChunk, OnEnd, connect
from openmaas.core.link.frames import ANSWER, CALL, CANCEL, CHUNK, DRAIN, END, ERROR, MAX_FRAME, PING, PONG

__all__ = [
    "ANSWER", "CALL", "CANCEL", "CHUNK", "DRAIN", "END", "ERROR", "MAX_FRAME", "PING", "PONG", "IncomingCall", "Link",
    "LinkServer", "OnChunk", "OnEnd", "connect",
]  # fmt: skip

"""The one HTTP request that the supervisor makes: how does this URL of our own answer?"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from urllib.parse import urlsplit


async def status_of(url: str, patience: float) -> int | None:
    """The status of one GET; None when no answer comes within `patience` seconds. A certificate is not checked: this asks
    whether our own child lives."""
    try:
        async with asyncio.timeout(patience):
            return int(await _status(url))
    except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        return None


async def _status(url: str) -> bytes:
    parts = urlsplit(url)
    assert parts.hostname is not None
    reader, writer = await asyncio.open_connection(
        parts.hostname, parts.port, ssl=_trusting() if parts.scheme == "https" else None
    )
    try:
        writer.write(f"GET {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\nconnection: close\r\n\r\n".encode())
        _, _, rest = (await reader.readuntil(b"\r\n")).partition(b" ")
        return rest[:3]
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def _trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context

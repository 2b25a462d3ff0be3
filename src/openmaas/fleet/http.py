"""The one HTTP request that the supervisor makes: does this URL of our own answer 200?"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from urllib.parse import urlsplit

_PATIENCE = 2.0


async def answers_200(url: str) -> bool:
    """One GET; anything but a 200 within 2 s is False. A certificate is not checked: this asks whether our own child lives."""
    try:
        async with asyncio.timeout(_PATIENCE):
            return await _status_line(url) == b"200"
    except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        return False


async def _status_line(url: str) -> bytes:
    parts = urlsplit(url)
    assert parts.hostname is not None
    reader, writer = await asyncio.open_connection(
        parts.hostname, parts.port, ssl=_trusting() if parts.scheme == "https" else None
    )
    try:
        writer.write(f"GET {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\nconnection: close\r\n\r\n".encode())
        line = await reader.readuntil(b"\r\n")
        return line.split(b" ", 2)[1] if line.count(b" ") else b""
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def _trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context

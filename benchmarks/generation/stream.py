"""One streamed answer of a server that speaks the OpenAI API, read with nothing but the standard library's asyncio."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

PATIENCE = 300.0
"""Seconds that a whole answer may take."""


class StreamError(RuntimeError):
    """The server answered with an error, or its stream ended without saying so."""


@dataclass
class Stream:
    """What came and when, seconds on the performance counter's clock."""

    sent: float
    arrivals: list[float] = field(default_factory=list)
    """Of each piece that had text in it."""
    prompt: int = 0
    completion: int = 0
    """Tokens, as the server counted them."""
    text: str = ""
    finished: str = ""
    ended: float = 0.0

    @property
    def first(self) -> float:
        """Seconds from the request to the first piece, or to the end where no piece had text."""
        return (self.arrivals[0] if self.arrivals else self.ended) - self.sent


async def ask(url: str, headers: Mapping[str, str], body: Mapping[str, Any]) -> Stream:
    """Ask and read the whole stream. Raises StreamError."""
    return await asyncio.wait_for(_ask(url, headers, json.dumps(body).encode()), PATIENCE)


async def _ask(url: str, headers: Mapping[str, str], body: bytes) -> Stream:
    place = urlsplit(url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port, limit=1 << 22)
    try:
        fields = {"Host": place.netloc, "Content-Type": "application/json", "Content-Length": str(len(body)), **headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        stream = Stream(time.perf_counter())
        writer.write(f"POST {place.path} HTTP/1.1\r\n{lines}Connection: close\r\n\r\n".encode() + body)
        status = (await reader.readline()).split()[1:2]
        while (await reader.readline()).strip():
            pass
        if status != [b"200"]:
            raise StreamError(f"status {status}: {(await reader.read(2000)).decode(errors='replace')}")
        async for line in _lines(reader):
            if line == b"data: [DONE]":
                break
            if line.startswith(b"data: "):
                _take(stream, json.loads(line[6:]))
        stream.ended = time.perf_counter()
    finally:
        writer.close()
    stream.completion = stream.completion or len(stream.arrivals)  # one server does not count in streams
    if not stream.finished:  # one server sends no [DONE] after it
        raise StreamError("the stream ended without a reason to finish")
    return stream


async def _lines(reader: asyncio.StreamReader):  # type: ignore[no-untyped-def]
    """Lines of a chunked body: what frames the chunks is no line of an event and passes for an empty or unknown one."""
    while raw := await reader.readline():
        yield raw.strip()


def _take(stream: Stream, event: dict[str, Any]) -> None:
    if "error" in event:
        raise StreamError(str(event["error"]))
    for choice in event.get("choices") or ():
        delta = choice.get("delta") or {}
        stream.finished = choice.get("finish_reason") or stream.finished
        piece = choice.get("text") or delta.get("content") or delta.get("reasoning_content") or delta.get("reasoning") or ""
        if piece:
            stream.arrivals.append(time.perf_counter())
            stream.text += piece
    if usage := event.get("usage"):
        stream.prompt, stream.completion = usage["prompt_tokens"], usage["completion_tokens"]

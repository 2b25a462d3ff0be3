"""A server that answers from a function: for both clients, without a network."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

import msgspec

from openmaas.client.answers import check
from openmaas.client.steps import Request, Response

Answer = Callable[[Request], Response]


def json_answer(value: Any, status: int = 200, **headers: str) -> Response:
    return Response(status, {name.replace("_", "-"): text for name, text in headers.items()}, msgspec.json.encode(value))


def error_answer(status: int, code: str, message: str = "no", **more: Any) -> Response:
    return json_answer({"error": message, "code": code, **more}, status)


class FakeTransport:
    """Blocking; every request is kept in `seen`."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.seen: list[Request] = []

    def send(self, request: Request) -> Response:
        self.seen.append(request)
        return self._answer(request)

    def stream(self, request: Request) -> Iterator[bytes]:
        """The answer's body, ten bytes at a time."""
        response = self.send(request)
        check(response)
        yield from (response.body[start : start + 10] for start in range(0, len(response.body), 10))

    def close(self) -> None: ...


class FakeAsyncTransport:
    """The same, awaited."""

    def __init__(self, answer: Answer) -> None:
        self._blocking = FakeTransport(answer)
        self.seen = self._blocking.seen

    async def send(self, request: Request) -> Response:
        return self._blocking.send(request)

    async def stream(self, request: Request) -> AsyncGenerator[bytes, None]:
        for piece in self._blocking.stream(request):
            yield piece

    async def close(self) -> None: ...

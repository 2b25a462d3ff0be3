"""HTTP on an event loop, by httpx, which is imported at the first request."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

from openmaas.client.answers import check, wrap_failure
from openmaas.client.server import Server
from openmaas.client.steps import Request, Response

if TYPE_CHECKING:
    import httpx


class AsyncTransport:
    """Sends requests to the two doors of one server. Proxies named in the environment are not used."""

    def __init__(self, server: Server, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._server = server
        self._transport = transport
        self._client: httpx.AsyncClient | None = None

    async def send(self, request: Request) -> Response:
        """The answer, whatever its status. Raises Unavailable or DeadlineExceeded when none came."""
        import httpx

        client = self._client = self._client or self._connect()
        try:
            async with client.stream(
                request.method,
                self._url(request),
                content=request.body,
                headers=dict(request.headers),
                timeout=request.timeout,
            ) as answer:
                body = await _read(answer, request)
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise wrap_failure(error, request, self._server) from error
        return Response(answer.status_code, dict(answer.headers), body)

    async def stream(self, request: Request) -> AsyncGenerator[bytes, None]:
        """The body of a good answer as it comes; who stops reading closes the connection. Raises the error that another answer
        tells, and what `send` raises."""
        import httpx

        client = self._client = self._client or self._connect()
        try:
            async with client.stream(
                request.method,
                self._url(request),
                content=request.body,
                headers=dict(request.headers),
                timeout=request.timeout,
            ) as answer:
                if answer.status_code >= 300:
                    check(Response(answer.status_code, dict(answer.headers), await answer.aread()))
                async for piece in answer.aiter_bytes():
                    yield piece
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise wrap_failure(error, request, self._server) from error

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    def _url(self, request: Request) -> str:
        base = self._server.control_url if request.door == "control" else self._server.gateway_url
        return base + request.target

    def _connect(self) -> httpx.AsyncClient:
        import httpx

        headers = {"accept": "application/json"}
        if self._server.api_key:
            headers["authorization"] = f"Bearer {self._server.api_key}"
        https = "https:" in (self._server.control_url[:6], self._server.gateway_url[:6])
        # Loading the system's authorities takes 20 ms; plain HTTP needs none.
        context = (
            ssl.create_default_context(cafile=self._server.ca or None) if https else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        )
        return httpx.AsyncClient(headers=headers, verify=context, trust_env=False, transport=self._transport)


async def _read(answer: httpx.Response, request: Request) -> bytes:
    if request.sink is None or answer.status_code >= 300:
        return await answer.aread()
    async for piece in answer.aiter_bytes():
        request.sink(piece)
    return b""

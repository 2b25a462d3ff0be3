"""Bodies that come in: bounded before they are read, with a deadline, and as strict JSON."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, TypeVar

import msgspec
from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

from openmaas.control.keys import ADMIN, Principal
from openmaas.core.errors import Cancelled, Forbidden, InvalidInput, RequestTimeout, TooLarge

JSON_LIMIT = 2**20
_LEAST = 64 * 1024  # bytes that must arrive within each body_timeout, so that a dripping client does not stay
Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


def allow_body(limit: int) -> Callable[[Endpoint], Endpoint]:
    """Let a route take JSON bodies of more than 1 MiB."""

    def mark(endpoint: Endpoint) -> Endpoint:
        endpoint.body_limit = limit  # type: ignore[attr-defined]
        return endpoint

    return mark


def open_to(*roles: str) -> Callable[[Endpoint], Endpoint]:
    """Let callers of these roles use a route too. One that says nothing is the admins' alone."""

    def mark(endpoint: Endpoint) -> Endpoint:
        endpoint.roles = frozenset(roles)  # type: ignore[attr-defined]
        return endpoint

    return mark


class StrictRequest(Request):
    """A request whose body is read within bounds, however it is asked for."""

    body_limit = JSON_LIMIT

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """The body in pieces. Raises TooLarge, RequestTimeout, and Cancelled when the client is gone."""
        _check_length(self.headers.get("content-length"), self.body_limit)
        pieces = super().stream()
        pace = _Pace(self.app.state.services.settings.body_timeout)
        while True:
            try:
                async with asyncio.timeout_at(pace.deadline):
                    piece = await anext(pieces)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise RequestTimeout(
                    f"The body did not arrive: fewer than {_LEAST} bytes in {pace.seconds:g} s.",
                    next_step="Send it faster, or raise OPENMAAS_BODY_TIMEOUT.",
                ) from None
            except ClientDisconnect:
                raise Cancelled("The client left before its body had arrived.") from None
            if pace.received + len(piece) > self.body_limit:
                raise _too_large(self.body_limit)
            pace.count(len(piece))
            yield piece

    async def read(self, limit: int) -> bytes:
        """The whole body, of at most `limit` bytes."""
        self.body_limit = limit
        return await self.body()

    async def json(self) -> Any:
        """Strict: no NaN, no Infinity, no lone surrogates. Raises InvalidInput that says where it broke."""
        body = await self.body()
        try:
            return msgspec.json.decode(body)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raise InvalidInput(f"The body is not JSON: {error}.", code="invalid_json") from None


class _Pace:
    """Moves the deadline on whenever enough has arrived."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.received = 0
        self._mark = 0
        self._rewind()

    def count(self, size: int) -> None:
        self.received += size
        if self.received - self._mark >= _LEAST:
            self._mark = self.received
            self._rewind()

    def _rewind(self) -> None:
        self.deadline = asyncio.get_running_loop().time() + self.seconds


class StrictRoute(APIRoute):
    """A route whose requests are StrictRequests, without unknown query parameters, from callers whose role may use it."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        limit = getattr(self.endpoint, "body_limit", JSON_LIMIT)
        known = {field.alias for field in self.dependant.query_params}
        roles: frozenset[str] = getattr(self.endpoint, "roles", frozenset())

        async def strict(request: Request) -> Response:
            _check_role(request.scope["principal"], roles)
            _check_query(request, known)
            bounded = StrictRequest(request.scope, request.receive, request._send)
            bounded.body_limit = limit
            return await handle(bounded)

        return strict


def router() -> APIRouter:
    """A router for the routes of one noun."""
    return APIRouter(route_class=StrictRoute)


def _check_role(caller: Principal, roles: frozenset[str]) -> None:
    """Before anything is read."""
    if caller.role != ADMIN and caller.role not in roles:
        raise Forbidden(f"A key with the role {caller.role!r} may not do this.", code="role_forbidden")


def _check_query(request: Request, known: set[str]) -> None:
    """A mistyped parameter would be ignored, and one that is given twice read once."""
    given = [name for name, _ in request.query_params.multi_items()]
    for name in given:
        if name not in known or given.count(name) > 1:
            raise InvalidInput(
                f"The query parameter {name[:80]!r} is {'given twice' if name in known else 'unknown'}.",
                code="invalid_request",
                next_step=f"This route takes {', '.join(sorted(known))}." if known else "This route takes none.",
            )


def _check_length(text: str | None, limit: int) -> None:
    """Before anything is read. A length that lies is found out by counting."""
    if text is not None and not (text.isascii() and text.isdigit()):
        raise InvalidInput(f"Content-Length is {text[:40]!r}.", code="invalid_length")
    if text is not None and (len(text) > 18 or int(text) > limit):
        raise _too_large(limit)


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"The body has more than {limit} bytes.", code="body_too_large")

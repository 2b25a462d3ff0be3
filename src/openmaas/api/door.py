"""The door of control: a request id for each request, a key for all but three routes, and an answer whatever happens.

The routes behind it cannot be open by accident: the application that holds them is reached with a good key or not at all. The
open ones are in a table of their own, matched by their whole path.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Awaitable, Callable

import msgspec
from fastapi import Response
from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from openmaas import __version__
from openmaas.api.answers import error_answer, unexpected
from openmaas.api.services import Services
from openmaas.core.errors import OpenMaaSError
from openmaas.core.log import get_logger

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
_log = get_logger("api")


class Door:
    """An ASGI application around another."""

    def __init__(self, inside: ASGIApp, services: Services) -> None:
        self._inside = inside
        self._services = services
        self.open: dict[str, Callable[[], Awaitable[object]]] = {
            "/health/live": self._live,
            "/health/ready": self._ready,
            "/version": self._version,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._inside(scope, receive, send)
            return
        answer = _Answer(send, _request_id(Headers(scope=scope)))
        scope["request_id"] = answer.request_id
        try:
            await self._enter(scope, receive, answer)
        except OpenMaaSError as error:
            await answer.fail(scope, receive, error)
        except Exception:
            _log.exception("request failed", request_id=answer.request_id, method=scope["method"], path=scope["path"])
            await answer.fail(scope, receive, unexpected())

    async def _enter(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        opened = self.open.get(scope["path"])
        if opened is not None and scope["method"] in ("GET", "HEAD"):
            response = Response(msgspec.json.encode(await opened()), media_type="application/json")
            await response(scope, receive, answer.send)
            return
        scope["principal"] = self._services.keys.authenticate(_credential(Headers(scope=scope)))
        await self._inside(scope, receive, answer.send)

    async def _live(self) -> object:
        return {"live": True}

    async def _ready(self) -> object:
        await run_in_threadpool(self._services.status.check)
        return {"ready": True}

    async def _version(self) -> object:
        return {"version": __version__}


class _Answer:
    """The way back: it carries the request id, and knows how far the answer is."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self.request_id = request_id
        self._begun = self._ended = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._begun = True
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self.request_id
            headers["x-content-type-options"] = "nosniff"
        elif message["type"] == "http.response.body":
            self._ended = not message.get("more_body", False)
        await self._send(message)

    async def fail(self, scope: Scope, receive: Receive, error: OpenMaaSError) -> None:
        """Answer with an error. One that has begun can only be broken off, which the server does for an exception."""
        if self._ended:
            return
        if self._begun:
            raise error
        await error_answer(error.to_wire(self.request_id))(scope, receive, self.send)


def _request_id(headers: Headers) -> str:
    """The client's own where it can be shown, else a new one."""
    given = headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def _credential(headers: Headers) -> str | None:
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else headers.get("x-api-key")

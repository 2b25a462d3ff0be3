"""The HTTP door (granian's RSGI): decode the head, pass the gate, call a replica, write the answer. No rule lives here."""

from __future__ import annotations

import asyncio
import math
import re
import secrets
import time
from typing import Any, Final

import msgspec

from openmaas.core.contracts import Answer, Call, encode
from openmaas.core.errors import InvalidInput, OpenMaaSError, http_body
from openmaas.core.log import get_logger
from openmaas.core.settings import Settings
from openmaas.gateway.exchange import Exchange
from openmaas.gateway.gate import Gate
from openmaas.gateway.metrics import Metrics
from openmaas.gateway.pages import Pages
from openmaas.gateway.router import Router
from openmaas.protocols.routes import Route, parse_path

_decode_answer = msgspec.msgpack.Decoder(Answer).decode
_REQUEST_ID = re.compile(r"[!-~]{1,128}")
_JSON: Final = "application/json"
_KNOWN_PATHS = 4096

Headers = list[tuple[str, str]]


class Door:
    """Answers every HTTP request of one gateway, each exactly once."""

    def __init__(self, settings: Settings, gate: Gate, router: Router, metrics: Metrics, pages: Pages) -> None:
        self._settings = settings
        self._gate = gate
        self._router = router
        self._metrics = metrics
        self._pages = pages
        self._routes: dict[str, Route] = {}
        self._log = get_logger("http")
        # Ids count up behind a random prefix: unique over restarts and gateways, and cheap.
        self._prefix = secrets.token_hex(8)
        self._count = 0

    async def __rsgi__(self, scope: Any, protocol: Any) -> None:
        started = time.perf_counter()
        headers = scope.headers
        request_id = headers.get("x-request-id") or self._next_id()
        route: Route | None = None
        status = 500
        deployment = ""
        try:
            if not _REQUEST_ID.fullmatch(request_id):
                request_id = self._next_id()
                raise InvalidInput("X-Request-ID must be 1 to 128 printable ASCII characters without spaces.")
            route = self._routes.get(scope.path) or self._parse(scope.path)
            if not route.open:
                key = self._gate.authenticate(headers.get("authorization"), headers.get("x-api-key"))
            if scope.method != route.method:
                raise _WrongMethod(route)
            if route.method == "POST" and route.name in ("infer", "v1_predict"):
                target, version = self._router.resolve(route.deployment, route.version)
                deployment = target.deployment.name
                self._gate.authorize(key, route, target.deployment.project)
                status = await self._predict(protocol, headers, route, target, version, request_id, started)
            else:
                status = await self._page(protocol, route, request_id)
        except OpenMaaSError as error:
            status = error.status
            self._refuse(protocol, error, request_id, route)
        except asyncio.CancelledError:
            status = 499
            raise
        except Exception as error:
            self._log.exception("unexpected", request_id=request_id, path=scope.path[:200], reason=repr(error)[:200])
            self._refuse(protocol, OpenMaaSError("Something went wrong inside the gateway."), request_id, route)
        finally:
            seconds = time.perf_counter() - started
            self._metrics.observe(route.name if route else "unknown", deployment, status, seconds)
            if status >= 500 or self._settings.access_log:
                self._log_request(scope, request_id, status, seconds)

    # predictions

    async def _predict(
        self, protocol: Any, headers: Any, route: Route, target: Any, version: int | None, request_id: str, started: float
    ) -> int:
        size = _content_length(headers)
        self._gate.enter(size or 0)
        deadline = asyncio.get_running_loop().time() + _timeout(headers, target.deployment.timeout)
        exchange = Exchange(protocol, deadline, self._settings.body_timeout)
        try:
            body = await exchange.receive(size, self._settings.max_body)
            left = deadline - asyncio.get_running_loop().time()
            call = _call_head(headers, route, target.deployment.name, request_id, left)
            header, answer = await self._router.call(target, version, encode(call), body, deadline)
        except asyncio.CancelledError:
            if exchange.why is None:
                raise
            raise exchange.why from None
        finally:
            exchange.end()
            self._gate.leave(size or 0)
        head = _decode_answer(header)
        protocol.response_bytes(head.status, _answer_headers(head, request_id, time.perf_counter() - started), answer)
        return head.status

    # everything else

    async def _page(self, protocol: Any, route: Route, request_id: str) -> int:
        if route.method == "POST":
            # A body that nobody needs is still read, so that the connection can be used again.
            await asyncio.wait_for(protocol(), self._settings.body_timeout)
        status, content_type, body = await self._pages.answer(route)
        protocol.response_bytes(status, [("content-type", content_type), ("x-request-id", request_id)], body)
        return status

    def _parse(self, path: str) -> Route:
        route = parse_path(path)
        if len(self._routes) < _KNOWN_PATHS:
            self._routes[path] = route
        return route

    def _next_id(self) -> str:
        self._count += 1
        return f"{self._prefix}-{self._count:x}"

    def _refuse(self, protocol: Any, error: OpenMaaSError, request_id: str, route: Route | None) -> None:
        headers: Headers = [("content-type", _JSON), ("x-request-id", request_id)]
        if error.status in (429, 503):
            headers.append(("retry-after", str(max(1, math.ceil(error.retry_after or 1)))))
        if error.status == 401:
            headers.append(("www-authenticate", "Bearer"))
        if isinstance(error, _WrongMethod):
            headers.append(("allow", error.allowed))
        if route is None or error.status in (408, 413):
            headers.append(("connection", "close"))
        protocol.response_bytes(error.status, headers, msgspec.json.encode(http_body(error.to_wire(request_id))))

    def _log_request(self, scope: Any, request_id: str, status: int, seconds: float) -> None:
        level = self._log.warning if status >= 500 else self._log.info
        level(
            "request",
            request_id=request_id,
            method=scope.method,
            path=scope.path[:200],
            status=status,
            ms=round(seconds * 1e3, 2),
        )


class _WrongMethod(OpenMaaSError):
    """The route exists and wants another method."""

    status, default_code = 405, "wrong_method"

    def __init__(self, route: Route) -> None:
        super().__init__(f"This route answers {route.method} only.")
        self.allowed = route.method


def _content_length(headers: Any) -> int | None:
    """Bytes of the body as announced; None when it comes in chunks of unknown length."""
    text = headers.get("content-length")
    if text is None:
        return None if headers.get("transfer-encoding") is not None else 0
    return int(text) if text.isdigit() and len(text) < 19 else None


def _timeout(headers: Any, default: float) -> float:
    """Seconds that the request may take: X-Request-Timeout, at most what the deployment allows."""
    text = headers.get("x-request-timeout")
    if text is None:
        return default
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < 86400:
        raise InvalidInput(f"X-Request-Timeout is {text[:40]!r}; it must be seconds, like 2.5.", code="invalid_header")
    return min(seconds, default)


def _call_head(headers: Any, route: Route, deployment: str, request_id: str, timeout: float) -> Call:
    json_size = -1
    text = headers.get("inference-header-content-length")
    if text is not None:
        if not text.isdigit() or len(text) > 18:
            raise InvalidInput(
                f"Inference-Header-Content-Length is {text[:40]!r}; it must be a whole number.", code="invalid_header"
            )
        json_size = int(text)
    return Call(
        "infer" if route.name == "infer" else "v1_predict",
        request_id,
        timeout,
        "",
        headers.get("content-encoding") or "",
        headers.get("accept-encoding") or "",
        json_size,
        deployment,
    )


def _answer_headers(head: Answer, request_id: str, seconds: float) -> Headers:
    headers: Headers = [("content-type", head.content_type), ("x-request-id", request_id)]
    if head.json_size >= 0:
        headers.append(("inference-header-content-length", str(head.json_size)))
    if head.content_encoding:
        headers.append(("content-encoding", head.content_encoding))
    if head.timing is not None:
        t = head.timing
        overhead = max(0.0, seconds - t.queue - t.batch - t.model)
        headers.append(
            (
                "server-timing",
                f"queue;dur={t.queue * 1e3:.3f}, batch;dur={t.batch * 1e3:.3f}, "
                f"model;dur={t.model * 1e3:.3f}, overhead;dur={overhead * 1e3:.3f}",
            )
        )
    return headers

"""What a request to the gateway means: route, gate, a replica, the answer. Decode, call, encode; no rule lives here.

A prediction passes without a task of its own: its head is judged when it has come, its body is forwarded when that has come,
and the replica's answer is written from the link's callback.
"""

from __future__ import annotations

import asyncio
import math
import re
import secrets

import msgspec

from openmaas.core.contracts import Answer, Call, Key, Operation, Timing, encode
from openmaas.core.errors import DeadlineExceeded, InvalidInput, OpenMaaSError, http_body
from openmaas.core.log import get_logger
from openmaas.core.settings import Settings
from openmaas.gateway.forward import Forward
from openmaas.gateway.gate import Gate
from openmaas.gateway.http import Request
from openmaas.gateway.metrics import Metrics
from openmaas.gateway.pages import Pages
from openmaas.gateway.router import Router, Target
from openmaas.protocols.routes import Route, parse_path

_decode_answer = msgspec.msgpack.Decoder(Answer).decode
_REQUEST_ID = re.compile(rb"[!-~]{1,128}")
_OPERATIONS: dict[str, Operation] = {"infer": "infer", "v1_predict": "v1_predict", "predict": "predict"}
_KNOWN_PATHS = 4096
_KNOWN_PATH_SIZE = 256


class Exchange:
    """One request on its way: who it is, what it asks for, the place that it holds at the gate."""

    route: Route | None = None
    target: Target | None = None
    version: int | None = None
    deployment = ""
    holds = -1  # bytes entered at the gate, -1 for none
    forward: Forward | None = None
    task: asyncio.Task[None] | None = None

    def __init__(self, door: Door, request: Request, request_id: str) -> None:
        self.door = door
        self.request = request
        self.request_id = request_id

    def answered(self, header: bytes, body: bytes, error: OpenMaaSError | None) -> None:
        """What became of the forwarded call."""
        self.door.answer(self, header, body, error)

    def late(self) -> None:
        self._cancel()
        self.door.refuse(
            self.request,
            DeadlineExceeded(
                "The request's time was over before the model answered.",
                next_step="Allow it more time (X-Request-Timeout, seconds), or deploy with more --replicas.",
            ),
        )

    def grow(self, size: int) -> None:
        """More of a chunked body has come."""
        self.door.hold_more(self, size)

    def gone(self) -> None:
        """The client left: nobody works for it any more."""
        self._cancel()
        self.door.count(self, 499)

    def _cancel(self) -> None:
        if self.forward is not None:
            self.forward.cancel()
        if self.task is not None:
            self.task.cancel()


class Door:
    """Answers every request of one gateway, each exactly once."""

    def __init__(self, settings: Settings, gate: Gate, router: Router, metrics: Metrics, pages: Pages) -> None:
        self._settings = settings
        self._gate = gate
        self._router = router
        self._metrics = metrics
        self._pages = pages
        self._routes: dict[bytes, Route] = {}
        self._loop = asyncio.get_running_loop()
        self._log = get_logger("http")
        # Ids count up behind a random prefix: unique over restarts and gateways, and cheap.
        self._prefix = secrets.token_hex(8)
        self._count = 0
        self._refused = 0  # since the last line about it
        self._tell_from = 0.0

    # what the connections call

    def begin(self, request: Request) -> None:
        """Judge a request by its head. Raises the error that refuses it."""
        exchange = self._exchange(request)
        route = exchange.route = self._routes.get(request.target) or self._parse(request.target)
        given = request.headers.get(b"x-request-id")
        if given is not None and not _REQUEST_ID.fullmatch(given):
            raise InvalidInput("X-Request-ID must be 1 to 128 printable ASCII characters.", code="invalid_header")
        if not route.open:
            key = self._gate.authenticate(request.header(b"authorization"), request.header(b"x-api-key"))
        if request.method != route.method and not (request.method == "HEAD" and route.method == "GET"):
            raise _WrongMethod(route)
        if route.predicts:
            self._admit(exchange, route, key)

    def run(self, request: Request) -> None:
        """Answer a request whose body has come."""
        exchange: Exchange = request.state
        request.on_gone = exchange.gone
        try:
            assert exchange.route is not None
            if exchange.route.predicts:
                self._predict(exchange)
            else:
                exchange.task = self._loop.create_task(self._page(exchange, exchange.route))
        except OpenMaaSError as error:
            self.refuse(request, error)
        except Exception as error:
            self._unexpected(exchange, error)

    def refuse(self, request: Request, error: OpenMaaSError) -> None:
        exchange: Exchange = request.state or self._exchange(request)
        headers = f"content-type: application/json\r\nx-request-id: {exchange.request_id}\r\n"
        if error.status in (429, 503):
            headers += f"retry-after: {max(1, math.ceil(error.retry_after or 1))}\r\n"
        elif error.status == 401:
            headers += "www-authenticate: Bearer\r\n"
        elif isinstance(error, _WrongMethod):
            headers += f"allow: {error.allowed}\r\n"
        self._end(exchange, error.status, headers, msgspec.json.encode(http_body(error.to_wire(exchange.request_id))))

    def answer(self, exchange: Exchange, header: bytes, body: bytes, error: OpenMaaSError | None) -> None:
        """Write what a replica told."""
        if error is not None:
            self.refuse(exchange.request, error)
            return
        try:
            head = _decode_answer(header)
        except msgspec.MsgspecError as broken:
            self._unexpected(exchange, broken)
            return
        headers = f"content-type: {head.content_type}\r\nx-request-id: {exchange.request_id}\r\n"
        if head.json_size >= 0:
            headers += f"inference-header-content-length: {head.json_size}\r\n"
        if head.content_encoding:
            headers += f"content-encoding: {head.content_encoding}\r\n"
        if head.timing is not None:
            headers += _server_timing(head.timing, self._loop.time() - exchange.request.started)
        self._end(exchange, head.status, headers, body)

    # before the body

    def _exchange(self, request: Request) -> Exchange:
        given = request.headers.get(b"x-request-id")
        if given is None or not _REQUEST_ID.fullmatch(given):
            self._count += 1
            request_id = f"{self._prefix}-{self._count:x}"
        else:
            request_id = given.decode("ascii")
        exchange = request.state = Exchange(self, request, request_id)
        return exchange

    def _parse(self, target: bytes) -> Route:
        path, _, query = target.decode("latin-1").partition("?")
        route = parse_path(path, query)
        if len(target) <= _KNOWN_PATH_SIZE:  # anybody may ask, also without a key: little is remembered, and not for ever
            if len(self._routes) >= _KNOWN_PATHS:
                self._routes.clear()
            self._routes[target] = route
        return route

    def _admit(self, exchange: Exchange, route: Route, key: Key) -> None:
        target, exchange.version = self._router.resolve(route.deployment, route.version)
        exchange.target = target
        exchange.deployment = target.deployment.name
        self._gate.authorize(key, route, target.deployment.project)
        size = exchange.request.content_length or 0
        self._gate.enter(size)
        exchange.holds = size
        request = exchange.request
        request.max_body = self._settings.max_body
        request.on_gone = exchange.gone
        if request.content_length is None:
            request.on_part = exchange.grow

    def hold_more(self, exchange: Exchange, size: int) -> None:
        self._gate.grow(size)
        exchange.holds += size

    # predictions

    def _predict(self, exchange: Exchange) -> None:
        request, target, route = exchange.request, exchange.target, exchange.route
        assert target is not None and route is not None
        timeout = _timeout(request, target.deployment.timeout)
        call = encode(_call_head(request, route, exchange, timeout))
        request.deadline = self._loop.time() + timeout
        request.on_late = exchange.late
        asked = (route.deployment, route.version)
        forward = Forward(
            self._router, asked, target, exchange.version, call, request.body, request.deadline, exchange.answered
        )
        exchange.forward = forward
        forward.start()

    # everything else

    async def _page(self, exchange: Exchange, route: Route) -> None:
        try:
            status, content_type, body = await self._pages.answer(route, exchange.request.body)
        except OpenMaaSError as error:
            self.refuse(exchange.request, error)
        except Exception as error:
            self._unexpected(exchange, error)
        else:
            self._end(exchange, status, f"content-type: {content_type}\r\nx-request-id: {exchange.request_id}\r\n", body)

    # the end

    def _unexpected(self, exchange: Exchange, error: Exception) -> None:
        self._log.error("unexpected", request_id=exchange.request_id, reason=repr(error)[:300], exc_info=error)
        self.refuse(exchange.request, OpenMaaSError("Something went wrong inside the gateway."))

    def _end(self, exchange: Exchange, status: int, headers: str, body: bytes) -> None:
        if exchange.request.answered:
            return
        exchange.request.answer(status, headers, body)
        exchange.forward = exchange.task = None
        self.count(exchange, status)

    def count(self, exchange: Exchange, status: int) -> None:
        """A request has ended: its place at the gate is free."""
        if exchange.holds >= 0:
            self._gate.leave(exchange.holds)
            exchange.holds = -1
        seconds = self._loop.time() - exchange.request.started
        route = exchange.route
        self._metrics.observe(route.name if route is not None else "unknown", exchange.deployment, status, seconds)
        failed = status >= 500 and not (route is not None and route.open)  # not ready yet is an answer, not a failure
        if self._settings.access_log or (failed and (status != 503 or self._may_tell())):
            self._log_request(exchange.request, exchange.request_id, status, seconds)

    def _may_tell(self) -> bool:
        """Refusals for want of room come by the thousand, and a line costs as much as many of them: one a second is told."""
        self._refused += 1
        if self._loop.time() < self._tell_from:
            return False
        self._tell_from = self._loop.time() + 1.0
        return True

    def _log_request(self, request: Request, request_id: str, status: int, seconds: float) -> None:
        level = self._log.warning if status >= 500 else self._log.info
        path = request.target[:200].decode("latin-1")
        more: dict[str, int] = {}
        if status == 503:
            more, self._refused = {"refused": self._refused}, 0
        level(
            "request",
            request_id=request_id,
            method=request.method,
            path=path,
            status=status,
            ms=round(seconds * 1e3, 2),
            **more,
        )


class _WrongMethod(OpenMaaSError):
    """The route exists and wants another method."""

    status, default_code = 405, "wrong_method"

    def __init__(self, route: Route) -> None:
        super().__init__(f"This route answers {route.method} only.")
        self.allowed = route.method


def _server_timing(timing: Timing, total: float) -> str:
    """The Server-Timing header: milliseconds in the queue, making the batch, in the engine, and everything else.

    `prepare` is there where texts, images or a table had to be made into tensors.
    """
    overhead = max(0.0, total - timing.queue - timing.batch - timing.model - timing.prepare)
    prepare = f"prepare;dur={timing.prepare * 1e3:.3f}, " if timing.prepare else ""
    return (
        f"server-timing: {prepare}queue;dur={timing.queue * 1e3:.3f}, batch;dur={timing.batch * 1e3:.3f}, "
        f"model;dur={timing.model * 1e3:.3f}, overhead;dur={overhead * 1e3:.3f}\r\n"
    )


def _timeout(request: Request, default: float) -> float:
    """Seconds that the request may take: X-Request-Timeout, at most what the deployment allows."""
    text = request.header(b"x-request-timeout")
    if text is None:
        return default
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < 86400:
        raise InvalidInput(f"X-Request-Timeout is {text[:40]!r}; it must be seconds, like 2.5.", code="invalid_header")
    return min(seconds, default)


def _call_head(request: Request, route: Route, exchange: Exchange, timeout: float) -> Call:
    json_size = -1
    text = request.header(b"inference-header-content-length")
    if text is not None:
        if not (text.isascii() and text.isdigit()) or len(text) > 18:
            raise InvalidInput(
                f"Inference-Header-Content-Length is {text[:40]!r}; it must be a whole number.", code="invalid_header"
            )
        json_size = int(text)
    plain = route.name == "predict"
    return Call(
        _OPERATIONS[route.name],
        exchange.request_id,
        timeout,
        (request.header(b"content-type") or "") if plain else "",
        request.header(b"content-encoding") or "",
        request.header(b"accept-encoding") or "",
        json_size,
        exchange.deployment,
        route.top,
    )

"""What a request to the gateway means: route, gate, a replica, the answer. Decode, call, encode; no rule lives here.

A prediction passes without a task of its own: its head is judged when it has come, its body is forwarded when that has come
(where the body names the deployment, that is looked up then), and the replica's answer is written from the link's callback,
whole or part by part.
"""

from __future__ import annotations

import asyncio
import re
import secrets

import msgspec

from openmaas.core.contracts import Answer, Key, encode
from openmaas.core.errors import DeadlineExceeded, InvalidInput, OpenMaaSError, TooLarge, Unavailable, UnsupportedMedia
from openmaas.core.log import get_logger
from openmaas.core.settings import Settings
from openmaas.gateway.forward import Forward
from openmaas.gateway.gate import Gate
from openmaas.gateway.heads import answer_headers, call_head, stream_headers, timeout_of
from openmaas.gateway.http import Request
from openmaas.gateway.metrics import Metrics
from openmaas.gateway.pages import Pages
from openmaas.gateway.refusals import WrongMethod, last_event, refusal
from openmaas.gateway.router import Asked, Router, Target
from openmaas.protocols import openai
from openmaas.protocols.routes import Route, parse_path

_decode_answer = msgspec.msgpack.Decoder(Answer).decode
_REQUEST_ID = re.compile(rb"[!-~]{1,128}")
_KNOWN_PATHS = 4096
_KNOWN_PATH_SIZE = 256


class Exchange:
    """One request on its way: who it is, what it asks for, the place that it holds at the gate."""

    route: Route | None = None
    key: Key | None = None
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

    def part(self, header: bytes, body: bytes) -> None:
        """A part of a streamed answer; the first has its head."""
        if self.request.streaming:
            self.request.write(body)
        else:
            self.door.open_stream(self, header, body)

    def late(self) -> None:
        self._cancel()
        self.door.refuse(
            self.request,
            DeadlineExceeded(
                "The request's time was over before its answer was whole.",
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
            exchange.key = self._gate.authenticate(request.header(b"authorization"), request.header(b"x-api-key"))
        if request.method != route.method and not (request.method == "HEAD" and route.method == "GET"):
            raise WrongMethod(route)
        if route.predicts:
            self._admit(exchange, route)

    def run(self, request: Request) -> None:
        """Answer a request whose body has come."""
        exchange: Exchange = request.state
        request.on_gone = exchange.gone
        try:
            assert exchange.route is not None
            if exchange.route.predicts:
                self._predict(exchange, exchange.route)
            else:
                exchange.task = self._loop.create_task(self._page(exchange, exchange.route))
        except OpenMaaSError as error:
            self.refuse(request, error)
        except Exception as error:
            self._unexpected(exchange, error)

    def refuse(self, request: Request, error: OpenMaaSError) -> None:
        """Tell an error; in the middle of a stream by its last event."""
        exchange: Exchange = request.state or self._exchange(request)
        if not request.streaming:
            self._end(exchange, error.status, *refusal(exchange.route, error, exchange.request_id))
            return
        assert exchange.route is not None
        request.write(last_event(exchange.route, error, exchange.request_id))
        self._end_stream(exchange, error.status, close=True)

    def answer(self, exchange: Exchange, header: bytes, body: bytes, error: OpenMaaSError | None) -> None:
        """Write what a replica told."""
        request = exchange.request
        if error is not None:
            self.refuse(request, error)
        elif request.streaming:
            self._end_stream(exchange, 200)
        else:
            try:
                head = _decode_answer(header)
            except msgspec.MsgspecError as broken:
                self._unexpected(exchange, broken)
                return
            seconds = self._loop.time() - request.started
            self._end(exchange, head.status, answer_headers(head, exchange.request_id, seconds), body)

    def open_stream(self, exchange: Exchange, header: bytes, body: bytes) -> None:
        """Write the head and the first part of an answer that goes on."""
        request = exchange.request
        head, seconds = _decode_answer(header), self._loop.time() - request.started
        request.begin_stream(head.status, stream_headers(head, exchange.request_id, seconds))
        request.write(body)
        self._metrics.first_part(exchange.deployment, seconds)

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

    def _admit(self, exchange: Exchange, route: Route) -> None:
        request, size = exchange.request, exchange.request.content_length or 0
        if route.streams and self._pages.draining:
            raise Unavailable("The gateway is about to stop; it begins nothing that may take long.", code="stopping")
        request.max_body = self._settings.max_body
        if route.named_in_body:
            request.max_body = min(request.max_body, openai.LIMITS.max_body)
            _check_readable(request, size)
        else:
            self._find(exchange, route.deployment, route.version)
        self._gate.enter(size)
        exchange.holds = size
        request.on_gone = exchange.gone
        if request.content_length is None:
            request.on_part = exchange.grow

    def _find(self, exchange: Exchange, name: str, version: str) -> None:
        """The deployment that is asked for, if the key may use it."""
        assert exchange.key is not None
        exchange.target, exchange.version = target, _ = self._router.resolve(name, version)
        exchange.deployment = target.deployment.name
        self._gate.authorize(exchange.key, target.deployment.project)

    def hold_more(self, exchange: Exchange, size: int) -> None:
        self._gate.grow(size)
        exchange.holds += size

    # predictions

    def _predict(self, exchange: Exchange, route: Route) -> None:
        request, body = exchange.request, exchange.request.body
        asked: Asked = (route.deployment, route.version)
        if route.named_in_body:
            asked = (openai.model_of(body), "")
            self._find(exchange, *asked)
        target, key = exchange.target, exchange.key
        assert target is not None and key is not None
        timeout = target.deployment.timeout
        if b"x-request-timeout" in request.headers:
            timeout = timeout_of(request, timeout)
        call = encode(call_head(request, route, exchange.request_id, timeout, exchange.deployment, key.project))
        request.deadline = self._loop.time() + timeout
        request.on_late = exchange.late
        on_part = exchange.part if route.streams else None
        forward = Forward(
            self._router, asked, target, exchange.version, call, body, request.deadline, exchange.answered, on_part
        )
        exchange.forward = forward
        forward.start()

    # everything else

    async def _page(self, exchange: Exchange, route: Route) -> None:
        try:
            status, content_type, body = await self._pages.answer(route, exchange.key, exchange.request.body)
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

    def _end_stream(self, exchange: Exchange, status: int, *, close: bool = False) -> None:
        """status: what became of it, also where its head has said otherwise."""
        if exchange.request.answered:
            return
        exchange.request.end(close=close)
        exchange.forward = None
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


def _check_readable(request: Request, size: int) -> None:
    """What must be read here takes time from everybody else's requests: it is bounded, and taken as it is."""
    if size > request.max_body:
        raise TooLarge(
            f"The body has {size} bytes; at most {request.max_body} are read here.",
            code="body_too_large",
            next_step="Send a shorter conversation or fewer prompts.",
        )
    coding = request.header(b"content-encoding")
    if coding is not None and coding.strip().lower() not in ("", "identity"):
        raise UnsupportedMedia(
            f"This route takes no body with Content-Encoding {coding[:40]!r}.",
            code="coding_not_taken",
            next_step="Send the JSON as it is.",
        )

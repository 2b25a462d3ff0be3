"""From a client's head to a replica's call, and from a replica's head to a client's."""

from __future__ import annotations

import math

from openmaas.core.contracts import Answer, Call, Timing
from openmaas.core.errors import InvalidInput
from openmaas.gateway.http import Request
from openmaas.protocols.routes import Route

_STREAM = "cache-control: no-cache\r\nx-accel-buffering: no\r\n"  # the second asks the same of nginx


def call_head(request: Request, route: Route, request_id: str, timeout: float, deployment: str, project: str) -> Call:
    return Call(
        route.name,  # type: ignore[arg-type]  # one that predicts is named as what a replica is asked for
        request_id,
        timeout,
        _text(request, b"content-type") if route.name == "predict" else "",
        # To see that a header is not there is cheaper than to ask for it, and most of these are not.
        _text(request, b"content-encoding") if b"content-encoding" in request.headers else "",
        _text(request, b"accept-encoding") if b"accept-encoding" in request.headers else "",
        _json_size(request) if b"inference-header-content-length" in request.headers else -1,
        deployment,
        route.top,
        project,
    )


def _text(request: Request, name: bytes) -> str:
    return request.header(name) or ""


def _json_size(request: Request) -> int:
    text = _text(request, b"inference-header-content-length")
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise InvalidInput(
            f"Inference-Header-Content-Length is {text[:40]!r}; it must be a whole number.", code="invalid_header"
        )
    return int(text)


def timeout_of(request: Request, default: float) -> float:
    """Seconds that a request with X-Request-Timeout may take: at most what the deployment allows."""
    text = _text(request, b"x-request-timeout")
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < 86400:
        raise InvalidInput(f"X-Request-Timeout is {text[:40]!r}; it must be seconds, like 2.5.", code="invalid_header")
    return min(seconds, default)


def answer_headers(head: Answer, request_id: str, seconds: float) -> str:
    """Header lines of an answer that took so long."""
    headers = f"content-type: {head.content_type}\r\nx-request-id: {request_id}\r\n"
    if head.json_size >= 0:
        headers += f"inference-header-content-length: {head.json_size}\r\n"
    if head.content_encoding:
        headers += f"content-encoding: {head.content_encoding}\r\n"
    if head.timing is not None:
        headers += _server_timing(head.timing, seconds)
    return headers


def stream_headers(head: Answer, request_id: str, seconds: float) -> str:
    """Those of an answer in parts, whose first part took so long: nobody on the way may keep parts back."""
    return answer_headers(head, request_id, seconds) + _STREAM


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

"""Errors as the clients of each route read them."""

from __future__ import annotations

import math

import msgspec

from openmaas.core.errors import OpenMaaSError, http_body
from openmaas.protocols import openai
from openmaas.protocols.routes import Route

_NO_MODEL = ("deployment_not_found", "version_not_served")


class WrongMethod(OpenMaaSError):
    """The route exists and wants another method."""

    status, default_code = 405, "wrong_method"

    def __init__(self, route: Route) -> None:
        super().__init__(f"This route answers {route.method} only.")
        self.allowed = route.method


def refusal(route: Route | None, error: OpenMaaSError, request_id: str) -> tuple[str, bytes]:
    """Header lines and body."""
    headers = f"content-type: application/json\r\nx-request-id: {request_id}\r\n"
    if error.status in (429, 503):
        headers += f"retry-after: {max(1, math.ceil(error.retry_after or 1))}\r\n"
    elif error.status == 401:
        headers += "www-authenticate: Bearer\r\n"
    elif isinstance(error, WrongMethod):
        headers += f"allow: {error.allowed}\r\n"
    wire = error.to_wire(request_id)
    if route is None or not route.openai:
        return headers, msgspec.json.encode(http_body(wire))
    if error.code in _NO_MODEL:
        wire = msgspec.structs.replace(wire, code="model_not_found", param="model")
    return headers, openai.error_body(wire)


def last_event(route: Route, error: OpenMaaSError, request_id: str) -> bytes:
    """What ends a stream that has begun and cannot go on: clients of this route raise on it."""
    return openai.error_event(route.name, error.to_wire(request_id))

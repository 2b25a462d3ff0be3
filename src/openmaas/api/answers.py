"""Errors as answers: one JSON object each, with a code and a request id, and never a path or a traceback."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from openmaas.core.errors import InvalidInput, OpenMaaSError, WireError, http_body

_RETRY = frozenset({429, 503})


def error_answer(wire: WireError) -> Response:
    """The answer that tells an error; 429 and 503 say when to come back."""
    headers = {}
    if wire.status in _RETRY:
        headers["retry-after"] = str(max(1, math.ceil(wire.retry_after or 1)))
    if wire.status == 401:
        headers["www-authenticate"] = "Bearer"
    return Response(msgspec.json.encode(http_body(wire)), wire.status, headers, "application/json")


async def on_error(request: Request, error: Exception) -> Response:
    """An error of ours."""
    assert isinstance(error, OpenMaaSError)
    return error_answer(error.to_wire(request.scope["request_id"]))


async def on_http_error(request: Request, error: Exception) -> Response:
    """FastAPI's own: no such route, another method; or what it made of an error of ours while it read the body."""
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, OpenMaaSError):
        return await on_error(request, error.__cause__)
    code = {404: "no_such_route", 405: "method_not_allowed"}.get(error.status_code, "invalid_input")
    text = f"{request.method} {request.url.path[:200]}: {error.detail}."
    answer = error_answer(WireError(text, code, error.status_code, request_id=request.scope["request_id"]))
    answer.headers.update(error.headers or {})
    return answer


async def on_failure(request: Request, error: Exception) -> Response:
    """Anything else, which the door logs."""
    return await on_error(request, unexpected())


def unexpected() -> OpenMaaSError:
    """What a caller is told of a mistake of ours."""
    return OpenMaaSError("Something went wrong inside control; its log says more.")


async def on_invalid_request(request: Request, error: Exception) -> Response:
    """A body or parameter that is not what the route takes: the first thing that is wrong, by its name."""
    assert isinstance(error, RequestValidationError)
    json = request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"
    return await on_error(request, _invalid(error.errors(), json))


def _invalid(errors: Sequence[Any], json: bool) -> InvalidInput:
    first = errors[0]
    where = ".".join(str(part) for part in first["loc"][1:]) or "The body"
    place = f"{first['loc'][0]} {where}" if len(first["loc"]) > 1 else "The body"
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    next_step = None if json or first["loc"][0] != "body" else "Send JSON, with the header 'Content-Type: application/json'."
    return InvalidInput(f"{place[:200]}: {first['msg']}{more}.", code="invalid_request", next_step=next_step)

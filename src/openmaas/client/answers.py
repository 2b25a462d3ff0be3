"""From HTTP answers, and from what went wrong before one came, to values and errors of ours."""

from __future__ import annotations

import ssl
from typing import TypeVar

import msgspec

from openmaas.client.server import Server
from openmaas.client.steps import Operation, Request, Response
from openmaas.core.errors import DeadlineExceeded, OpenMaaSError, Unavailable, WireError

T = TypeVar("T")


class _OpenAI(msgspec.Struct):
    """How the routes under /v1 tell an error."""

    message: str
    code: str | None = None
    request_id: str | None = None


class _Body(msgspec.Struct):
    error: str | _OpenAI
    code: str = "internal"
    next_step: str | None = None
    request_id: str | None = None


def fetch(request: Request, kind: type[T]) -> Operation[T]:
    """Send a request to control and decode its answer. Raises the error that the answer tells."""
    response: Response = yield request
    check(response)
    return decode(response, kind)


def decode(response: Response, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(response.body, type=kind)
    except msgspec.MsgspecError as error:
        raise OpenMaaSError(
            f"The server's answer is not what this client understands: {error}.",
            code="bad_answer",
            next_step="Compare `openmaas version` here and on the server.",
        ) from None


def check(response: Response) -> None:
    """Nothing for a good answer, else raises the error that it tells."""
    if response.status < 300:
        return
    try:
        body = msgspec.json.decode(response.body, type=_Body)
    except msgspec.MsgspecError:
        text = response.body[:200].decode("utf-8", "replace").strip()
        body = _Body(error=f"The server answered HTTP {response.status}" + (f": {text}" if text else "."))
    told = body.error if isinstance(body.error, _OpenAI) else _OpenAI(body.error, body.code, body.request_id)
    raise OpenMaaSError.from_wire(
        WireError(
            error=told.message,
            code=told.code or "internal",
            status=response.status,
            next_step=body.next_step,
            retry_after=_seconds(response.headers.get("retry-after")),
            request_id=told.request_id or response.headers.get("x-request-id"),
        )
    )


def _seconds(text: str | None) -> float | None:
    return float(text) if text and text.isascii() and text.isdigit() else None


def wrap_failure(error: Exception, request: Request, server: Server) -> OpenMaaSError:
    """What a transport raised instead of an answer, as an error of ours that names the URL."""
    url = server.control_url if request.door == "control" else server.gateway_url
    variable = "OPENMAAS_URL" if request.door == "control" else "OPENMAAS_GATEWAY_URL"
    cause = _innermost(error)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return Unavailable(
            f"The certificate of {url} is not trusted: {cause.verify_message}.",
            code="untrusted_certificate",
            next_step="Set OPENMAAS_CA to the PEM file of its certificate or of the authority that signed it.",
        )
    if isinstance(cause, TimeoutError) or "Timeout" in type(error).__name__:
        return DeadlineExceeded(
            f"{url} did not answer {request.method} {request.target} within {request.timeout:g} s.",
            code="client_timeout",
            next_step="Look at `openmaas status`, or allow more time.",
        )
    reason = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    return Unavailable(
        f"No answer from {url} ({reason}).",
        code="unreachable",
        next_step=f"Start a server with `openmaas up`, or set {variable} to where one runs.",
    )


def _innermost(error: BaseException) -> BaseException:
    """What a library raised its own error from, or wrapped in it."""
    while inner := error.__cause__ or next((part for part in error.args if isinstance(part, BaseException)), None):
        error = inner
    return error

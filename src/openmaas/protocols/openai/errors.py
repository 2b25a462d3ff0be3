"""Errors in the words of this protocol, as a body or as an event in the middle of a stream."""

from __future__ import annotations

from typing import Any, Final

from openmaas.core.errors import WireError
from openmaas.protocols.generation.wire import encode, event

_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


def error_body(wire: WireError, request_id: str | None = None) -> bytes:
    """The JSON object that a door answers with."""
    return encode({"error": _error(wire, request_id)})


def error_event(operation: str, wire: WireError) -> bytes:
    """What ends a stream of chat, completions, responses or generate_stream that cannot go on. Nothing follows it: the end of
    a good stream is missing as well."""
    if operation == "generate_stream":
        return event(encode({"error": _message(wire)}))
    error = _error(wire, None)
    if operation != "responses":
        return event(encode({"error": error}))
    # The client raises where it finds `error`; without it, it would hand the event on as one of many.
    flat = {"type": "error", "sequence_number": 0, "code": error["code"], "message": error["message"], "param": error["param"]}
    return b"event: error\n" + event(encode(flat | {"error": error}))


def _error(wire: WireError, request_id: str | None) -> dict[str, Any]:
    kind = _TYPES.get(wire.status) or ("invalid_request_error" if wire.status < 500 else "server_error")
    error: dict[str, Any] = {"message": _message(wire), "type": kind, "param": wire.param, "code": wire.code}
    if identity := request_id or wire.request_id:
        error["request_id"] = identity
    return error


def _message(wire: WireError) -> str:
    return f"{wire.error} {wire.next_step}" if wire.next_step else wire.error

"""Errors as the client meets them: before an answer, and in the middle of a stream."""

from __future__ import annotations

from typing import Any

import msgspec
import openai
import pytest
from openai.types.responses import ResponseErrorEvent

from openmaas.core import errors
from openmaas.core.errors import InvalidInput, OpenMaaSError, Unavailable, WireError
from openmaas.protocols.generation import Delta
from openmaas.protocols.openai import error_body, error_event
from tests.unit.protocols.openai.asks import client, streamed

BROKE = Unavailable("The replica ended.", code="replica_lost", next_step="Try again.").to_wire("r1")


def test_a_refused_parameter_keeps_its_name_over_the_wire() -> None:
    error = InvalidInput("temperature is 3.", code="out_of_range", next_step="Send less.", param="temperature")
    wire = msgspec.msgpack.decode(msgspec.msgpack.encode(error.to_wire("r1")), type=WireError)
    assert OpenMaaSError.from_wire(wire).param == "temperature"
    assert msgspec.json.decode(error_body(wire)) == {
        "error": {
            "message": "temperature is 3. Send less.",
            "type": "invalid_request_error",
            "param": "temperature",
            "code": "out_of_range",
            "request_id": "r1",
        }
    }


@pytest.mark.parametrize(
    ("kind", "raised", "name"),
    [
        (errors.InvalidInput, openai.BadRequestError, "invalid_request_error"),
        (errors.Unauthenticated, openai.AuthenticationError, "authentication_error"),
        (errors.Forbidden, openai.PermissionDeniedError, "permission_error"),
        (errors.NotFound, openai.NotFoundError, "not_found_error"),
        (errors.Conflict, openai.ConflictError, "invalid_request_error"),
        (errors.TooLarge, openai.APIStatusError, "invalid_request_error"),
        (errors.Refused, openai.UnprocessableEntityError, "invalid_request_error"),
        (errors.LimitReached, openai.RateLimitError, "rate_limit_error"),
        (errors.EngineFailed, openai.InternalServerError, "server_error"),
        (errors.Unavailable, openai.InternalServerError, "server_error"),
    ],
)
def test_the_client_raises_its_own_error(kind: type[OpenMaaSError], raised: type[openai.APIStatusError], name: str) -> None:
    error = kind("It failed.", param="model")
    with pytest.raises(raised, match="It failed") as caught:
        client(error_body(error.to_wire(), "r9"), status=kind.status).models.list()
    assert (caught.value.type, caught.value.param, caught.value.code) == (name, "model", kind.default_code)
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["request_id"] == "r9"


@pytest.mark.parametrize("operation", ["chat", "completions", "responses"])
def test_the_client_raises_in_the_middle_of_a_stream(operation: str) -> None:
    good = streamed(operation, [Delta(text="Hel")])
    begun = good[: good.index(b"Hel")] + good[good.index(b"Hel") :].split(b"\n\n", 1)[0] + b"\n\n"
    caller = client(begun + error_event(operation, BROKE))
    opened: Any
    if operation == "chat":
        opened = caller.chat.completions.create(model="w", messages=[{"role": "user", "content": "x"}], stream=True)
    elif operation == "completions":
        opened = caller.completions.create(model="w", prompt="x", stream=True)
    else:
        opened = caller.responses.create(model="w", input="x", stream=True)
    seen = []
    with pytest.raises(openai.APIError, match=r"The replica ended\. Try again\.") as caught:
        seen.extend(opened)
    assert caught.value.code == "replica_lost"
    assert "Hel" in repr(seen)


def test_the_error_event_of_responses_is_of_its_own_form() -> None:
    name, data = error_event("responses", BROKE).rstrip().split(b"\n")
    assert name == b"event: error"
    event = ResponseErrorEvent.model_validate_json(data.removeprefix(b"data: "), strict=True)
    assert (event.message, event.code, event.param) == ("The replica ended. Try again.", "replica_lost", None)


def test_the_error_event_of_generate() -> None:
    assert error_event("generate_stream", BROKE) == b'data: {"error":"The replica ended. Try again."}\n\n'

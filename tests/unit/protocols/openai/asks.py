"""Bodies that the tests of these protocols write, and the unmodified client reading what is written."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import msgspec
import openai
import pytest

from openmaas.core.errors import InvalidInput
from openmaas.core.generation import TokenText, ToolCall
from openmaas.protocols.generation import Ask, Choice, Delta, Finish, Usage, Writer
from openmaas.protocols.openai import decode_ask, open_writer

_http = importlib.import_module(
    openai.DefaultHttpxClient.__mro__[1].__module__.partition(".")[0]
)  # the one that it is built on

MESSAGES = [{"role": "user", "content": "Say hello."}]
MINIMAL: dict[str, dict[str, Any]] = {
    "chat": {"model": "writer", "messages": MESSAGES},
    "completions": {"model": "writer", "prompt": "Once"},
    "responses": {"model": "writer", "input": "Say hello."},
    "generate": {"text_input": "Once"},
    "generate_stream": {"text_input": "Once"},
}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL = ToolCall(id="call_1", name="weather", arguments='{"city": "Graz"}')
USAGE = Usage(prompt=7, completion=3, cached=4)
GRUESSE = (
    TokenText(text="Gr", data=b"Gr", logprob=-0.25, top=(("Gr", b"Gr", -0.25), ("Hi", b"Hi", -2.0))),
    TokenText(text="�", data=b"\xc3", logprob=-0.5, top=(("�", b"\xc3", -0.5), ("u", b"u", -3.0))),
    TokenText(text="�", data=b"\xbc", logprob=float("-inf"), top=(("�", b"\xbc", -0.1), ("�", b"\xb6", -0.2))),
    TokenText(text="ße", data="ße".encode(), logprob=float("nan")),
)
"""The text Grüße in tokens that cut a character; probabilities that JSON cannot carry are among them."""


def ask(operation: Any, /, **fields: Any) -> Ask:
    """What becomes of the least request of an operation with these fields."""
    return decode_ask(operation, msgspec.json.encode(MINIMAL[operation] | fields))


def sampled(operation: str, **fields: Any) -> Ask:
    """The same; sampling stands where the operation has it."""
    return ask(operation, parameters=fields) if operation.startswith("generate") else ask(operation, **fields)


def refused(call: Callable[[], object]) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        call()
    assert len(str(caught.value)) < 1000
    return caught.value


def writer(operation: Any, request: Ask) -> Writer:
    return open_writer(operation, request, "r1", "writer", 3, 1_700_000_000)


def streamed(operation: str, deltas: list[Delta], finish: Finish = "stop", /, **fields: Any) -> bytes:
    """A whole stream of one answer."""
    if not operation.startswith("generate"):
        fields["stream"] = True
    made = writer(operation, ask(operation, **fields))
    assert made.content_type == "text/event-stream; charset=utf-8"
    parts = [made.start(), *(made.delta(0, delta) for delta in deltas), made.finish(0, finish), made.end(USAGE)]
    return b"".join(parts)


def whole(operation: str, *choices: Choice, **fields: Any) -> bytes:
    made = writer(operation, ask(operation, **fields))
    assert made.content_type == "application/json"
    return made.whole(choices, USAGE)


def events(stream: bytes) -> list[tuple[str, Any]]:
    """Name and data of each event but [DONE]; the data is JSON without NaN."""
    assert stream.endswith(b"\n\n")
    found = []
    for block in stream[:-2].split(b"\n\n"):
        *names, data = block.split(b"\n")
        assert len(names) <= 1
        assert data.startswith(b"data: ")
        if data != b"data: [DONE]":
            name = names[0].removeprefix(b"event: ").decode() if names else ""
            found.append((name, msgspec.json.decode(data.removeprefix(b"data: "))))
    return found


def client(body: bytes, *, status: int = 200, sent: list[Any] | None = None) -> openai.OpenAI:
    """The client, in front of a server that answers this. sent: gets the bodies that the client sends."""
    kind = "text/event-stream" if body.startswith((b"data:", b"event:")) else "application/json"

    def answer(request: Any) -> Any:
        if sent is not None:
            sent.append(request.content)
        return _http.Response(status, content=body, headers={"content-type": kind})

    http = openai.DefaultHttpxClient(transport=_http.MockTransport(answer))
    return openai.OpenAI(api_key="none", base_url="http://writer.test/v1", max_retries=0, http_client=http)


def unknown_fields(model: Any, *, allowed: tuple[str, ...] = ()) -> set[str]:
    """Names in a parsed answer that the client's own types do not have."""
    if isinstance(model, list | tuple):
        return {name for item in model for name in unknown_fields(item, allowed=allowed)}
    if not hasattr(model, "model_extra"):
        return set()
    extra = set(model.model_extra or {}) - set(allowed)
    return extra.union(*(unknown_fields(getattr(model, name), allowed=allowed) for name in type(model).model_fields))

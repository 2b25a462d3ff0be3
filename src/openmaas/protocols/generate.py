"""The generate extension of the Open Inference Protocol: POST /v2/models/{m}/generate and …/generate_stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from openmaas.core.generation import TEXT_INPUT, TEXT_OUTPUT
from openmaas.protocols.generation import Ask, Choice, Delta, Finish, Usage
from openmaas.protocols.generation.body import Body, BodyReader, check_count, decode, not_supported
from openmaas.protocols.generation.limits import Limits
from openmaas.protocols.generation.prompts import check_answers
from openmaas.protocols.generation.sampling import SAMPLING, read_sampling
from openmaas.protocols.generation.wire import EVENTS, JSON, encode, event, usage_of

_NEXT: Final = "It is a text or a list of texts."
_reader = BodyReader("generate", ("id", TEXT_INPUT, "parameters"))
_parameters = BodyReader("parameters", (*SAMPLING, "max_tokens", "stream"))


def decode_generate(body: bytes, limits: Limits) -> Ask:
    """Texts to be continued as they are, each with one whole answer. Raises InvalidInput that names the parameter."""
    return _decode(body, limits, stream=False)


def decode_generate_stream(body: bytes, limits: Limits) -> Ask:
    """The same, to be answered as it comes."""
    return _decode(body, limits, stream=True)


def _decode(body: bytes, limits: Limits, *, stream: bool) -> Ask:
    request = _reader.read(body, limits.max_body)
    identity = request.text("id", limits.max_text)
    came: str | list[str] = decode(TEXT_INPUT, request.needed(TEXT_INPUT), str | list[str], next_step=_NEXT)
    prompts = [came] if isinstance(came, str) else came
    check_count(TEXT_INPUT, prompts, limits.max_prompts)
    request.take("parameters", dict[str, msgspec.Raw])
    parameters = _parameters.read(bytes(request.raw("parameters") or b"{}"), limits.max_body)
    _check_stream(parameters, stream=stream)
    sampling = read_sampling(parameters, limits)
    check_answers(TEXT_INPUT, prompts, sampling["n"], limits)
    return Ask(
        prompts=prompts,
        max_tokens=parameters.whole("max_tokens", 1, limits.max_tokens),
        stream=stream,
        given=request.given | parameters.given,
        repeated={"id": identity, "listed": isinstance(came, list)},
        **sampling,
    )


def _check_stream(parameters: Body, *, stream: bool) -> None:
    """It may be said again, but the route decides."""
    said: bool | None = parameters.take("stream", bool)
    if said is not None and said != stream:
        other = "generate" if stream else "generate_stream"
        raise not_supported(
            "stream",
            f"it is {msgspec.json.encode(said).decode()}, and the route says otherwise",
            next_step=f"Post to …/{other}.",
        )


class GenerateWriter:
    """A list of texts where a list came or several answers were asked for; in a stream, `index` then tells the pieces apart."""

    def __init__(self, ask: Ask, *, request_id: str, deployment: str, version: str, created: int) -> None:
        self.content_type = EVENTS if ask.stream else JSON
        answers = len(ask.prompts) * ask.n
        identity = ask.repeated.get("id")
        self._head = {**({} if identity is None else {"id": identity}), "model_name": deployment, "model_version": version}
        self._one = answers == 1 and not ask.repeated.get("listed")
        heads = [self._head if self._one else self._head | {"index": index} for index in range(answers)]
        self._starts = [b'data: %b,"%b":' % (encode(head)[:-1], TEXT_OUTPUT.encode()) for head in heads]

    def start(self) -> bytes:
        return b""

    def delta(self, index: int, delta: Delta) -> bytes:
        return self._starts[index] + encode(delta.text) + b"}\n\n" if delta.text else b""

    def finish(self, index: int, finish: Finish) -> bytes:
        return self._starts[index] + b'"","finish_reason":%b}\n\n' % encode(finish)

    def end(self, usage: Usage) -> bytes:
        return event(encode(self._head | {TEXT_OUTPUT: "", "usage": usage_of(usage)}))

    def whole(self, choices: Sequence[Choice], usage: Usage) -> bytes:
        texts: Any = [choice.text for choice in choices]
        reasons: Any = [choice.finish for choice in choices]
        if self._one:
            (texts,), (reasons,) = texts, reasons
        return encode(self._head | {TEXT_OUTPUT: texts, "finish_reason": reasons, "usage": usage_of(usage)})

"""A request for generated text and its answer, whichever protocol they come in: what decoders give and writers take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol, TypeAlias

import msgspec

from openmaas.core.generation import Message, TokenText, ToolCall

Finish: TypeAlias = Literal["stop", "length", "tool_calls"]


class Ask(msgspec.Struct, kw_only=True):
    """What a caller asks for, checked and within its bounds. None stands for what they left open.

    Either `messages` (a conversation, for the chat template) or `prompts`, texts or token ids, each answered `n` times.
    tool_choice: auto, none, required, or the name of one of `tools` (OpenAI's objects, checked). template_variables: for the
    chat template, which itself comes with the model only. max_tokens: of each answer. logprobs: as core.generation.Sampling
    has it. schema: text of the JSON schema that each answer must follow. stop: texts that end an answer and are cut off.
    echo: the answer begins with the prompt. given: names of all parameters that came, to refuse by name what cannot be done.
    repeated: what the protocol's answer says again of the request, by name: for the writer alone.
    """

    messages: list[Message] | None = None
    prompts: Sequence[str | list[int]] = ()
    tools: list[dict[str, Any]] = []
    tool_choice: str = "auto"
    template_variables: dict[str, Any] = {}
    n: int = 1
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    logprobs: int = -1
    stop: tuple[str, ...] = ()
    schema: str | None = None
    echo: bool = False
    stream: bool = False
    include_usage: bool = False
    given: frozenset[str] = frozenset()
    repeated: dict[str, Any] = {}


class Delta(msgspec.Struct, kw_only=True):
    """More of one answer. tool_calls are whole, numbered from `first_tool` on."""

    text: str = ""
    tool_calls: Sequence[ToolCall] = ()
    first_tool: int = 0
    logprobs: Sequence[TokenText] | None = None


class Choice(msgspec.Struct, kw_only=True):
    """One whole answer."""

    index: int
    text: str
    finish: Finish
    tool_calls: Sequence[ToolCall] = ()
    logprobs: Sequence[TokenText] | None = None


class Usage(msgspec.Struct, kw_only=True):
    """The engine's own tokens. prompt: of each prompt once, however many answers it got. cached: of these, from a prefix that
    was there already, None where the engine does not say."""

    prompt: int = 0
    completion: int = 0
    cached: int | None = 0


class Writer(Protocol):
    """Writes one request's answer in its protocol: either `whole`, or `start`, any of `delta` and `finish`, and `end`.

    Each gives bytes ready for the wire, empty where the protocol has nothing to say. index: of the answer, from 0.
    """

    content_type: str

    def start(self) -> bytes: ...

    def delta(self, index: int, delta: Delta) -> bytes: ...

    def finish(self, index: int, finish: Finish) -> bytes: ...

    def end(self, usage: Usage) -> bytes: ...

    def whole(self, choices: Sequence[Choice], usage: Usage) -> bytes: ...

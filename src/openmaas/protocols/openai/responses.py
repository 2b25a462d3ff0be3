"""POST /v1/responses: the request."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from openmaas.core.errors import InvalidInput
from openmaas.core.generation import Message
from openmaas.protocols.generation import Ask
from openmaas.protocols.generation.body import Body, BodyReader, check_count, decode, not_supported
from openmaas.protocols.generation.limits import Limits
from openmaas.protocols.generation.sampling import read_include_usage, read_sampling, read_variables
from openmaas.protocols.openai.conversation import call_message
from openmaas.protocols.openai.tools import read_format, read_tool_choice, read_tools

_SAMPLING: Final = (
    "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty", "seed", "stop",
)  # fmt: skip
_REPEATED: Final = (
    "instructions", "max_output_tokens", "max_tool_calls", "metadata", "prompt_cache_key", "safety_identifier", "temperature",
    "text", "tool_choice", "tools", "top_p", "user",
)  # fmt: skip
_NEXT: Final = (
    "Items are messages with input_text or output_text, function_call and function_call_output; send the whole conversation."
)
_reader = BodyReader(
    "responses",
    (
        *_SAMPLING, "input", "instructions", "max_output_tokens", "text", "tools", "tool_choice", "stream", "stream_options",
        "chat_template_kwargs",
    ),
)  # fmt: skip


class _InputText(msgspec.Struct, tag_field="type", tag="input_text", forbid_unknown_fields=True):
    text: str


class _OutputText(msgspec.Struct, tag_field="type", tag="output_text", forbid_unknown_fields=True):
    """Of an earlier answer that comes back; its text is all that is read again."""

    text: str
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None


_Content = str | list[_InputText | _OutputText]
_Status = Literal["in_progress", "completed", "incomplete"]


class _Kind(msgspec.Struct):
    type: str = "message"


class _Message(msgspec.Struct, forbid_unknown_fields=True):
    role: Literal["user", "assistant", "system", "developer"]
    content: _Content
    type: Literal["message"] = "message"
    id: str | None = None
    status: _Status | None = None
    phase: None = None


class _FunctionCall(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    id: str | None = None
    status: _Status | None = None


class _FunctionCallOutput(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["function_call_output"]
    call_id: str
    output: _Content
    id: str | None = None
    status: _Status | None = None


class _TextOptions(msgspec.Struct, forbid_unknown_fields=True):
    format: msgspec.Raw = msgspec.Raw(b"null")
    verbosity: Literal["medium"] | None = None


_ITEMS: Final[dict[str, Any]] = {
    "message": _Message,
    "function_call": _FunctionCall,
    "function_call_output": _FunctionCallOutput,
}


def decode_responses(body: bytes, limits: Limits) -> Ask:
    """A conversation to be continued. Raises InvalidInput that names the parameter."""
    request = _reader.read(body, limits.max_body)
    stream = request.flag("stream")
    read_include_usage(request, stream=stream)  # this protocol's last event tells it anyway
    tools = read_tools(request, limits, flat=True)
    return Ask(
        messages=_conversation(request, limits),
        tools=tools,
        tool_choice=read_tool_choice(request, tools, flat=True),
        template_variables=read_variables(request, limits),
        max_tokens=request.whole("max_output_tokens", 1, limits.max_tokens),
        schema=_schema(request, limits),
        stream=stream,
        given=request.given,
        repeated={name: msgspec.json.decode(raw) for name in _REPEATED if (raw := request.raw(name)) is not None},
        **read_sampling(request, limits),
    )


def _schema(request: Body, limits: Limits) -> str | None:
    options: _TextOptions = request.take("text", _TextOptions) or _TextOptions()
    given = None if bytes(options.format) == b"null" else options.format
    return read_format("text.format", given, limits, flat=True)


def _conversation(request: Body, limits: Limits) -> list[Message]:
    instructions: str | None = request.take("instructions", str)
    raw = request.needed("input")
    start: list[Message] = [] if instructions is None else [{"role": "system", "content": instructions}]
    if bytes(memoryview(raw)[:1]) == b'"':
        return [*start, {"role": "user", "content": decode("input", raw, str)}]
    items: list[msgspec.Raw] = decode("input", raw, list[msgspec.Raw], next_step=_NEXT)
    check_count("input", items, limits.max_messages)
    conversation = _Conversation(start, limits)
    for index, item in enumerate(items):
        conversation.add(f"input[{index}]", item)
    return conversation.messages


class _Conversation:
    """Items as messages: the calls that follow one another are one message of the assistant's."""

    def __init__(self, messages: list[Message], limits: Limits) -> None:
        self.messages = messages
        self._limits = limits
        self._called: set[str] = set()

    def add(self, where: str, raw: msgspec.Raw) -> None:
        kind: str = decode(where, raw, _Kind, next_step=_NEXT).type
        if kind not in _ITEMS:
            raise not_supported(f"{where}.type", f"it is {kind[:40]!r}", next_step=_NEXT)
        item = decode(where, raw, _ITEMS[kind], next_step=_NEXT)
        if isinstance(item, _Message):
            role = "system" if item.role == "developer" else item.role
            self.messages.append({"role": role, "content": self._joined(f"{where}.content", item.content)})
        elif isinstance(item, _FunctionCall):
            self._call(where, item)
        else:
            self._output(where, item)

    def _call(self, where: str, item: _FunctionCall) -> None:
        call = call_message(where, item.call_id, item.name, item.arguments, self._limits)
        self._called.add(item.call_id)
        if not (self.messages and self.messages[-1]["role"] == "assistant"):
            self.messages.append({"role": "assistant", "content": ""})
        self.messages[-1].setdefault("tool_calls", []).append(call)

    def _output(self, where: str, item: _FunctionCallOutput) -> None:
        if item.call_id not in self._called:
            raise InvalidInput(
                f"{where} answers the call {item.call_id[:80]!r}, which no item before it made.",
                code="unknown_tool_call",
                next_step=_NEXT,
                param=f"{where}.call_id",
            )
        output = self._joined(f"{where}.output", item.output)
        self.messages.append({"role": "tool", "content": output, "tool_call_id": item.call_id})

    def _joined(self, where: str, content: _Content) -> str:
        if isinstance(content, str):
            return content
        check_count(where, content, self._limits.max_parts)
        return "\n".join(part.text for part in content)

"""Messages of a chat: OpenAI's, checked, as chat templates take them."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec

from openmaas.core.errors import InvalidInput
from openmaas.core.generation import Message
from openmaas.protocols.generation.body import check_count, decode, free_object, not_supported
from openmaas.protocols.generation.limits import Limits

_NEXT = 'Its content is a text, or a list of {"type": "text", "text": …}; roles are system, user, assistant and tool.'


class _Text(msgspec.Struct, tag_field="type", tag="text", forbid_unknown_fields=True):
    text: str


_Content: TypeAlias = str | list[_Text]


class _System(msgspec.Struct, tag_field="role", tag="system", forbid_unknown_fields=True):
    content: _Content
    name: str | None = None


class _Developer(_System, tag="developer"):
    pass


class _User(_System, tag="user"):
    pass


class _Function(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    arguments: str


class _Call(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    function: _Function
    type: Literal["function"] = "function"
    index: int | None = None  # some clients send the deltas of a stream back, put together


class _Assistant(msgspec.Struct, tag_field="role", tag="assistant", forbid_unknown_fields=True):
    content: _Content | None = None
    tool_calls: list[_Call] | None = None
    name: str | None = None
    refusal: None = None
    audio: None = None
    function_call: None = None
    annotations: list[Any] | None = None


class _Tool(msgspec.Struct, tag_field="role", tag="tool", forbid_unknown_fields=True):
    content: _Content
    tool_call_id: str
    name: str | None = None


_Messages: TypeAlias = list[_System | _Developer | _User | _Assistant | _Tool]


def read_messages(raw: msgspec.Raw, limits: Limits) -> list[Message]:
    """The conversation, at least one message. Raises InvalidInput whose param names the message and its field."""
    came: _Messages = decode("messages", raw, _Messages, next_step=_NEXT)
    check_count("messages", came, limits.max_messages)
    called: set[str] = set()
    return [_message(f"messages[{index}]", message, called, limits) for index, message in enumerate(came)]


def _message(
    where: str, message: _System | _Developer | _User | _Assistant | _Tool, called: set[str], limits: Limits
) -> Message:
    made: Message
    if isinstance(message, _Assistant):
        made = _assistant(where, message, called, limits)
    else:
        role = {_System: "system", _Developer: "system", _User: "user", _Tool: "tool"}[type(message)]
        made = {"role": role, "content": _joined(where, message.content, limits)}
    if isinstance(message, _Tool):
        if message.tool_call_id not in called:
            raise InvalidInput(
                f"{where} answers the tool call {message.tool_call_id[:80]!r}, which no message before it made.",
                code="unknown_tool_call",
                param=f"{where}.tool_call_id",
            )
        made["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        made["name"] = message.name
    return made


def _joined(where: str, content: _Content, limits: Limits) -> str:
    """A text, or texts as lines: templates know one text a message."""
    if isinstance(content, str):
        return content
    check_count(f"{where}.content", content, limits.max_parts)
    return "\n".join(part.text for part in content)


def _assistant(where: str, message: _Assistant, called: set[str], limits: Limits) -> Message:
    if message.annotations:
        raise not_supported(f"{where}.annotations", "answers here carry none")
    if message.content is None and not message.tool_calls:
        raise InvalidInput(
            f"{where} has neither content nor tool_calls.", code="invalid_parameter", next_step=_NEXT, param=f"{where}.content"
        )
    made: Message = {"role": "assistant", "content": _joined(where, message.content or "", limits)}
    if message.tool_calls:
        check_count(f"{where}.tool_calls", message.tool_calls, limits.max_tools)
        made["tool_calls"] = [
            call_message(f"{where}.tool_calls[{index}].function", call.id, call.function.name, call.function.arguments, limits)
            for index, call in enumerate(message.tool_calls)
        ]
        called.update(call.id for call in message.tool_calls)
    return made


def call_message(where: str, identity: str, name: str, arguments: str, limits: Limits) -> dict[str, Any]:
    """A call as templates take it: its arguments are an object, which they write as JSON themselves."""
    place = f"{where}.arguments"
    given = free_object(
        place, msgspec.Raw(arguments.encode() or b"{}"), max_bytes=limits.max_schema, max_depth=limits.max_depth
    )
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": given}}

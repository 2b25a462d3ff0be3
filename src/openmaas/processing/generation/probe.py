"""What a chat template can do, found out by rendering with it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from openmaas.core.errors import OpenMaaSError
from openmaas.core.generation import Message, ToolFormat
from openmaas.processing.generation import rendering

_SECONDS: Final = 30.0
_NAME: Final = "read_thermometer"
_TOOL: Final[dict[str, Any]] = {
    "type": "function",
    "function": {
        "name": _NAME,
        "description": "Tells how warm it is.",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
    },
}
_QUESTION: Final[Message] = {"role": "user", "content": "How warm is it?"}
_CALL: Final = "c4L1n6c4L"  # of nine letters and digits, as Mistral's templates demand
_ANSWERED: Final[list[Message]] = [
    _QUESTION,
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": _CALL, "type": "function", "function": {"name": _NAME, "arguments": {"place": "roof"}}}],
    },
    {"role": "tool", "tool_call_id": _CALL, "name": _NAME, "content": "21"},
]
_FORMATS: Final[dict[ToolFormat, str]] = {
    "hermes": rf'<tool_call>\s*\{{\s*"name":\s*"{_NAME}",\s*"arguments":\s*\{{',
    "llama3": rf'\{{\s*"name":\s*"{_NAME}",\s*"parameters":\s*\{{\s*"place":\s*"roof"',
    "mistral": rf'\[TOOL_CALLS\]\s*(\[\s*\{{\s*"name":\s*"{_NAME}",\s*"arguments":|{_NAME}(\[CALL_ID\]\w*)?(\[ARGS\])?\s*\{{)',
}


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """renders: a question of a user. tools: it tells the model of the tools that it is given. tool_format: of the calls that it
    writes, empty where they are of no format that ToolCallReader reads. problem and code: why it does not render."""

    renders: bool
    tools: bool = False
    tool_format: ToolFormat = ""
    problem: str = ""
    code: str = ""


def probe_template(template: str, special: Mapping[str, str]) -> Probe:
    """Renders three conversations in a child of limited means. Blocks for about a tenth of a second, at the most for half a
    minute. Raises EngineFailed where jinja2 is not installed."""
    rendering.require_jinja()
    given = [
        rendering.conversation(special, [_QUESTION]),
        rendering.conversation(special, [_QUESTION], [_TOOL]),
        rendering.conversation(special, _ANSWERED, [_TOOL]),
    ]
    try:
        child = subprocess.run(
            rendering.COMMAND,
            input=b"".join((rendering.order(template), *given)),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=rendering.child_environment(),
            timeout=_SECONDS,
            start_new_session=True,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return _broken(rendering.took_too_long(f"{_SECONDS:g} s"))
    except OSError as error:
        raise rendering.no_process(error) from None
    replies = list(_replies(child.stdout))
    if failed := next((reply for reply in replies[:2] if reply.error), None):
        return _broken(rendering.error_of(failed))
    if len(replies) < 2:
        return _broken(rendering.death(child.returncode))
    return _found(*(reply.text for reply in replies[1:]))


def _broken(error: OpenMaaSError) -> Probe:
    return Probe(renders=False, problem=error.message, code=error.code)


def _found(plain: str, offered: str = "", called: str = "") -> Probe:
    if offered in ("", plain):
        return Probe(renders=True)
    return Probe(
        renders=True,
        tools=True,
        tool_format=next((name for name, pattern in _FORMATS.items() if re.search(pattern, called)), ""),
    )


def _replies(data: bytes) -> Iterator[rendering.Reply]:
    while len(data) >= 4:
        end = 4 + int.from_bytes(data[:4], "big")
        if len(data) >= end:
            yield rendering.read(data[4:end])
        data = data[end:]

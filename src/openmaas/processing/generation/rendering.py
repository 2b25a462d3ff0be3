"""What both who start a renderer (template.py, probe.py) share: how it is started, what it is told, what it answers."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import msgspec

from openmaas.core.errors import EngineFailed, InvalidInput, OpenMaaSError, TooLarge, without_paths
from openmaas.core.generation import Message

MEMORY: Final = 512 << 20
"""Bytes of data that rendering may take."""
PROCESSOR_SECONDS: Final = 1
"""For one rendering; a usual one takes less than a thousandth of that."""
MAX_OUTPUT: Final = 4 << 20
"""Characters of a rendered conversation."""
MAX_REPLY: Final = 12 * MAX_OUTPUT + 1024
"""Bytes: an emoji takes twelve in JSON."""

# By its path: as a module of the package it would import all that is around it.
COMMAND: Final = (sys.executable, "-I", str(Path(__file__).with_name("renderer.py")))
_PASSED_ON: Final = ("LD_LIBRARY_PATH", "TZ")


class Reply(msgspec.Struct):
    """error: refused (by the template, in its own words), memory, output (too much of it), failed; empty for none."""

    text: str = ""
    error: str = ""
    message: str = ""

    @property
    def said(self) -> str:
        return without_paths(" ".join(self.message.split()))[:1000].rstrip(".")


def child_environment() -> dict[str, str]:
    """Without what this process was given as its secrets."""
    return {name: os.environ[name] for name in _PASSED_ON if name in os.environ}


def order(template: str) -> bytes:
    """The first that a renderer is told."""
    return _framed({"template": template, "memory": MEMORY, "seconds": PROCESSOR_SECONDS, "output": MAX_OUTPUT})


def conversation(
    special: Mapping[str, str],
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] = (),
    variables: Mapping[str, Any] | None = None,
) -> bytes:
    """What a template is given, by the names that transformers gives it. Raises InvalidInput for what JSON cannot hold."""
    return _framed(
        {"add_generation_prompt": True, "documents": None}
        | dict(special)
        | dict(variables or {})
        | {"messages": list(messages), "tools": list(tools) or None}
    )


def read(data: bytes) -> Reply:
    """A reply without its length."""
    try:
        return msgspec.json.decode(data, type=Reply)
    except (msgspec.MsgspecError, UnicodeError):
        return Reply(error="failed", message="it wrote what is no text")


def error_of(reply: Reply) -> OpenMaaSError:
    """Why a conversation was not rendered."""
    if reply.error == "refused":
        return InvalidInput(
            f"The chat template refuses this conversation: {reply.said}.", code="template_refused", param="messages"
        )
    if reply.error == "memory":
        return InvalidInput(
            f"The chat template takes more than {MEMORY >> 20} MiB of memory for this conversation.",
            code="template_memory",
            param="messages",
        )
    if reply.error == "output":
        return TooLarge(
            f"The chat template makes more than {MAX_OUTPUT} characters of this conversation.",
            code="prompt_too_large",
            param="messages",
        )
    return InvalidInput(
        f"The chat template fails on this conversation: {reply.said}.", code="template_failed", param="messages"
    )


def took_too_long(limit: str) -> InvalidInput:
    return InvalidInput(
        f"The chat template was still rendering this conversation after {limit}.",
        code="template_timeout",
        next_step="Look at the model's chat template; it may loop for ever.",
        param="messages",
    )


def death(returncode: int | None) -> OpenMaaSError:
    """Why the renderer ended by itself."""
    if returncode == -signal.SIGXCPU:
        return took_too_long(f"{PROCESSOR_SECONDS} s of processor time")
    return EngineFailed(f"The process that renders the chat template ended ({returncode}).", code="template_crashed")


def no_process(error: OSError) -> EngineFailed:
    return EngineFailed(f"No process can be started for the chat template: {error.strerror}.", code="load_failed")


def require_jinja() -> None:
    if find_spec("jinja2") is None:
        raise EngineFailed(
            "The model has a chat template, and jinja2 is not installed here.",
            code="library_missing",
            next_step="pip install 'openmaas[generation]' where the server runs.",
        )


def _framed(value: Any) -> bytes:
    try:
        data = msgspec.json.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidInput(f"The conversation cannot be written as JSON: {error}.", code="invalid_data") from None
    return len(data).to_bytes(4, "big") + data

"""OpenAI's API: requests checked and answers written, as its own client reads them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from openmaas.core.contracts import Operation
from openmaas.core.errors import InvalidInput
from openmaas.protocols.generation import Ask, Writer
from openmaas.protocols.openai.chat import decode_chat
from openmaas.protocols.openai.chat_writer import ChatWriter
from openmaas.protocols.openai.completions import decode_completions
from openmaas.protocols.openai.completions_writer import CompletionsWriter
from openmaas.protocols.openai.errors import error_body, error_event
from openmaas.protocols.openai.limits import LIMITS, Limits
from openmaas.protocols.openai.routing import model_of

__all__ = ["LIMITS", "Limits", "decode_ask", "error_body", "error_event", "model_of", "open_writer"]

_DECODERS: Final[dict[str, Callable[[bytes, Limits], Ask]]] = {
    "chat": decode_chat,
    "completions": decode_completions,
}
_WRITERS: Final[dict[str, Callable[..., Writer]]] = {
    "chat": ChatWriter,
    "completions": CompletionsWriter,
}


def decode_ask(operation: Operation, body: bytes, *, limits: Limits = LIMITS) -> Ask:
    """The request of an operation that generates text. Raises InvalidInput that names what is wrong, TooLarge for its size."""
    if operation not in _DECODERS:
        raise InvalidInput(f"The operation {operation!r} does not generate text.", code="unknown_operation")
    return _DECODERS[operation](body, limits)


def open_writer(operation: Operation, ask: Ask, *, request_id: str, deployment: str, version: str, created: int) -> Writer:
    """What writes the answer to `ask`. version: the number of the version that answers, or what else names it."""
    return _WRITERS[operation](ask, request_id=request_id, deployment=deployment, version=version, created=created)

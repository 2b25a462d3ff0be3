"""OpenAI's API: requests checked and answers written, as its own client reads them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from openmaas.core.contracts import Operation
from openmaas.core.errors import InvalidInput
from openmaas.protocols.generate import GenerateWriter, decode_generate, decode_generate_stream
from openmaas.protocols.generation import Ask, Writer
from openmaas.protocols.generation.limits import LIMITS, Limits
from openmaas.protocols.openai.chat import decode_chat
from openmaas.protocols.openai.chat_writer import ChatWriter
from openmaas.protocols.openai.completions import decode_completions
from openmaas.protocols.openai.completions_writer import CompletionsWriter
from openmaas.protocols.openai.embeddings import EmbeddingsAsk, decode_embeddings, encode_embeddings
from openmaas.protocols.openai.errors import error_body, error_event
from openmaas.protocols.openai.models import ServedModel, model_body, models_body
from openmaas.protocols.openai.responses import decode_responses
from openmaas.protocols.openai.responses_writer import ResponsesWriter
from openmaas.protocols.openai.routing import model_of
from openmaas.protocols.openai.tokens import (
    TokenizeAsk,
    decode_detokenize,
    decode_tokenize,
    encode_detokenize,
    encode_tokenize,
)

__all__ = [
    "LIMITS", "EmbeddingsAsk", "Limits", "ServedModel", "TokenizeAsk", "decode_ask", "decode_detokenize", "decode_embeddings",
    "decode_tokenize", "encode_detokenize", "encode_embeddings", "encode_tokenize", "error_body", "error_event", "model_body",
    "model_of", "models_body", "open_writer",
]  # fmt: skip

_DECODERS: Final[dict[str, Callable[[bytes, Limits], Ask]]] = {
    "chat": decode_chat,
    "completions": decode_completions,
    "responses": decode_responses,
    "generate": decode_generate,
    "generate_stream": decode_generate_stream,
}
_WRITERS: Final[dict[str, Callable[..., Writer]]] = {
    "chat": ChatWriter,
    "completions": CompletionsWriter,
    "responses": ResponsesWriter,
    "generate": GenerateWriter,
    "generate_stream": GenerateWriter,
}


def decode_ask(operation: Operation, body: bytes, limits: Limits = LIMITS) -> Ask:
    """The request of an operation that generates text. Raises InvalidInput that names what is wrong, TooLarge for its size."""
    if operation not in _DECODERS:
        raise InvalidInput(f"The operation {operation!r} does not generate text.", code="unknown_operation")
    return _DECODERS[operation](body, limits)


def open_writer(operation: Operation, ask: Ask, request_id: str, deployment: str, version: int, created: int) -> Writer:
    """What writes the answer to `ask`. version: the number of the version that answers. created: Unix time."""
    return _WRITERS[operation](ask, request_id=request_id, deployment=deployment, version=str(version), created=created)

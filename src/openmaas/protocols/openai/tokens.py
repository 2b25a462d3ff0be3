"""POST /v1/tokenize and /v1/detokenize, in vLLM's shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from openmaas.core.errors import InvalidInput
from openmaas.core.generation import Message
from openmaas.protocols.generation.body import BodyReader
from openmaas.protocols.generation.limits import LIMITS, Limits
from openmaas.protocols.generation.prompts import check_ids_count, check_token_ids
from openmaas.protocols.generation.sampling import read_variables
from openmaas.protocols.generation.wire import encode
from openmaas.protocols.openai.conversation import read_messages
from openmaas.protocols.openai.tools import read_tools

_tokenize = BodyReader(
    "tokenize",
    (
        "prompt", "messages", "tools", "add_special_tokens", "add_generation_prompt", "return_token_strs",
        "chat_template_kwargs",
    ),
)  # fmt: skip
_detokenize = BodyReader("detokenize", ("tokens",))


class TokenizeAsk(msgspec.Struct, kw_only=True):
    """Either a text or a conversation. special: the tokenizer adds its own tokens; a template has written them already."""

    prompt: str | None = None
    messages: list[Message] | None = None
    tools: list[dict[str, Any]] = []
    template_variables: dict[str, Any] = {}
    special: bool = True
    add_generation_prompt: bool = True
    strings: bool = False


def decode_tokenize(body: bytes, limits: Limits = LIMITS) -> TokenizeAsk:
    """The request. Raises InvalidInput that names the parameter."""
    request = _tokenize.read(body, limits.max_body)
    prompt: str | None = request.take("prompt", str)
    messages = request.raw("messages")
    if (prompt is None) == (messages is None):
        raise InvalidInput("Send either prompt or messages.", code="invalid_parameter", param="prompt")
    special: bool | None = request.take("add_special_tokens", bool)
    generation: bool | None = request.take("add_generation_prompt", bool)
    if messages is None and (extra := request.given & {"tools", "add_generation_prompt", "chat_template_kwargs"}):
        name = min(extra)
        raise InvalidInput(f"{name} goes with messages, and a prompt came.", code="invalid_parameter", param=name)
    return TokenizeAsk(
        prompt=prompt,
        messages=None if messages is None else read_messages(messages, limits),
        tools=read_tools(request, limits),
        template_variables=read_variables(request, limits),
        special=messages is None if special is None else special,
        add_generation_prompt=generation is not False,
        strings=request.flag("return_token_strs"),
    )


def encode_tokenize(tokens: Sequence[int], *, context: int, strings: Sequence[str] | None = None) -> bytes:
    """context: tokens that prompt and answer may have together."""
    return encode({"count": len(tokens), "max_model_len": context, "tokens": tokens, "token_strs": strings})


def decode_detokenize(body: bytes, limits: Limits = LIMITS) -> list[int]:
    """The token ids. Raises InvalidInput that names the parameter."""
    request = _detokenize.read(body, limits.max_body)
    check_ids_count("tokens", request.needed("tokens"), limits)
    tokens: list[int] = request.take("tokens", list[int])
    if tokens:
        check_token_ids("tokens", tokens)
    return tokens


def encode_detokenize(text: str) -> bytes:
    return encode({"prompt": text})

"""POST /v1/chat/completions: the request."""

from __future__ import annotations

from typing import Final

from openmaas.core.errors import InvalidInput
from openmaas.protocols.generation import Ask
from openmaas.protocols.generation.body import Body, BodyReader
from openmaas.protocols.generation.limits import Limits
from openmaas.protocols.generation.sampling import SAMPLING, read_include_usage, read_sampling, read_variables
from openmaas.protocols.openai.conversation import read_messages
from openmaas.protocols.openai.tools import read_format, read_tool_choice, read_tools

_MAX_TOP_LOGPROBS: Final = 20
_reader = BodyReader(
    "chat",
    (
        *SAMPLING, "messages", "tools", "tool_choice", "response_format", "max_tokens", "max_completion_tokens", "stream",
        "stream_options", "logprobs", "top_logprobs", "chat_template_kwargs",
    ),
)  # fmt: skip


def decode_chat(body: bytes, limits: Limits) -> Ask:
    """A conversation to be continued. Raises InvalidInput that names the parameter."""
    request = _reader.read(body, limits.max_body)
    stream = request.flag("stream")
    tools = read_tools(request, limits)
    return Ask(
        messages=read_messages(request.needed("messages"), limits),
        tools=tools,
        tool_choice=read_tool_choice(request, tools),
        template_variables=read_variables(request, limits),
        max_tokens=_max_tokens(request, limits),
        logprobs=_logprobs(request),
        schema=read_format("response_format", request.raw("response_format"), limits),
        stream=stream,
        include_usage=read_include_usage(request, stream=stream),
        given=request.given,
        **read_sampling(request, limits),
    )


def _max_tokens(request: Body, limits: Limits) -> int | None:
    """max_completion_tokens is the newer name; both may come where they agree."""
    old = request.whole("max_tokens", 1, limits.max_tokens)
    new = request.whole("max_completion_tokens", 1, limits.max_tokens)
    if old is not None and new is not None and old != new:
        raise InvalidInput(
            f"max_tokens is {old} and max_completion_tokens {new}.",
            code="invalid_parameter",
            next_step="Send one of them.",
            param="max_completion_tokens",
        )
    return old if new is None else new


def _logprobs(request: Body) -> int:
    wanted = request.flag("logprobs")
    top = request.whole("top_logprobs", 0, _MAX_TOP_LOGPROBS)
    if top and not wanted:
        raise InvalidInput("top_logprobs needs logprobs true.", code="invalid_parameter", param="top_logprobs")
    return (top or 0) if wanted else -1

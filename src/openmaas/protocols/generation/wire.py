"""What every answer of this protocol is made of: JSON, events, usage, logprobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from openmaas.core.generation import TokenText, ToolCall
from openmaas.protocols.generation import Usage

JSON: Final = "application/json"
EVENTS: Final = "text/event-stream; charset=utf-8"
DONE: Final = b"data: [DONE]\n\n"
LEAST_LOGPROB: Final = -9999.0
"""What the protocol says for minus infinity, which JSON cannot carry."""

encode: Final = msgspec.json.Encoder().encode


def event(data: bytes) -> bytes:
    return b"data: %b\n\n" % data


def usage_of(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "prompt_tokens_details": None if usage.cached is None else {"cached_tokens": usage.cached},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def logprob(value: float) -> float:
    """NaN becomes the least as well: it is not above it."""
    return max(LEAST_LOGPROB, value)


def token_logprobs(tokens: Sequence[TokenText]) -> list[dict[str, Any]]:
    """As chats have them."""
    return [
        {
            "token": token.text,
            "logprob": logprob(token.logprob),
            "bytes": list(token.data),
            "top_logprobs": [
                {"token": text, "logprob": logprob(value), "bytes": list(data)} for text, data, value in token.top
            ],
        }
        for token in tokens
    ]


def tool_call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}

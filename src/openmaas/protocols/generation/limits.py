"""How much one request may ask for, whichever model answers."""

from __future__ import annotations

import msgspec


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Upper bounds. max_answers: prompts times n. max_stop_length, max_text (of a variable or an id): characters.

    max_body: bytes of JSON. max_tokens: that may be asked for; the model's context bounds further. max_ids: of tokens, that may
    be sent. max_schema: bytes of one JSON schema. max_depth: of what is nested freely (a schema, a tool's arguments).
    """

    max_body: int = 8 * 2**20
    max_n: int = 16
    max_prompts: int = 64
    max_answers: int = 64
    max_tokens: int = 2**20
    max_ids: int = 2**20
    max_messages: int = 2048
    max_parts: int = 256
    max_stop: int = 16
    max_stop_length: int = 256
    max_tools: int = 128
    max_schema: int = 64 * 1024
    max_depth: int = 32
    max_variables: int = 16
    max_text: int = 512


LIMITS = Limits()

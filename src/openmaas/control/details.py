"""What people may say about a version in their own words, within bounds."""

from __future__ import annotations

from typing import Any

import msgspec

from openmaas.core.errors import InvalidInput, TooLarge

MAX_METADATA = 64 * 1024
MAX_CARD = 256 * 1024
MAX_RECIPE = 64 * 1024
_MAX_DEPTH = 16


def encode_metadata(metadata: dict[str, Any]) -> str:
    """Free metadata as the JSON that is kept. Raises TooLarge, and InvalidInput for what is nested too deeply."""
    if _too_deep(metadata, _MAX_DEPTH):
        raise InvalidInput(f"The metadata is nested more than {_MAX_DEPTH} levels deep.", code="too_deep")
    text = msgspec.json.encode(metadata, order="sorted").decode()
    return check_text(text, "metadata", MAX_METADATA)


def check_card(card: str) -> str:
    return check_text(card, "card", MAX_CARD)


def check_text(text: str, what: str, limit: int) -> str:
    """The text itself. Raises TooLarge beyond `limit` bytes, and InvalidInput for what no database keeps."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        size = -1
    if size > limit:
        raise TooLarge(f"The {what} has {size} bytes; {limit} are allowed.", next_step=f"Shorten the {what}.")
    if size < 0 or "\0" in text:
        raise InvalidInput(f"The {what} holds characters that are no text.", code="invalid_text")
    return text


def _too_deep(value: Any, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    children = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_too_deep(child, levels - 1) for child in children)

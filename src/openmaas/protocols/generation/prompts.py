"""Prompts as texts or token ids, and how many answers they may have."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import msgspec

from openmaas.core.errors import InvalidInput
from openmaas.protocols.generation.body import check_count, decode, out_of_range
from openmaas.protocols.generation.limits import Limits

_MAX_ID: Final = 2**31 - 1
_LIST: Final = re.compile(rb'\[\s*([\["]?)')
_NEXT: Final = "A prompt is a text, a list of texts, a list of token ids, or a list of such lists."


def read_prompts(name: str, raw: msgspec.Raw, limits: Limits) -> Sequence[str | list[int]]:
    """Texts or token ids, none of them empty lists. Raises InvalidInput that names the parameter."""
    opening = _LIST.match(memoryview(raw))
    if opening is None:
        return [decode(name, raw, str, next_step=_NEXT)]
    if opening[1] == b'"':
        texts: list[str] = decode(name, raw, list[str], next_step=_NEXT)
        check_count(name, texts, limits.max_prompts)
        return texts
    check_ids_count(name, raw, limits)
    if not opening[1]:
        return [_ids(name, raw)]
    # They are counted before any is read.
    lists: list[msgspec.Raw] = decode(name, raw, list[msgspec.Raw], next_step=_NEXT)
    check_count(name, lists, limits.max_prompts)
    return [_ids(f"{name}[{index}]", one) for index, one in enumerate(lists)]


def check_ids_count(name: str, raw: msgspec.Raw, limits: Limits) -> None:
    """Before any is read: millions of them hold up all other work of the process."""
    if (count := bytes(raw).count(b",") + 1) > limits.max_ids:
        raise out_of_range(name, f"a list of {count}", f"one of at most {limits.max_ids} token ids")


def _ids(name: str, raw: msgspec.Raw) -> list[int]:
    ids: list[int] = decode(name, raw, list[int], next_step=_NEXT)
    check_token_ids(name, ids)
    return ids


def check_token_ids(name: str, ids: Sequence[int]) -> None:
    if not ids:
        raise InvalidInput(f"{name} holds an empty list of token ids.", code="out_of_range", param=name)
    if min(ids) < 0 or max(ids) > _MAX_ID:
        wrong = next(one for one in ids if not 0 <= one <= _MAX_ID)
        raise out_of_range(name, wrong, "token ids of the model")


def check_answers(name: str, prompts: Sequence[str | list[int]], n: int, limits: Limits) -> None:
    """One request's answers run side by side: prompts times n is bounded too."""
    if len(prompts) * n > limits.max_answers:
        raise InvalidInput(
            f"{len(prompts)} prompts with n {n} want {len(prompts) * n} answers; one request may have {limits.max_answers}.",
            code="out_of_range",
            param="n" if n > 1 else name,
        )

"""What a generator's configuration says: how long a text may be, what ends it, and how its makers would sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from openmaas.core.errors import InvalidInput, Refused
from openmaas.formats.causal.folder import Said
from openmaas.formats.huggingface.folder import CONFIG

_CONTEXT = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")
_UNKNOWN_CONTEXT = 2048
_LEAST_CONTEXT = 8
_MOST_CONTEXT = 1 << 24
_MOST_ENDS = 64
_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_MAX_TEXT = 256
_RANGES = {
    "temperature": (0.0, 2.0),
    "top_p": (1e-6, 1.0),
    "top_k": (0, 1 << 24),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (1e-3, 10.0),
}


def context_of(config: Mapping[str, Any]) -> tuple[int, str]:
    """Tokens that prompt and answer may have together, and what a person should be told of it.

    A window that slides over the text does not limit it. Where positions are stretched (`rope_scaling`), configurations name
    the stretched length; only those of `linear`, and of `yarn` that names the original one, name the length before.
    """
    found = next((config[name] for name in _CONTEXT if isinstance(config.get(name), int)), None)
    if found is None:
        return _UNKNOWN_CONTEXT, f"{CONFIG} names no length of a text; {_UNKNOWN_CONTEXT} tokens are served."
    scaling = config.get("rope_scaling") or config.get("rope_parameters")
    context = max(found, _stretched(found, scaling)) if isinstance(scaling, dict) else found
    if not _LEAST_CONTEXT <= context <= _MOST_CONTEXT:
        raise Refused(
            f"{CONFIG} says that texts have {str(context)[:40]} tokens; {_LEAST_CONTEXT} to {_MOST_CONTEXT} are believed.",
            code="damaged",
        )
    return context, ""


def _stretched(length: int, scaling: Mapping[str, Any]) -> int:
    kind, factor = scaling.get("rope_type") or scaling.get("type"), scaling.get("factor")
    original = scaling.get("original_max_position_embeddings")
    if not isinstance(factor, int | float) or not 1 <= factor <= 1024:
        return length
    if kind == "yarn" and isinstance(original, int):
        return int(min(original, _MOST_CONTEXT + 1) * factor)
    return int(length * factor) if kind == "linear" else length


def vocabulary_of(config: Mapping[str, Any]) -> int:
    """Number of token ids. Raises InvalidInput where the configuration does not say it."""
    size = config.get("vocab_size")
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise InvalidInput(f"{CONFIG} names no 'vocab_size'.", code="damaged", next_step="Save the model again.")
    return size


def end_of(said: Said, tokenizer: Any, vocabulary: int) -> tuple[int, ...]:
    """Ids that end an answer, in the order in which the files name them. Raises Refused for one that the model does not have.

    All files count together: what one of them calls an end is never part of a text.
    """
    named = [*_ids(said.generation.get("eos_token_id")), *_ids(said.config.get("eos_token_id"))]
    text = special_of(said).get("eos_token")
    own = tokenizer.token_to_id(text) if text is not None else None
    ids = tuple(dict.fromkeys([*named, *([own] if own is not None else [])]))
    if wrong := [number for number in ids if not 0 <= number < vocabulary]:
        raise Refused(
            f"The files name the end token {wrong[0]}; the model has ids from 0 to {vocabulary - 1}.",
            code="vocabulary_mismatch",
            next_step="Correct 'eos_token_id' in config.json and generation_config.json.",
        )
    if len(ids) > _MOST_ENDS:  # each token of each answer is held against them
        raise Refused(f"The files name {len(ids)} end tokens; at most {_MOST_ENDS} are believed.", code="damaged")
    return ids


def _ids(value: Any) -> list[int]:
    values = value if isinstance(value, list) else [value]
    return [number for number in values if isinstance(number, int) and not isinstance(number, bool)]


def special_of(said: Said) -> dict[str, str]:
    """The texts that a chat template may name: bos_token, eos_token …"""
    found = {}
    for name in _SPECIAL:
        value = said.tokenizer.get(name, said.special.get(name))
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str) and len(text) <= _MAX_TEXT:
            found[name] = text
    return found


def defaults_of(generation: Mapping[str, Any]) -> tuple[dict[str, float], str]:
    """Sampling that the model's makers recommend, and what a person should be told of it."""
    greedy = generation.get("do_sample") is False
    defaults: dict[str, float] = {"temperature": 0.0} if greedy else {}
    odd = []
    for name, (least, most) in _RANGES.items():
        value = generation.get(name)
        if value is None or (greedy and name != "repetition_penalty"):
            continue
        number = not isinstance(value, bool) and isinstance(value, int | float)
        if number and least <= value <= most:  # NaN is not
            defaults[name] = float(value)
        else:
            odd.append(f"{name} {str(value)[:40]}")
    return defaults, f"generation_config.json is not followed in: {', '.join(odd)}." if odd else ""

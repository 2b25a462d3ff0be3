"""The tokenizer of a GGUF file as a tokenizer.json: byte-level BPE, its texts split as its `tokenizer.ggml.pre` names it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from openmaas.core.errors import Refused
from openmaas.formats.gguf.file import Value

_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_MODERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3 = (_MODERN.replace("DIGITS", "{1,3}"),)
_QWEN = (_MODERN.replace("DIGITS", ""),)
_SPLITS: dict[str, tuple[str, ...]] = {
    "llama-bpe": _LLAMA3, "llama3": _LLAMA3, "llama-v3": _LLAMA3, "dbrx": _LLAMA3, "smaug-bpe": _LLAMA3,
    "qwen2": _QWEN, "deepseek-r1-qwen": _QWEN, "stablelm2": _QWEN,
    "smollm": (r"\p{N}", _WORDS), "starcoder": (r"\p{N}", _WORDS), "refact": (r"\p{N}", _WORDS),
    "gpt-2": (_WORDS,), "olmo": (_WORDS,), "mpt": (_WORDS,),
}  # fmt: skip
"""As the tokenizers that these names stand for split a text, one pattern after the other."""
_WHOLE = ("llama-bpe", "llama3", "llama-v3")
"""Of these, a part that is a token as it stands is not built from merges, and texts begin with the token of their beginning."""
_ENDS = ("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>", "<|eom_id|>", "<EOT>")
"""What llama.cpp takes for an end where a file has it as a control token, named as one or not."""
_CONTROL, _OWN = 3, 4
_MAX_TOKENS = 4 << 20
_SPECIAL = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "sep_token": "seperator", "pad_token": "padding"}
"""By name of transformers, that of GGUF. (seperator: so it is spelt there.)"""
_FOLDER = "Push the folder of the model that the file was made from."


class Vocabulary(NamedTuple):
    """tokenizer: the text of a tokenizer.json. tokens: how many ids it gives. special: the texts that a template may name."""

    tokenizer: str
    tokens: int
    end: tuple[int, ...]
    special: dict[str, str]


def read_vocabulary(values: Mapping[str, Value]) -> Vocabulary:
    """Raises Refused for a kind of tokenizer that is not served, and where the lists do not belong together."""
    kind, split = values.get("tokenizer.ggml.model"), values.get("tokenizer.ggml.pre")
    if kind != "gpt2":
        raise _unsupported(f"tokenizer.ggml.model is {str(kind)[:40]!r}; byte-level BPE ('gpt2') is served.")
    if split not in _SPLITS:
        raise _unsupported(f"tokenizer.ggml.pre is {str(split)[:40]!r}; known are {', '.join(_SPLITS)}.")
    tokens = _texts(values, "tokens")
    merges = [tuple(merge.split(" ")) for merge in _texts(values, "merges")]
    kinds = values.get("tokenizer.ggml.token_type")
    known = set(tokens)
    if len(known) != len(tokens) or not isinstance(kinds, list) or len(kinds) != len(tokens):
        raise _unsupported("Its tokens are not all different, or not all of a kind that is named.")
    if any(len(merge) != 2 or not {*merge, "".join(merge)} <= known for merge in merges):
        raise _unsupported("Its merges name what is no token.")
    special = {name: tokens[number] for name, key in _SPECIAL.items() if (number := _id(values, key, len(tokens))) is not None}
    first = _beginning(values, str(split), special.get("bos_token"), tokens)
    written = _write(tokens, merges, kinds, str(split), first)
    return Vocabulary(json.dumps(written, ensure_ascii=False), len(tokens), _ends(values, tokens, kinds), special)


def _texts(values: Mapping[str, Value], name: str) -> list[str]:
    found = values.get(f"tokenizer.ggml.{name}")
    if not isinstance(found, list) or not 0 < len(found) <= _MAX_TOKENS or not isinstance(found[0], str):
        raise _unsupported(f"tokenizer.ggml.{name} is not a list of texts.")
    return found


def _id(values: Mapping[str, Value], name: str, count: int) -> int | None:
    """Of a token that has a part to play. Raises Refused for one that is not there."""
    number = values.get(f"tokenizer.ggml.{name}_token_id")
    if number is None:
        return None
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < count:
        raise _unsupported(f"tokenizer.ggml.{name}_token_id is {str(number)[:40]}, of {count} tokens.")
    return number


def _beginning(values: Mapping[str, Value], split: str, text: str | None, tokens: Sequence[str]) -> tuple[str, int] | None:
    """The token that texts begin with, where they begin with one."""
    adds = values.get("tokenizer.ggml.add_bos_token", split in _WHOLE)
    return (text, tokens.index(text)) if adds is True and text is not None else None


def _ends(values: Mapping[str, Value], tokens: Sequence[str], kinds: Sequence[Any]) -> tuple[int, ...]:
    named = [_id(values, name, len(tokens)) for name in ("eos", "eot", "eom")]
    control = [number for number, kind in enumerate(kinds) if kind == _CONTROL and tokens[number] in _ENDS]
    return tuple(dict.fromkeys([number for number in named if number is not None] + control))


def _write(
    tokens: Sequence[str], merges: Sequence[Sequence[str]], kinds: Sequence[Any], split: str, first: tuple[str, int] | None
) -> dict[str, Any]:
    added = [
        {
            "id": number,
            "content": tokens[number],
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind == _CONTROL,
        }
        for number, kind in enumerate(kinds)
        if kind in (_CONTROL, _OWN) and tokens[number]
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    splits = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False} for pattern in _SPLITS[split]
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*splits, byte_level]},
        "post_processor": _template(*first) if first else byte_level,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": split in _WHOLE,
            "vocab": {token: number for number, token in enumerate(tokens)},
            "merges": [list(merge) for merge in merges],
        },
    }


def _template(text: str, number: int) -> dict[str, Any]:
    """Puts a token before a text."""
    begin, sequence = {"SpecialToken": {"id": text, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [begin, sequence],
        "pair": [begin, sequence, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {text: {"id": text, "ids": [number], "tokens": [text]}},
    }


def _unsupported(what: str) -> Refused:
    return Refused(f"The GGUF file's tokenizer is not served. {what}", code="unsupported_tokenizer", next_step=_FOLDER)

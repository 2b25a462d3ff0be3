"""How few tokens a text can possibly have, told from its length: an absurd prompt is refused before it is tokenised."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from openmaas.processing.generation.byte_level import ALPHABET, BLANKS

_SHRINK: Final = {"NFC": 4, "NFD": 4, "NFKC": 4, "NFKD": 4, "Prepend": 1, "Sequence": 1}
"""Normalisers that lose nothing, by how many times fewer bytes they can make of a text."""

_LOSSLESS: Final = {"ByteLevel", "Metaspace", "Digits", "Split", "Punctuation", "UnicodeScripts", "Sequence"}


def least_tokens(text: str, widest: int) -> int:
    """widest: as widest_token gives it. White space beside a control token may vanish into it, so none is counted."""
    return -(-len("".join(text.split()).encode("utf-8", "surrogatepass")) // widest) if widest else 0


def widest_token(tokenizer: Any) -> int:
    """The most bytes of a text, white space not counted, that one token can stand for; 0 where there is no such bound."""
    shrink = 1
    for part in _parts(tokenizer.normalizer, "normalizers"):
        spaces = part["type"] == "Replace" and part["pattern"] == {"String": " "} and bool(part["content"])
        if not spaces and part["type"] not in _SHRINK:
            return 0
        shrink *= _SHRINK.get(part["type"], 1)
    splits = list(_parts(tokenizer.pre_tokenizer, "pretokenizers"))
    if any(part["type"] not in _LOSSLESS or part.get("behavior") == "Removed" for part in splits):
        return 0
    byte_level = any(part["type"] == "ByteLevel" for part in splits)
    vocabulary = tokenizer.get_vocab(with_added_tokens=False)
    if not _covers_all(tokenizer.model, vocabulary, byte_level):
        return 0
    added = max((len(token.content.encode()) for token in tokenizer.get_added_tokens_decoder().values()), default=0)
    own = max(len(piece.translate(BLANKS)) if byte_level else len(piece.encode()) for piece in vocabulary)
    return shrink * max(4, own, added)


def _covers_all(model: Any, vocabulary: Mapping[str, int], byte_level: bool) -> bool:
    """Whether each character has tokens of its own: what is unknown may be dropped, or merged with its neighbours."""
    if byte_level:
        return ALPHABET.keys() <= vocabulary.keys()
    if getattr(model, "byte_fallback", False):
        return all(f"<0x{byte:02X}>" in vocabulary for byte in range(256))
    return getattr(model, "unk_token", None) is not None and getattr(model, "fuse_unk", None) is False


def _parts(step: Any, inner: str) -> Iterable[Mapping[str, Any]]:
    """A step of the tokenizer with the steps within it, as its file writes them."""

    def flat(state: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
        yield state
        for part in state.get(inner, ()):
            yield from flat(part)

    return flat(json.loads(step.__getstate__())) if step is not None else ()

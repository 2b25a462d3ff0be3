"""Texts → token ids and back, by the `tokenizers` library; token by token where an answer is being written."""

from __future__ import annotations

import json
import re
from codecs import utf_8_decode
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from openmaas.core.errors import EngineFailed, InvalidInput, without_paths
from openmaas.processing.generation.bounds import least_tokens, widest_token
from openmaas.processing.generation.byte_level import ALPHABET

_BYTE: Final = re.compile(r"<0x([0-9A-F]{2})>")
_ANCHOR: Final = "a"


class TokenCodec:
    """Threads may share one.

    Control tokens that stand in a text (`<|im_end|>`) become those tokens, whoever wrote them, as transformers and vLLM have
    it: a chat template writes its own that way, and a caller can write them into a message too.
    """

    def __init__(self, tokenizer: Any, shown: Collection[str] = ()) -> None:
        """tokenizer: a tokenizers.Tokenizer, from now on ours. shown: special tokens that are part of a text nonetheless.

        Raises EngineFailed where its decoder is of a kind that cannot be run token by token."""
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._widest = widest_token(tokenizer)
        added = tokenizer.get_added_tokens_decoder()
        hidden = {number for number, token in added.items() if token.special and token.content not in shown}
        self._decoder = _Decoder(tokenizer)
        self._pieces = _Pieces(self._decoder, hidden)

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """special: with what the tokenizer itself puts around a text, as the token of its beginning. A rendered conversation is
        encoded without, since its template has written them. About 0.4 s for a million characters, the interpreter's lock
        released; `least_tokens` says beforehand that it is not worth it."""
        try:
            (encoding,) = self._tokenizer.encode_batch_fast([text], add_special_tokens=special)
        except TypeError:
            raise InvalidInput("The text holds half of a surrogate pair, which is no character.", code="invalid_data") from None
        except Exception as error:
            said = without_paths(" ".join(str(error).split()))[:300]
            raise EngineFailed(f"The tokenizer fails on this text: {said}.", code="tokenizer_failed") from None
        ids: list[int] = encoding.ids
        return ids

    def least_tokens(self, text: str) -> int:
        """No fewer tokens than that, without tokenising: the bytes of the text by those of the longest entry of the vocabulary;
        0 where this tokenizer may drop or merge text without a bound."""
        return least_tokens(text, self._widest)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of its own that these tokens are; special ones are left out, ids that name no token too."""
        stream = self.stream(start=True)
        return stream.push(ids) + stream.end()

    def token(self, token_id: int) -> tuple[str, bytes]:
        """One token as it stands within a text, special ones too: for people, and its bytes, which may be half a character."""
        data = self._pieces[token_id] or self._decoder.piece(token_id)
        return data.decode("utf-8", "replace"), data

    def stream(self, *, start: bool = False) -> TextStream:
        """For tokens as they come. Without `start` they continue a text, so that a word keeps the space before it."""
        return TextStream(self._pieces, self._decoder if start else None)


class TextStream:
    """Whole characters only: what is not a character yet waits for its other bytes. One or two microseconds a token."""

    def __init__(self, pieces: Mapping[int, bytes], start: _Decoder | None) -> None:
        self._pieces = pieces
        self._start = start
        self._rest = b""

    def push(self, ids: Iterable[int]) -> str:
        """The text that is certain now. Bytes that cannot become a character are U+FFFD, as UTF-8 decoders have it."""
        if self._start is not None:
            data = self._beginning(ids, self._start)
        else:
            data = b"".join([self._pieces[number] for number in ids])
        if self._rest:
            data = self._rest + data
        text, used = utf_8_decode(data, "replace", False)
        self._rest = data[used:]
        return text

    def end(self) -> str:
        """What is left: U+FFFD for a character that was never finished."""
        rest, self._rest = self._rest, b""
        return rest.decode("utf-8", "replace")

    def _beginning(self, ids: Iterable[int], decoder: _Decoder) -> bytes:
        found = []
        for number in ids:
            data = self._pieces[number]
            if data and self._start is not None:
                data, self._start = decoder.first(number), None
            found.append(data)
        return b"".join(found)


class _Pieces(dict[int, bytes]):
    """The bytes of each token that was ever asked for; none for hidden ones, and for ids that name no token."""

    def __init__(self, decoder: _Decoder, hidden: Collection[int]) -> None:
        super().__init__((number, b"") for number in hidden)
        self._decoder = decoder

    def __missing__(self, number: int) -> bytes:
        if data := self._decoder.piece(number):
            self[number] = data
        return data


class _Decoder:
    """What one token adds to a text, as the tokenizer's own decoder would write it."""

    def __init__(self, tokenizer: Any) -> None:
        """Raises EngineFailed where a token's text depends on more than being the first."""
        self._tokenizer = tokenizer
        self._decoder = tokenizer.decoder
        kinds = set(_kinds(json.loads(self._decoder.__getstate__()))) if self._decoder is not None else set()
        self._alphabet = ALPHABET if "ByteLevel" in kinds else None
        self._fallback = "ByteFallback" in kinds
        if "CTC" in kinds or (self._alphabet and kinds - {"ByteLevel", "Fuse", "Sequence"}):
            raise EngineFailed(
                f"The tokenizer's decoder joins {', '.join(sorted(kinds))}, which OpenMaaS cannot run token by token.",
                code="tokenizer_unsupported",
            )

    def piece(self, number: int) -> bytes:
        """Within a text. Empty for an id that names no token."""
        written: str | None = self._tokenizer.id_to_token(number) if 0 <= number < 1 << 32 else None
        if written is None:
            return b""
        if self._alphabet is not None:
            try:
                return bytes([self._alphabet[character] for character in written])
            except KeyError:  # an added token, which stands as it is written
                return written.encode()
        if self._fallback and (match := _BYTE.fullmatch(written)):
            return bytes.fromhex(match[1])
        # Between two others, so that what decoders do at either end of a text does not show.
        behind = len(self._text(_ANCHOR, _ANCHOR)) - len(_ANCHOR)
        return self._text(_ANCHOR, written, _ANCHOR)[len(_ANCHOR) : -behind].encode()

    def first(self, number: int) -> bytes:
        """At the beginning of a text, where some decoders drop a space."""
        data = self.piece(number)
        if self._alphabet is not None or (len(data) == 1 and not data.isascii()):  # the latter is no text yet
            return data
        return self._text(str(self._tokenizer.id_to_token(number))).encode()

    def _text(self, *tokens: str) -> str:
        text: str = self._decoder.decode(list(tokens)) if self._decoder is not None else " ".join(tokens)
        return text


def _kinds(state: Any) -> Iterable[str]:
    yield state["type"]
    for part in state.get("decoders", ()):
        yield from _kinds(part)

"""Texts → tokens, by the `tokenizers` library."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmaas.core.errors import EngineFailed, InvalidInput, without_paths
from openmaas.core.processing import Role, TextInput
from openmaas.core.types import TensorSpec
from openmaas.processing.base import Before, Prepared, Tensors

Row = str | tuple[str, str]


class Texts(Before):
    """A row is a text, or two where the declaration says `pair`. Rows are padded to the longest of their request only."""

    quick = 512  # about 0.25 ms

    def __init__(self, declared: TextInput, folder: Path, offsets: bool = False) -> None:
        """offsets: tell where each token lies in its text, which makes it slower. Raises EngineFailed for a damaged file."""
        self._declared = declared
        self._offsets = offsets
        self.spec = TensorSpec(name=declared.name, datatype="BYTES", shape=(-1,))
        whole = load_tokenizer(folder / declared.tokenizer)
        self._pad = _padding(whole)
        # Two, which nothing changes from now on: threads share them without a lock, and a cut text is counted whole.
        self._whole = whole
        self._cut = load_tokenizer(folder / declared.tokenizer)
        side = (whole.truncation or {}).get("direction", "right")
        self._whole.no_truncation()
        self._cut.enable_truncation(declared.max_length, strategy="longest_first", direction=side)
        for tokenizer in (self._whole, self._cut):
            tokenizer.no_padding()

    def fill(self, role: Role) -> int:
        """What an engine input of this role is filled up with beyond a text's own tokens."""
        return self._pad if role == "ids" else 0

    def prepare(self, rows: Any) -> Prepared:
        """rows: BYTES (or text) [N] or [N, 1]; [N, 2] for pairs."""
        texts = self._texts(rows)
        encodings = self._encode(self._whole, texts)
        limit = self._declared.max_length
        notes = tuple(
            {"row": row, "truncated": True, "tokens": len(encoding), "limit": limit}
            for row, encoding in enumerate(encodings)
            if len(encoding) > limit
        )
        if notes:
            long = [note["row"] for note in notes]
            for row, encoding in zip(long, self._encode(self._cut, [texts[row] for row in long]), strict=True):
                encodings[row] = encoding
        lengths = tuple(map(len, encodings))
        if 0 in lengths:
            raise InvalidInput(f"{self._row(lengths.index(0))} is a text without a single token.", code="invalid_data")
        return Prepared(
            inputs=self._tensors(encodings, lengths),
            lengths=lengths,
            notes=notes,
            offsets=tuple(tuple(encoding.offsets) for encoding in encodings) if self._offsets else (),
        )

    def prepare_ids(self, rows: Sequence[Sequence[int]]) -> Prepared:
        """The same of token ids, special ones among them, none empty. Raises InvalidInput for what is no id."""
        limit, vocabulary = self._declared.max_length, self._whole.get_vocab_size()
        for row, ids in enumerate(rows):
            if (wrong := next((token for token in ids if not 0 <= token < vocabulary), None)) is not None:
                raise InvalidInput(f"{self._row(row)} holds {wrong}; token ids are below {vocabulary}.", code="invalid_token")
        lengths = tuple(map(len, rows))
        notes = tuple(
            {"row": row, "truncated": True, "tokens": length, "limit": limit}
            for row, length in enumerate(lengths)
            if length > limit
        )
        encodings = [_Ids(ids[:limit]) for ids in rows]
        lengths = tuple(min(length, limit) for length in lengths)
        return Prepared(inputs=self._tensors(encodings, lengths), lengths=lengths, notes=notes)

    def _encode(self, tokenizer: Any, texts: Sequence[Row]) -> list[Any]:
        """Releases the interpreter's lock while it works."""
        encode = tokenizer.encode_batch if self._offsets else tokenizer.encode_batch_fast
        encodings: list[Any] = encode(texts, add_special_tokens=True)
        return encodings

    def _tensors(self, encodings: Sequence[Any], lengths: Sequence[int]) -> Tensors:
        longest = max(lengths, default=0)
        filled = np.arange(longest) < np.array(lengths, np.int64).reshape(-1, 1)
        return {name: self._tensor(role, encodings, filled) for name, role in self._declared.tensors.items()}

    def _tensor(self, role: Role, encodings: Sequence[Any], filled: NDArray[np.bool_]) -> NDArray[np.int64]:
        if role == "attention":
            return filled.astype(np.int64)
        values = chain.from_iterable(encoding.ids if role == "ids" else encoding.type_ids for encoding in encodings)
        tensor = np.full(filled.shape, self._pad if role == "ids" else 0, np.int64)
        tensor[filled] = np.fromiter(values, np.int64)
        return tensor

    # what came

    def _texts(self, rows: Any) -> list[Row]:
        array = np.asarray(rows, dtype=object)
        width = array.shape[1] if array.ndim == 2 else 1
        if array.ndim not in (1, 2) or width not in ((1, 2) if self._declared.pair else (1,)):
            takes = "[N], [N, 1], or [N, 2] for pairs" if self._declared.pair else "[N] or [N, 1]"
            raise InvalidInput(
                f"{self._declared.name!r} takes texts of shape {takes}; {list(array.shape)} came.", code="invalid_shape"
            )
        texts = [self._text(row // width, item) for row, item in enumerate(array.ravel().tolist())]
        return list(zip(texts[::2], texts[1::2], strict=True)) if width == 2 else [*texts]

    def _text(self, row: int, item: Any) -> str:
        if isinstance(item, bytes):
            try:
                return item.decode()
            except UnicodeDecodeError as error:
                raise InvalidInput(
                    f"{self._row(row)} is not UTF-8 text: byte 0x{item[error.start]:02x} at {error.start}.",
                    code="invalid_data",
                ) from None
        if not isinstance(item, str):
            raise InvalidInput(f"{self._row(row)} is a {type(item).__name__}, not a text.", code="invalid_data")
        if not item.isascii() and any("\ud800" <= character <= "\udfff" for character in item):
            raise InvalidInput(f"{self._row(row)} holds half of a surrogate pair, which is no character.", code="invalid_data")
        return item

    def _row(self, row: int) -> str:
        return f"Row {row} of {self._declared.name!r}"


class _Ids:
    """Token ids as an encoding of the library shows them, all of one text."""

    __slots__ = ("ids", "type_ids")

    def __init__(self, ids: Sequence[int]) -> None:
        self.ids = ids
        self.type_ids = [0] * len(ids)


def load_tokenizer(path: Path, extra: str = "text") -> Any:
    """A tokenizers.Tokenizer. Raises EngineFailed with what the library said, or the extra to install."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # a replica has its share of the cores, and batches of its own
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise EngineFailed(
            "The model reads texts, and tokenizers is not installed here.",
            code="library_missing",
            next_step=f"pip install 'openmaas[{extra}]' where the server runs.",
        ) from None
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:
        said = without_paths(" ".join(str(error).split()))[:300]
        raise EngineFailed(f"The tokenizer cannot be loaded: {said}.", code="load_failed") from None


def _padding(tokenizer: Any) -> int:
    """The id that fills rows up; 0 where the file declares none."""
    return int((tokenizer.padding or {}).get("pad_id", 0))

"""What a generator is compared on: passages of a text as token ids, the version's own text where it brought one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from openmaas.core.errors import InvalidInput
from openmaas.core.generation import Generator
from openmaas.core.manifest import Manifest
from openmaas.tasks.built_in_text import TEXT

_LENGTH = 256  # tokens of one passage
_MOST = 4
_LEAST = 8  # tokens that say anything about a passage

Ids = list[int]


class Passages(NamedTuple):
    """origin: "given" by the pusher or the request, or "built-in"."""

    ids: list[Ids]
    origin: str

    @property
    def tokens(self) -> int:
        return sum(map(len, self.ids))


def passages_of(manifest: Manifest, folder: Path) -> Passages:
    """Of the version's own text, else of ours. Raises InvalidInput where the text is too short."""
    assert manifest.generator is not None
    return cut([text_of(manifest, folder)], manifest.generator, folder, "built-in" if manifest.sample is None else "given")


def text_of(manifest: Manifest, folder: Path) -> str:
    """The version's own text, else ours."""
    return TEXT if manifest.sample is None else (folder / manifest.sample).read_text("utf-8")


def given_passages(data: Mapping[str, Any], generator: Generator, folder: Path) -> Passages:
    """Of texts that came with a request: tensors of BYTES by name, as ParityArguments has them."""
    texts = [text for tensor in data.values() for text in tensor.get("data", ()) if isinstance(text, str)]
    return cut(texts, generator, folder, "given")


def cut(texts: Sequence[str], generator: Generator, folder: Path, origin: str) -> Passages:
    """The first passages of the texts, of no more tokens than the model takes."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / generator.tokenizer))
    length = min(_LENGTH, generator.context)
    found: list[Ids] = []
    for text in texts:
        ids = tokenizer.encode(text[: _MOST * _LENGTH * 16]).ids
        found += [ids[start : start + length] for start in range(0, len(ids), length)]
    kept = [ids for ids in found if len(ids) >= _LEAST][:_MOST]
    if not kept:
        raise InvalidInput(
            f"The text to compare on has no passage of {_LEAST} tokens or more.",
            code="invalid_sample",
            next_step="Give a longer text; one of some hundred words is enough.",
        )
    return Passages(kept, origin)

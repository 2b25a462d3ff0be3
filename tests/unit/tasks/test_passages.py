from __future__ import annotations

from pathlib import Path

import pytest

from openmaas.core.errors import InvalidInput
from openmaas.core.generation import Generator
from openmaas.core.manifest import Manifest
from openmaas.core.types import Signature
from openmaas.tasks.passages import given_passages, passages_of
from tests.tiny_writer import WORDS, train_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("writer")
    train_tokenizer([WORDS], 400).save(str(made / "tokenizer.json"))
    (made / "held_out.txt").write_text(WORDS * 2)
    (made / "short.txt").write_text("a")
    return made


def writer(context: int, sample: str | None = None) -> Manifest:
    generator = Generator(context=context, vocabulary=400, end=(0,), tokenizer="tokenizer.json")
    signature = Signature(inputs=(), outputs=())
    return Manifest(
        format="causal", engine="", entry="config.json", signature=signature, files=(), generator=generator, sample=sample
    )


def test_the_version_s_own_text_is_taken(folder: Path) -> None:
    found = passages_of(writer(512, "held_out.txt"), folder)
    from tokenizers import Tokenizer

    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(WORDS * 2).ids
    assert found.origin == "given"
    assert found.ids[0] == ids[:256]
    assert found.tokens == sum(map(len, found.ids))


def test_without_one_ours_is_and_says_so(folder: Path) -> None:
    found = passages_of(writer(4096), folder)
    assert found.origin == "built-in"
    assert [len(ids) for ids in found.ids] == [256] * 4


def test_passages_fit_into_the_context(folder: Path) -> None:
    assert [len(ids) for ids in passages_of(writer(20), folder).ids] == [20] * 4


def test_texts_of_a_request(folder: Path) -> None:
    data = {"text_input": {"datatype": "BYTES", "shape": [2], "data": [WORDS, "a"]}}
    generator = writer(512).generator
    assert generator is not None
    found = given_passages(data, generator, folder)
    assert (found.origin, len(found.ids)) == ("given", 1)


def test_a_text_that_is_too_short_is_told(folder: Path) -> None:
    with pytest.raises(InvalidInput, match="no passage of 8 tokens"):
        passages_of(writer(512, "short.txt"), folder)

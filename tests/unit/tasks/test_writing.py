"""Which beginnings text generators are given to go on from."""

from __future__ import annotations

from pathlib import Path

import pytest

from openmaas.core.generation import Generator
from openmaas.tasks.writing import GIVEN, MOST, WRITTEN, beginnings_of
from tests.tiny_writer import WORDS, train_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokens")
    train_tokenizer([WORDS] * 4, 300).save(str(folder / "tokenizer.json"))
    return folder


GENERATOR = Generator(context=256, vocabulary=300, end=(0,), tokenizer="tokenizer.json")


def test_they_are_spread_over_the_passages_that_are_long_enough(folder: Path) -> None:
    passages = [[40 + number % 50] * (GIVEN + WRITTEN if number % 2 else 20) for number in range(100)]
    found = beginnings_of(passages, GENERATOR, folder)
    assert len(found) == MOST
    assert (found[0].row, found[-1].row) == (1, 99)
    assert all(one.row % 2 and len(one.ids) == GIVEN and one.given and one.truth for one in found)


def test_few_passages_are_taken_once_and_short_ones_never(folder: Path) -> None:
    long = [40] * (GIVEN + WRITTEN)
    assert [one.row for one in beginnings_of([long, [40] * 9, long], GENERATOR, folder)] == [0, 2]
    assert beginnings_of([[40] * 9], GENERATOR, folder) == []

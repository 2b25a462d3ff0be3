"""Texts → tokens: the same as transformers gives, cut only when that is said, padded only within a request."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openmaas.core.errors import EngineFailed, InvalidInput
from openmaas.core.processing import Role, TextInput
from openmaas.processing.text import Texts
from tests.unit.formats.encoders import byte_tokenizer, minilm, save_tokenizer, word_tokenizer

pytest.importorskip("tokenizers")
ROLES: dict[str, Role] = {"input_ids": "ids", "attention_mask": "attention", "token_type_ids": "types"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    tokenizer = word_tokenizer()
    tokenizer.enable_padding(pad_id=0)
    tokenizer.save(str(path / "tokenizer.json"))
    return path


def texts(folder: Path, *, offsets: bool = False, **changes: Any) -> Texts:
    return Texts(TextInput(**({"tensors": ROLES, "max_length": 64} | changes)), folder, offsets=offsets)


def rows(*items: object) -> Any:
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array


def test_rows_are_padded_to_the_longest_of_their_request_only(folder: Path) -> None:
    prepared = texts(folder).prepare(rows(b"water boils", b"a cat sits on the mat", b""))
    assert prepared.lengths[1] == max(prepared.lengths)
    assert prepared.lengths[2] == 2
    for name, array in prepared.inputs.items():
        assert array.shape == (3, max(prepared.lengths)), name
        assert array.dtype == np.int64
    assert prepared.inputs["attention_mask"].sum(1).tolist() == list(prepared.lengths)
    assert prepared.inputs["input_ids"][2].tolist() == [2, 3, *[0] * (max(prepared.lengths) - 2)]
    assert not prepared.notes
    assert not prepared.offsets


def test_the_id_of_padding_is_the_tokenizers_own(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.enable_padding(pad_id=1, pad_token="<pad>")
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    prepared = texts(tmp_path).prepare(rows("a", "a longer row than that"))
    assert set(prepared.inputs["input_ids"][0, prepared.lengths[0] :].tolist()) == {1}


def test_what_is_cut_is_said(folder: Path) -> None:
    long = " ".join(["water"] * 30)
    prepared = texts(folder, max_length=10).prepare(rows("a cat", long, long))
    assert prepared.lengths == (prepared.lengths[0], 10, 10)
    assert prepared.lengths[0] < 10
    tokens = texts(folder, max_length=512).prepare(rows(long)).lengths[0]
    assert prepared.notes == tuple({"row": row, "truncated": True, "tokens": tokens, "limit": 10} for row in (1, 2))
    assert prepared.inputs["input_ids"][1, -1] == 3  # [SEP] stays


def test_a_row_exactly_as_long_as_allowed_is_not_cut(folder: Path) -> None:
    whole = texts(folder, max_length=512).prepare(rows("a cat sits on the mat"))
    exact = texts(folder, max_length=whole.lengths[0]).prepare(rows("a cat sits on the mat"))
    assert exact.lengths == whole.lengths
    assert not exact.notes


def test_the_side_that_is_cut_is_the_tokenizers_own(tmp_path: Path) -> None:
    tokenizer = word_tokenizer()
    tokenizer.enable_truncation(64, direction="left")
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    text = "one two three four five six seven eight nine ten eleven twelve"
    whole = texts(tmp_path, max_length=512).prepare(rows(text)).inputs["input_ids"][0].tolist()
    cut = texts(tmp_path, max_length=8).prepare(rows(text)).inputs["input_ids"][0].tolist()
    assert cut == [whole[0], *whole[-7:]]


def test_pairs_have_types_and_are_cut_at_the_longer(folder: Path) -> None:
    both = np.array([["a cat", "water boils at sea level"], ["the river", "the bank"]], dtype=object)
    prepared = texts(folder, pair=True).prepare(both)
    types = prepared.inputs["token_type_ids"]
    assert set(types[0, : prepared.lengths[0]].tolist()) == {0, 1}
    cut = texts(folder, pair=True, max_length=12).prepare(np.array([["a cat", " ".join(["water"] * 40)]], dtype=object))
    kept = cut.inputs["input_ids"][0].tolist()
    short = texts(folder).prepare(rows("a cat")).inputs["input_ids"][0].tolist()
    assert kept[: len(short)] == short
    assert cut.notes[0]["limit"] == 12


@pytest.mark.parametrize("shape", [(2, 2), (1, 1, 1), ()])
def test_other_shapes_are_refused(folder: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInput, match="'text' takes texts of shape"):
        texts(folder).prepare(np.full(shape, "a", dtype=object))


def test_a_column_is_rows(folder: Path) -> None:
    column = texts(folder).prepare(np.array([[b"a cat"], [b"water"]], dtype=object))
    flat = texts(folder).prepare(rows(b"a cat", b"water"))
    assert np.array_equal(column.inputs["input_ids"], flat.inputs["input_ids"])


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (b"caf\xe9", "not UTF-8 text: byte 0xe9 at 3"),
        (b"\xed\xa0\x80", "not UTF-8"),
        ("\ud800", "half of a surrogate pair"),
        (7, "is a int, not a text"),
        (None, "is a NoneType, not a text"),
        (["a", "b"], "is a list, not a text"),
    ],
)
def test_what_is_no_text_names_its_row(folder: Path, bad: object, why: str) -> None:
    with pytest.raises(InvalidInput, match=f"Row 1 of 'text' .*{why}"):
        texts(folder).prepare(rows(b"good", bad))


def test_a_row_without_tokens_is_refused(tmp_path: Path) -> None:
    from tokenizers import processors

    tokenizer = word_tokenizer()
    tokenizer.post_processor = processors.Sequence([])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(InvalidInput, match="Row 1 of 'text' is a text without a single token"):
        texts(tmp_path).prepare(rows("a", "  "))


def test_offsets_point_into_the_text(folder: Path) -> None:
    text = "Água 😍 cat"
    prepared = texts(folder, offsets=True).prepare(rows("cat", text))
    assert [len(row) for row in prepared.offsets] == list(prepared.lengths)
    assert prepared.offsets[1][0] == prepared.offsets[1][-1] == (0, 0)
    begin, end = prepared.offsets[1][1][0], prepared.offsets[1][-2][1]
    assert (begin, end) == (0, len(text))
    assert "".join(text[start:stop] for start, stop in prepared.offsets[1]) == text.replace(" ", "")


def test_threads_get_their_own_answers(folder: Path) -> None:
    shared = texts(folder, max_length=16)
    inputs = [rows(*(f"row {number} {'water ' * (number % 30)}" for number in range(start, start + 8))) for start in range(8)]
    expected = [shared.prepare(some) for some in inputs]
    wrong: list[int] = []

    def work(index: int) -> None:
        for _ in range(30):
            found = shared.prepare(inputs[index])
            if found.notes != expected[index].notes or any(
                not np.array_equal(array, expected[index].inputs[name]) for name, array in found.inputs.items()
            ):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"not json", b'{"version": "1.0", "model": {"type": "Nothing"}}', b"\xff" * 99]
)
def test_a_damaged_tokenizer_is_told_without_its_path(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(EngineFailed, match="The tokenizer cannot be loaded") as caught:
        texts(tmp_path)
    assert str(tmp_path) not in str(caught.value)


# ── as transformers does it ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module", params=["words", "bytes", "minilm"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Texts]:
    """A tokenizer of transformers, and ours on the same files."""
    transformers = pytest.importorskip("transformers")
    if request.param == "minilm":
        path = minilm()
    else:
        path = tmp_path_factory.mktemp(request.param)
        save_tokenizer(path, bytewise=request.param == "bytes")
    theirs = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True)
    return theirs, texts(path, max_length=48, pair=True, tensors={"input_ids": "ids", "token_type_ids": "types"})


@given(text=st.text(max_size=200))
@settings(max_examples=150, deadline=None)
def test_any_text_has_the_tokens_of_transformers(both: tuple[Any, Texts], text: str) -> None:
    theirs, ours = both
    expected = theirs(text, truncation=True, max_length=48, return_token_type_ids=True)
    found = ours.prepare(rows(text)).inputs
    assert found["input_ids"].tolist() == [expected["input_ids"]]
    assert found["token_type_ids"].tolist() == [expected["token_type_ids"]]


@given(first=st.text(max_size=120), second=st.text(max_size=120))
@settings(max_examples=100, deadline=None)
def test_any_pair_has_the_tokens_of_transformers(both: tuple[Any, Texts], first: str, second: str) -> None:
    theirs, ours = both
    # As a list: a single call of theirs takes an empty second text for none.
    expected = theirs([(first, second)], truncation=True, max_length=48, return_token_type_ids=True)
    pair = np.empty((1, 2), dtype=object)
    pair[0] = [first, second]
    found = ours.prepare(pair).inputs
    assert found["input_ids"].tolist() == expected["input_ids"]
    assert found["token_type_ids"].tolist() == expected["token_type_ids"]


@given(data=st.binary(max_size=80))
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_text_or_refused(folder: Path, data: bytes) -> None:
    ours = texts(folder)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        with pytest.raises(InvalidInput, match="Row 0 of 'text' is not UTF-8"):
            ours.prepare(rows(data))
    else:
        found, expected = ours.prepare(rows(data)), ours.prepare(rows(text))
        assert found.inputs["input_ids"].tolist() == expected.inputs["input_ids"].tolist()

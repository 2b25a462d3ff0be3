"""Tokens → text: whole characters only, the same however they come; text → tokens: never fewer than was promised."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openmaas.core.errors import EngineFailed, InvalidInput
from openmaas.processing.generation.bounds import widest_token
from openmaas.processing.generation.codec import TokenCodec
from tests.unit.processing.generation.tokenizers import byte_fallback, byte_level

pytest.importorskip("tokenizers")
BYTES = byte_level()
PIECES = byte_fallback()
FAMILIES = {"byte level": TokenCodec(BYTES), "byte fallback": TokenCodec(PIECES)}
TEXT = "Grüße, 模型即服务 🙂🚀👩‍👩‍👧 naïve\n\n  café ▁x"

texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=60)
families = st.sampled_from(sorted(FAMILIES))


def streamed(codec: TokenCodec, ids: list[int], *, start: bool = False) -> list[str]:
    stream = codec.stream(start=start)
    return [*(stream.push([number]) for number in ids), stream.end()]


@pytest.mark.parametrize("family", FAMILIES)
def test_there_and_back(family: str) -> None:
    codec = FAMILIES[family]
    assert codec.decode(codec.encode(TEXT)) == TEXT.replace("▁", " " if family == "byte fallback" else "▁")


@given(families, texts)
@settings(max_examples=200, deadline=None)
def test_token_by_token_gives_the_same_text_and_only_whole_characters(family: str, text: str) -> None:
    codec = FAMILIES[family]
    ids = codec.encode(text)
    parts = streamed(codec, ids, start=True)
    whole = (BYTES if family == "byte level" else PIECES).decode(ids)
    assert "".join(parts) == codec.decode(ids) == whole
    if "\ufffd" not in text:
        assert not any("\ufffd" in part for part in parts)


@given(st.lists(st.integers(0, BYTES.get_vocab_size() - 1), max_size=40))
@settings(max_examples=200, deadline=None)
def test_any_tokens_of_a_byte_level_vocabulary_are_decoded_as_the_library_does_it(ids: list[int]) -> None:
    codec = FAMILIES["byte level"]
    assert "".join(streamed(codec, ids)) == codec.decode(ids) == BYTES.decode(ids)


@given(st.lists(st.integers(0, PIECES.get_vocab_size() - 1), max_size=40))
@settings(max_examples=200, deadline=None)
def test_any_tokens_of_a_vocabulary_with_byte_fallback_are_too_where_their_bytes_are_text(ids: list[int]) -> None:
    codec = FAMILIES["byte fallback"]
    whole = PIECES.decode(ids)
    mine = "".join(streamed(codec, ids, start=True))
    assert mine == codec.decode(ids)
    if "\ufffd" not in whole:
        assert mine == whole


@given(families, texts, st.lists(st.integers(1, 5), min_size=1))
@settings(deadline=None)
def test_however_many_come_at_once(family: str, text: str, sizes: list[int]) -> None:
    codec = FAMILIES[family]
    ids = codec.encode(text)
    stream, found, place = codec.stream(), "", 0
    for size in sizes * (len(ids) + 1):
        found += stream.push(ids[place : place + size])
        place += size
    assert found + stream.end() == "".join(streamed(codec, ids))


def test_what_continues_a_text_keeps_its_space() -> None:
    codec = FAMILIES["byte fallback"]
    ids = codec.encode("The engine")
    assert codec.decode(ids) == "The engine"
    assert "".join(streamed(codec, ids)) == " The engine"


def test_invalid_bytes_do_not_hold_up_what_follows() -> None:
    codec = FAMILIES["byte fallback"]
    number = PIECES.token_to_id
    stream = codec.stream()
    assert stream.push([number("<0xE4>"), number("<0xBD>")]) == ""
    assert stream.push([number("<0xA0>")]) == "你"
    assert stream.push([number("<0xFF>")]) == "\ufffd"
    assert stream.push([number("<0xE4>")]) == ""
    assert stream.push([number("e")]) == "\ufffde"
    assert stream.push([number("<0xF0>")]) == ""
    assert stream.end() == "\ufffd"
    assert stream.end() == ""


def test_a_character_may_begin_a_text_by_halves() -> None:
    ids = [PIECES.token_to_id(piece) for piece in ("<0xE4>", "<0xBD>", "<0xA0>")]
    assert FAMILIES["byte fallback"].decode(ids) == PIECES.decode(ids) == "你"


def test_an_added_token_that_is_no_part_of_the_alphabet_stands_as_it_is_written() -> None:
    tokenizer = byte_level()
    tokenizer.add_tokens(["｜a b｜", "Ġé"])
    ids = tokenizer.encode("x｜a b｜Ġé").ids
    assert TokenCodec(tokenizer).decode(ids) == tokenizer.decode(ids)
    assert TokenCodec(tokenizer).decode(ids).startswith("x｜a b｜")


def test_a_token_for_people() -> None:
    assert FAMILIES["byte fallback"].token(PIECES.token_to_id("<0xE4>")) == ("\ufffd", b"\xe4")
    assert FAMILIES["byte fallback"].token(PIECES.token_to_id("<s>")) == ("<s>", b"<s>")
    codec = FAMILIES["byte level"]
    assert codec.token(BYTES.token_to_id("<|im_end|>")) == ("<|im_end|>", b"<|im_end|>")
    assert codec.token(BYTES.token_to_id("Ġ")) == (" ", b" ")
    pieces = [codec.token(number) for number in codec.encode("🙂 über")]
    assert b"".join(data for _, data in pieces).decode() == "🙂 über"


def test_ids_that_name_no_token_are_nothing() -> None:
    codec = FAMILIES["byte level"]
    assert codec.decode([999_999, -1, 1 << 40]) == ""
    assert codec.token(999_999) == ("", b"")
    assert 999_999 not in codec._pieces  # or callers could fill the memory with them


def test_special_tokens_are_left_out_unless_they_are_shown() -> None:
    ids = FAMILIES["byte level"].encode("<|im_start|>a<|im_end|>")
    assert len(ids) == 3
    assert FAMILIES["byte level"].decode(ids) == "a"
    assert TokenCodec(byte_level(), shown=("<|im_end|>",)).decode(ids) == "a<|im_end|>"


def test_the_beginning_is_added_on_demand_and_nothing_is_cut() -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = byte_level()
    tokenizer.post_processor = TemplateProcessing(single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)])
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=8)
    codec = TokenCodec(tokenizer)
    assert codec.encode("water boils") == [1, *codec.encode("water boils", special=False)]
    assert len(codec.encode("water boils")) > 4
    assert codec.encode("", special=False) == []


def test_half_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(InvalidInput, match="surrogate"):
        FAMILIES["byte level"].encode("a\ud800")
    assert FAMILIES["byte level"].least_tokens("a\ud800") == 1


def test_what_the_library_says_of_a_text_is_an_error_of_ours() -> None:
    from tokenizers import Tokenizer, models

    codec = TokenCodec(Tokenizer(models.WordLevel({"a": 0}, "[UNK]")))
    with pytest.raises(EngineFailed, match="UNK"):
        codec.encode("b")


def decoders_of(name: str) -> Any:
    from tokenizers import decoders

    return {
        "metaspace": decoders.Metaspace(),
        "none": None,
        "word pieces": decoders.WordPiece(cleanup=False),
        "gemma": decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]),
    }[name]


@pytest.mark.parametrize("name", ["metaspace", "none", "word pieces", "gemma"])
def test_other_decoders_token_by_token(name: str) -> None:
    tokenizer = byte_fallback()
    ids = tokenizer.encode("The engine takes what is waiting. The end").ids
    tokenizer.decoder = decoders_of(name)
    codec = TokenCodec(tokenizer)
    assert "".join(streamed(codec, ids, start=True)) == tokenizer.decode(ids)


def test_a_decoder_that_needs_its_neighbours_is_refused() -> None:
    from tokenizers import decoders

    tokenizer = byte_level()
    tokenizer.decoder = decoders.CTC()
    with pytest.raises(EngineFailed, match="CTC"):
        TokenCodec(tokenizer)


# ── how few tokens a text can have ───────────────────────────────────────────────────────────────────────────────────


@given(families, texts, st.integers(1, 30))
@settings(max_examples=200, deadline=None)
def test_no_text_has_fewer_tokens_than_promised(family: str, text: str, times: int) -> None:
    codec = FAMILIES[family]
    assert codec.least_tokens(text * times) <= len(codec.encode(text * times, special=False))


@given(texts)
@settings(deadline=None)
def test_nor_where_the_tokenizer_normalises_or_strips_around_control_tokens(text: str) -> None:
    from tokenizers import AddedToken, normalizers

    tokenizer = byte_level()
    tokenizer.normalizer = normalizers.NFKC()
    assert widest_token(tokenizer) == 4 * widest_token(byte_level())
    tokenizer.add_tokens(["x" * 500])
    assert TokenCodec(tokenizer).least_tokens("x" * 500) == 1
    tokenizer.add_special_tokens([AddedToken("<|end|>", lstrip=True, rstrip=True)])
    codec = TokenCodec(tokenizer)
    text = f"{text}{' ' * 5000}<|end|>{' ' * 5000}"
    assert codec.least_tokens(text) <= len(codec.encode(text))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_promise_is_worth_something(family: str) -> None:
    text = "water boils at 100 degrees. " * 10_000
    assert FAMILIES[family].least_tokens(text) >= 2_500


def test_a_tokenizer_that_may_drop_text_promises_nothing() -> None:
    from tokenizers import models, normalizers, pre_tokenizers

    def changed(**steps: Any) -> Any:
        tokenizer = byte_level()
        for name, step in steps.items():
            setattr(tokenizer, name, step)
        return tokenizer

    assert widest_token(changed()) > 0
    assert widest_token(changed(normalizer=normalizers.Strip())) == 0
    assert widest_token(changed(normalizer=normalizers.Replace("a", ""))) == 0
    assert widest_token(changed(normalizer=normalizers.Replace(" ", ""))) == 0
    assert widest_token(changed(pre_tokenizer=pre_tokenizers.Whitespace())) == 0
    assert widest_token(changed(pre_tokenizer=pre_tokenizers.Split("a", "removed"))) == 0
    assert widest_token(changed(model=models.BPE({"a": 0}, [], unk_token="a", fuse_unk=True))) == 0
    assert widest_token(changed(model=models.WordLevel({"a": 0}, "a"))) == 0


@pytest.mark.parametrize(("composed", "decomposed"), [("NFC", "NFD"), ("NFKC", "NFKD")])
def test_normalising_makes_no_character_four_times_shorter(composed: Any, decomposed: Any) -> None:
    """Over all of Unicode: for each character, the longest text that is normalised to it."""
    changed = [
        character
        for code in (*range(0xD800), *range(0xE000, 0x110000))
        if not unicodedata.is_normalized(decomposed, character := chr(code))
    ]
    longest: dict[str, int] = {}
    for character in changed:
        parts = unicodedata.normalize(decomposed, character)
        assert character.isspace() or len("".join(parts.split()).encode()) * 4 >= len(character.encode())
        if len(parts) == 1:
            longest[parts] = max(longest.get(parts, 0), len(character.encode()))
    for character in changed:  # what is composed of several, each of which may have come from a longer one
        if unicodedata.is_normalized(composed, character):
            parts = unicodedata.normalize(decomposed, character)
            assert sum(longest.get(part, len(part.encode())) for part in parts) <= 4 * len(character.encode()), character

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openmaas.core.keys import digest_key, looks_like_key, make_key


def test_keys_have_the_form_and_are_never_the_same() -> None:
    keys = {make_key() for _ in range(200)}
    assert len(keys) == 200
    for key in keys:
        assert key.startswith("omk_")
        assert len(key) == 42
        assert looks_like_key(key)


def test_every_single_mistyped_character_is_noticed() -> None:
    key = make_key()
    for position in range(len(key)):
        other = "x" if key[position] != "x" else "y"
        assert not looks_like_key(key[:position] + other + key[position + 1 :]), position


def test_two_swapped_characters_are_noticed() -> None:
    key = make_key()
    for position in range(4, len(key) - 1):
        swapped = key[:position] + key[position + 1] + key[position] + key[position + 2 :]
        assert looks_like_key(swapped) is (swapped == key)


@pytest.mark.parametrize("text", ["", "omk_", "omk_" + "a" * 38, "OMK_" + "a" * 38, "omk_" + "é" * 38, "Bearer x"])
def test_what_is_no_key(text: str) -> None:
    assert not looks_like_key(text)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(st.text(max_size=60))
def test_any_text_can_be_asked_about(text: str) -> None:
    assert not looks_like_key(text)


def test_the_digest_is_sha_256_and_takes_what_no_key_holds() -> None:
    assert digest_key("omk_x") == hashlib.sha256(b"omk_x").hexdigest()
    assert digest_key("\udcff") == hashlib.sha256(b"\xff").hexdigest()

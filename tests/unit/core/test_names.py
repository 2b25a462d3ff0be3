from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openmaas.core.errors import InvalidInput
from openmaas.core.names import Reference, check_alias, check_name, parse_reference


@pytest.mark.parametrize("name", ["a", "7", "digits", "my-model.v2_x", "a" * 63, "A.b"])
def test_names_that_are_allowed(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "-a",
        "a-",
        ".",
        "..",
        "_a",
        "a/b",
        "a\\b",
        "a b",
        "a\n",
        "a\x00",
        "é",
        "²",
        "a" * 64,
        "a:1",
        "a@b",
        "a%2Fb",
        " a",
        "а",
    ],
)
def test_names_that_are_not(name: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_name(name, "deployment")
    assert caught.value.code == "invalid_name"
    assert "deployment name" in caught.value.message


@pytest.mark.parametrize("alias", ["champion", "c", "A-b_9", "a" * 63])
def test_aliases_that_are_allowed(alias: str) -> None:
    assert check_alias(alias) == alias


@pytest.mark.parametrize("alias", ["", "1", "9lives", "-a", "a.b", "a b", "a" * 64, "a\n", "é"])
def test_aliases_that_are_not(alias: str) -> None:
    """The first is a letter, so that a number is never taken for an alias."""
    with pytest.raises(InvalidInput):
        check_alias(alias)


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("digits", Reference("digits")),
        ("digits:3", Reference("digits", number=3)),
        ("digits@champion", Reference("digits", alias="champion")),
        ("d:999999999", Reference("d", number=999999999)),
    ],
)
def test_a_reference_reads_and_writes_the_same(text: str, reference: Reference) -> None:
    assert parse_reference(text) == reference
    assert str(reference) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "@",
        "d:",
        "d@",
        ":3",
        "@a",
        "d:0",
        "d:-1",
        "d:+1",
        "d:1.0",
        "d: 1",
        "d:1 ",
        "d:²",
        "d:٣",
        "d:1000000000",
        "d:x",
        "d@1",
        "d@a@b",
        "d:1@a",
        "d@a:1",
        "d:1:2",
        "d:" + "9" * 5000,
    ],
)
def test_what_is_no_reference(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_reference(text)
    assert len(str(caught.value)) < 400


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.text(max_size=80))
def test_any_text_is_a_reference_or_an_error_of_ours(text: str) -> None:
    try:
        reference = parse_reference(text)
    except InvalidInput:
        return
    assert parse_reference(str(reference)) == reference

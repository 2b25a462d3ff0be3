from __future__ import annotations

import hashlib

import pytest

from openmaas.core.errors import InvalidInput
from openmaas.core.packs import HEAD, pack, unpack

FILES = {hashlib.sha256(data).hexdigest(): data for data in (b"", b"one", bytes(70_000))}


def test_what_is_packed_comes_out() -> None:
    body = pack(FILES.items())
    assert len(body) == sum(HEAD + len(data) for data in FILES.values())
    assert unpack(body) == FILES


@pytest.mark.parametrize("size", [1, HEAD - 1, HEAD + 2, HEAD + HEAD + 2])
def test_a_body_that_breaks_off_is_refused(size: int) -> None:
    body = pack([("a" * 64, b"abc"), ("b" * 64, b"d")])
    with pytest.raises(InvalidInput, match="break off"):
        unpack(body[:size])


def test_a_size_beyond_the_body_allocates_nothing() -> None:
    with pytest.raises(InvalidInput, match="break off in the one at byte 0"):
        unpack(bytes(32) + b"\xff\xff\xff\xff" + b"x")


def test_a_file_comes_once_and_a_body_holds_one() -> None:
    with pytest.raises(InvalidInput, match="twice"):
        unpack(pack([("a" * 64, b"x")]) * 2)
    with pytest.raises(InvalidInput, match="no file"):
        unpack(b"")

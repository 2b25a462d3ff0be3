"""Content codings: bounded before they are allocated, and never cut short in silence."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib

import pytest

from openmaas.core.errors import InvalidInput, TooLarge
from openmaas.protocols.codings import compress, decompress

PLAIN = b"0123456789" * 300


def raw_deflate(plain: bytes) -> bytes:
    machine = zlib.compressobj(wbits=-15)
    return machine.compress(plain) + machine.flush()


CODED = {"gzip": gzip.compress(PLAIN), "x-gzip": gzip.compress(PLAIN), "deflate": zlib.compress(PLAIN)}


@pytest.mark.parametrize(("coding", "coded"), [*CODED.items(), ("deflate", raw_deflate(PLAIN)), (" GZip ", CODED["gzip"])])
def test_each_coding_is_undone(coding: str, coded: bytes) -> None:
    assert decompress(coded, coding, 10_000) == PLAIN


@pytest.mark.parametrize("coding", ["", "identity", " Identity "])
def test_no_coding_leaves_the_body(coding: str) -> None:
    assert decompress(PLAIN, coding, 10) is PLAIN


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, deflate", "gzip,gzip", "*", "gzip;q=1", "x" * 10_000])
def test_other_codings_are_refused(coding: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        decompress(PLAIN, coding, 10_000)
    assert caught.value.code == "unknown_coding"
    assert len(caught.value.message) < 200


@pytest.mark.parametrize("coding", CODED)
@pytest.mark.parametrize("cut", [0, 1, 5, 12, -8, -4, -1])
def test_a_body_cut_short_is_refused(coding: str, cut: int) -> None:
    with pytest.raises(InvalidInput) as caught:
        decompress(CODED[coding][:cut], coding, 10_000)
    assert caught.value.code == "broken_coding"


@pytest.mark.parametrize("coding", CODED)
def test_what_follows_the_body_is_refused(coding: str) -> None:
    for after in (b"x", b"\0", CODED[coding]):
        with pytest.raises(InvalidInput):
            decompress(CODED[coding] + after, coding, 10_000)


@pytest.mark.parametrize("coding", CODED)
def test_a_changed_byte_is_noticed(coding: str) -> None:
    for at in range(2, len(CODED[coding])):
        broken = bytearray(CODED[coding])
        broken[at] ^= 0xFF
        try:
            plain = decompress(bytes(broken), coding, 10_000)
        except InvalidInput:
            continue
        assert plain == PLAIN, at  # a field of gzip's head that says nothing of the content


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_plain_text_is_refused(coding: str) -> None:
    with pytest.raises(InvalidInput):
        decompress(PLAIN, coding, 10_000)


def test_the_limit_is_exact() -> None:
    assert decompress(CODED["gzip"], "gzip", len(PLAIN)) == PLAIN
    with pytest.raises(TooLarge) as caught:
        decompress(CODED["gzip"], "gzip", len(PLAIN) - 1)
    assert caught.value.code == "body_too_large"
    assert "OPENMAAS_MAX_BODY" in str(caught.value)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "raw"])
def test_a_bomb_is_refused_before_it_is_allocated(coding: str) -> None:
    plain = bytes(50 * 2**20)
    bomb = {"gzip": gzip.compress, "deflate": zlib.compress, "raw": raw_deflate}[coding](plain)
    del plain
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge):
            decompress(bomb, "deflate" if coding == "raw" else coding, 2**20)
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("accept", "coding"),
    [
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("deflate, gzip", "gzip"),
        ("GZIP;q=0.5", "gzip"),
        ("gzip;q=0, deflate", "deflate"),
        ("gzip;q=0.0, deflate", "deflate"),
        ("gzip; q=0.000 ,deflate;q=0", ""),
        ("gzip;q=0.001", "gzip"),
        ("br, zstd", ""),
        ("identity", ""),
        ("", ""),
        ("*", ""),
    ],
)
def test_an_answer_is_compressed_as_the_caller_allows(accept: str, coding: str) -> None:
    body, used = compress(PLAIN, accept)
    assert used == coding
    assert decompress(body, used, 10_000) == PLAIN


def test_a_small_answer_stays_as_it_is() -> None:
    assert compress(b"x" * 1023, "gzip") == (b"x" * 1023, "")

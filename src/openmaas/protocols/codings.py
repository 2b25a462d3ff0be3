"""Content codings of HTTP bodies: gzip and deflate, with the decompressed size bounded before it is allocated."""

from __future__ import annotations

import re
import zlib

from openmaas.core.errors import InvalidInput, TooLarge

_WINDOW = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
_COMPRESS_FROM = 1024
_NOT = re.compile(r";\s*q\s*=\s*0(\.0*)?\s*$")  # a weight of nothing: the coding is not wanted


def decompress(body: bytes, coding: str, limit: int) -> bytes:
    """The body as it was before its Content-Encoding. Raises TooLarge beyond `limit` bytes, InvalidInput for a broken one."""
    coding = coding.strip().lower()
    if coding in ("", "identity"):
        return body
    window = _WINDOW.get(coding)
    if window is None:
        raise InvalidInput(
            f"Content-Encoding {coding[:40]!r} is not known; gzip, deflate and identity are.", code="unknown_coding"
        )
    try:
        machine = zlib.decompressobj(window)
        plain = machine.decompress(body, limit + 1)
    except zlib.error as error:
        if coding != "deflate":
            raise InvalidInput(f"The body is not valid {coding}: {error}.", code="broken_coding") from None
        return _raw_deflate(body, limit)
    return _checked(machine, plain, limit)


def _raw_deflate(body: bytes, limit: int) -> bytes:
    """Some clients send deflate without its zlib frame."""
    try:
        machine = zlib.decompressobj(-zlib.MAX_WBITS)
        plain = machine.decompress(body, limit + 1)
    except zlib.error as error:
        raise InvalidInput(f"The body is not valid deflate: {error}.", code="broken_coding") from None
    return _checked(machine, plain, limit)


def _checked(machine: zlib._Decompress, plain: bytes, limit: int) -> bytes:
    if len(plain) > limit:
        raise TooLarge(
            f"The body is larger than {limit} bytes once decompressed.",
            code="body_too_large",
            next_step="Send fewer rows a request, or raise OPENMAAS_MAX_BODY.",
        )
    if not machine.eof or machine.unused_data:
        raise InvalidInput("The compressed body is cut short, or something follows it.", code="broken_coding")
    return plain


def compress(body: bytes, accept: str) -> tuple[bytes, str]:
    """The body and its Content-Encoding, as the caller's Accept-Encoding allows; small bodies stay as they are."""
    if not accept or len(body) < _COMPRESS_FROM:
        return body, ""
    accepted = {part.split(";")[0].strip() for part in accept.lower().split(",") if not _NOT.search(part)}
    for coding in ("gzip", "deflate"):
        if coding in accepted:
            machine = zlib.compressobj(level=1, wbits=_WINDOW[coding])
            return machine.compress(body) + machine.flush(), coding
    return body, ""

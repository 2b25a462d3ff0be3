"""Small files in one body: of each the digest in 32 bytes, the size in four (the largest byte first), and its bytes."""

from __future__ import annotations

from collections.abc import Iterable

from openmaas.core.errors import InvalidInput

HEAD = 36
"""Bytes before each file's own."""

_DIGEST = 32


def pack(files: Iterable[tuple[str, bytes]]) -> bytes:
    """files: SHA-256 in hex, and bytes."""
    return b"".join(
        part for sha256, data in files for part in (bytes.fromhex(sha256), len(data).to_bytes(HEAD - _DIGEST, "big"), data)
    )


def unpack(body: bytes) -> dict[str, bytes]:
    """Files by digest; nothing is said of whether the digests are right. Raises InvalidInput for what `pack` has not made."""
    files: dict[str, bytes] = {}
    place = 0
    while place < len(body):
        start = place + HEAD
        end = start + int.from_bytes(body[place + _DIGEST : start], "big")
        sha256 = body[place : place + _DIGEST].hex()
        if end > len(body):
            raise InvalidInput(f"The files in the body break off in the one at byte {place}.", code="invalid_chunk")
        if sha256 in files:
            raise InvalidInput(f"The file {sha256} comes twice in the body.", code="invalid_chunk")
        files[sha256] = body[start:end]
        place = end
    if not files:
        raise InvalidInput("The body holds no file.", code="invalid_chunk")
    return files

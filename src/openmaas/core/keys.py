"""API keys: `omk_`, 32 random Base62 characters, and a CRC-32 of those in six more, so that a mistyped key needs no look-up.

Only the SHA-256 digest of a key is ever stored.
"""

from __future__ import annotations

import hashlib
import secrets
import zlib

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_PREFIX = "omk_"
_RANDOM = 32
_CHECK = 6


def _checksum(text: str) -> str:
    number, digits = zlib.crc32(text.encode()), ""
    for _ in range(_CHECK):
        number, digit = divmod(number, 62)
        digits = _ALPHABET[digit] + digits
    return digits


def make_key() -> str:
    """A new key with 190 bits of randomness."""
    body = "".join(secrets.choice(_ALPHABET) for _ in range(_RANDOM))
    return f"{_PREFIX}{body}{_checksum(body)}"


def looks_like_key(text: str) -> bool:
    """Whether the form and the checksum are right; says nothing of whether the key is good."""
    if not text.startswith(_PREFIX) or len(text) != len(_PREFIX) + _RANDOM + _CHECK or not text.isascii():
        return False
    body, check = text[len(_PREFIX) : -_CHECK], text[-_CHECK:]
    return secrets.compare_digest(_checksum(body), check)


def digest_key(text: str) -> str:
    """SHA-256 in hex: what is stored and compared."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()

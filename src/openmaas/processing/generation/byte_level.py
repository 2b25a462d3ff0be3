"""The alphabet of byte-level vocabularies."""

from __future__ import annotations

from typing import Final


def _alphabet() -> dict[str, int]:
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in own]
    return {chr(byte): byte for byte in own} | {chr(0x100 + place): byte for place, byte in enumerate(others)}


ALPHABET: Final = _alphabet()
"""GPT-2's: a printable character for each byte; those that are printable stand for themselves."""
BLANKS: Final = {ord(character): None for character, byte in ALPHABET.items() if byte in b"\t\n\v\f\r "}
"""The characters of white space, for str.translate."""

"""The grammar of names: `digits` (its newest), `digits:3`, `digits@champion`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from openmaas.core.errors import InvalidInput

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_ALIAS = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}")
DEFAULT_PROJECT = "default"


@dataclass(frozen=True, slots=True)
class Reference:
    """A version as a person names it. With neither number nor alias it means the newest version."""

    model: str
    number: int | None = None
    alias: str | None = None

    def __str__(self) -> str:
        if self.number is not None:
            return f"{self.model}:{self.number}"
        return f"{self.model}@{self.alias}" if self.alias else self.model


def check_name(text: str, noun: str = "model") -> str:
    """The name itself, or InvalidInput that says what a name may hold."""
    if not _NAME.fullmatch(text):
        raise InvalidInput(
            f"{text[:80]!r} is not a {noun} name: 1 to 63 letters, digits, '.', '_' or '-', first and last a letter or digit.",
            code="invalid_name",
        )
    return text


def check_alias(text: str) -> str:
    if not _ALIAS.fullmatch(text):
        raise InvalidInput(
            f"{text[:80]!r} is not an alias: 1 to 63 letters, digits, '_' or '-', the first a letter.", code="invalid_name"
        )
    return text


def parse_reference(text: str) -> Reference:
    """`digits`, `digits:3` or `digits@champion` as a Reference. Raises InvalidInput for anything else."""
    if "@" in text:
        model, _, alias = text.partition("@")
        return Reference(check_name(model), alias=check_alias(alias))
    model, colon, number = text.partition(":")
    if not colon:
        return Reference(check_name(model))
    if not (number.isascii() and number.isdigit() and len(number) <= 9 and int(number) > 0):
        raise InvalidInput(
            f"{number[:40]!r} is not a version number.",
            code="invalid_name",
            next_step=f"Write {model}:1, {model}@alias or {model}.",
        )
    return Reference(check_name(model), number=int(number))

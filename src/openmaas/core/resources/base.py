"""What the shapes of several things share: a page of a listing, and why something does not run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Generic, TypeVar

T = TypeVar("T")

STRICT: Final = {"extra": "forbid"}
"""The configuration of a body that comes in: unknown fields are refused."""


@dataclass(frozen=True, kw_only=True)
class Page(Generic[T]):
    """One page of a listing. `next` asks for the page after it; None on the last. `total` counts all that match."""

    items: list[T]
    total: int
    next: str | None = None


@dataclass(frozen=True, kw_only=True)
class CauseInfo:
    """Why something does not run: a code, a sentence, the last lines of its stderr, one next command."""

    code: str
    message: str
    stderr: list[str]
    next_step: str

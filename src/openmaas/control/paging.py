"""Pages by key: a page goes on after the last row of the one before, so that each costs the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from openmaas.core.errors import InvalidInput
from openmaas.core.resources import Page

DEFAULT_LIMIT = 100
MAX_LIMIT = 500
_MAX_KEY = 2**31 - 1
Row = TypeVar("Row")
Item = TypeVar("Item")


def check_limit(limit: int) -> int:
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidInput(f"The limit {limit} is not between 1 and {MAX_LIMIT}.", code="invalid_limit")
    return limit


def number_after(after: str | None) -> int | None:
    """The number that a page of numbered rows goes on after; None for the first page."""
    if after is None:
        return None
    if not (after.isascii() and after.isdigit() and len(after) <= 10 and int(after) <= _MAX_KEY):
        raise InvalidInput(
            f"'after' is {after[:40]!r}, not what a page gave as 'next'.",
            code="invalid_page",
            next_step="Begin without 'after'.",
        )
    return int(after)


def make_page(
    rows: Sequence[Row], limit: int, total: int, key: Callable[[Row], object], make: Callable[[Sequence[Row]], list[Item]]
) -> Page[Item]:
    """A page of at most `limit` of the rows; one more row than that says that there is a next page."""
    shown = rows[:limit]
    return Page(items=make(shown), total=total, next=str(key(shown[-1])) if len(rows) > limit else None)


def within(sizes: Sequence[int], limit: int, most: int) -> int:
    """How many of the rows fit into one page of so many bytes: at least one."""
    total = 0
    for count, size in enumerate(sizes):
        total += size
        if count and total > most:
            return min(count, limit)
    return limit

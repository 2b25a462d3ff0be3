"""Paged listings: the first page at once, and how many more there are."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from openmaas.cli.i18n import _
from openmaas.core.resources import Page

if TYPE_CHECKING:
    from openmaas.client import Pages

T = TypeVar("T")
DEFAULT_LIMIT = 50
LARGEST_PAGE = 500  # that the server gives


def first_rows(pages: Pages[T], limit: int | None, everything: bool) -> Page[T]:
    """The rows to show, and how many there are in all; `next` is None when these are all."""
    if everything:
        found = list(pages)
        return Page(items=found, total=len(found))
    page = pages.page()
    items = page.items[: limit or DEFAULT_LIMIT]
    return replace(page, items=items, next=page.next if len(items) < page.total else None)


def remark(page: Page[T]) -> None:
    """Say what is not shown."""
    if page.total > len(page.items):
        from openmaas.cli.console import nothing

        nothing(_("{shown} of {total}; --all shows all, --limit N more.").format(shown=len(page.items), total=page.total))

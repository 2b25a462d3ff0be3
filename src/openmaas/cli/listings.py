"""Paged listings: the first page at once, and how many more there are."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from openmaas.cli.i18n import _

if TYPE_CHECKING:
    from openmaas.client import Pages

T = TypeVar("T")


def rows(pages: Pages[T], limit: int, everything: bool) -> tuple[list[T], int]:
    """Rows to show, and how many there are in all."""
    if everything:
        found = list(pages)
        return found, len(found)
    page = pages.page()
    return list(islice(page.items, limit)), page.total


def remark(shown: int, total: int) -> None:
    """Say what is not shown."""
    if total > shown:
        from openmaas.cli.console import nothing

        nothing(_("{shown} of {total}; --all shows all, --limit N more.").format(shown=shown, total=total))

"""What a terminal shows: one console, tables without clutter, states in colour, JSON for programs."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import msgspec
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text
from rich.theme import Theme

from openmaas.cli.i18n import _

_PIPE_WIDTH = 220  # nothing is cut when the output goes to a file or another program
_THEME = Theme({"head": "dim", "name": "bold cyan", "good": "green", "busy": "yellow", "bad": "red", "faint": "dim"})
_STATES = {
    "ready": ("●", "good"), "starting": ("◌", "busy"), "updating": ("◐", "busy"), "draining": ("◌", "busy"),
    "backoff": ("◌", "bad"), "hung": ("●", "bad"), "failed": ("✗", "bad"), "stopped": ("○", "faint"),
    "superseded": ("○", "faint"),
}  # fmt: skip


def _console(stream: Any) -> Console:
    width = None if stream.isatty() else _PIPE_WIDTH
    return Console(file=stream, theme=_THEME, highlight=False, width=width, emoji=False, markup=False)


def out() -> Console:
    """Answers: standard output."""
    return _console(sys.stdout)


def err() -> Console:
    """Errors, progress and remarks: standard error."""
    return _console(sys.stderr)


def print_json(value: Any) -> None:
    """A resource, or a list of them, as indented JSON."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


def table(*columns: str, right: Iterable[str] = ()) -> Table:
    """A table without lines; columns named in `right` are aligned there."""
    made = Table(box=None, header_style="head", pad_edge=False, padding=(0, 3, 0, 0), show_edge=False)
    aligned = set(right)
    for column in columns:
        made.add_column(column, justify="right" if column in aligned else "left", no_wrap=True, overflow="ellipsis")
    return made


def fields(rows: Iterable[tuple[str, RenderableType]]) -> Table:
    """Names and values, one pair a line."""
    grid = Table.grid(padding=(0, 3, 0, 0))
    grid.add_column(style="head", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in rows:
        grid.add_row(name, value)
    return grid


def state(name: str, remark: str = "") -> Text:
    """A state with its sign and colour."""
    sign, style = _STATES.get(name, ("·", "faint"))
    return Text.assemble((f"{sign} {name}", style), (f" {remark}" if remark else "", "faint"))


def name(text: str) -> Text:
    return Text(text, style="name")


def done(message: str) -> None:
    """One line that says what was done."""
    out().print(Text.assemble(("✓ ", "good"), message), soft_wrap=True)


def hint(text: str) -> None:
    """What to do next."""
    out().print(Text.assemble((_("next") + "  ", "faint"), text), soft_wrap=True)


def nothing(message: str) -> None:
    """Where a listing has no rows: on standard error, so that a pipe reads nothing."""
    err().print(Text(message, style="faint"), soft_wrap=True)

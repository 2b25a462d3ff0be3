"""What a terminal shows: lines and tables, states in colour, JSON for programs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TextIO

import msgspec

from openmaas.cli.i18n import _
from openmaas.cli.styled import Line, Styled, Table, cells

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Styled", "Table"]

_STATES = {
    "ready": ("●", "good"), "starting": ("◌", "busy"), "updating": ("◐", "busy"), "draining": ("◌", "busy"),
    "backoff": ("◌", "bad"), "hung": ("●", "bad"), "failed": ("✗", "bad"), "stopped": ("○", "faint"),
    "superseded": ("○", "faint"), "queued": ("◌", "busy"), "running": ("◐", "busy"), "cancelling": ("◌", "busy"),
    "succeeded": ("●", "good"), "cancelled": ("○", "faint"),
}  # fmt: skip


def write(line: Line = "", stream: TextIO | None = None) -> None:
    """One line, on standard output unless told otherwise; in colour at a terminal."""
    stream = stream or sys.stdout
    styled = line if isinstance(line, Styled) else Styled(line)
    stream.write(styled.render(in_colour(stream)) + "\n")


def write_table(table: Table) -> None:
    """A table, cut to the terminal's width where there is one."""
    for line in table.lines(terminal_width(sys.stdout)):
        write(line)


def in_colour(stream: TextIO) -> bool:
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return bool(os.environ.get("FORCE_COLOR")) or stream.isatty()


def terminal_width(stream: TextIO) -> int | None:
    """Columns of the terminal; None where the output goes elsewhere, and nothing needs to be cut."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or None
    except (OSError, ValueError):
        return None


def live_console() -> Console | None:
    """rich's console on standard error, for what moves; None where nobody watches."""
    if not sys.stderr.isatty():
        return None
    from rich.console import Console

    return Console(stderr=True, highlight=False, emoji=False)


def print_json(value: Any) -> None:
    """A resource, or a list of them, as indented JSON."""
    write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def write_fields(rows: Iterable[tuple[str, Line]]) -> None:
    """Names and values, one pair a line."""
    pairs = list(rows)
    width = max((cells(name) for name, _ in pairs), default=0)
    for name, value in pairs:
        pieces = value.pieces if isinstance(value, Styled) else [value]
        write(Styled((name, "head"), " " * (width - cells(name) + 3), *pieces))


def state(name: str, remark: str = "") -> Styled:
    """A state with its sign and colour."""
    sign, style = _STATES.get(name, ("·", "faint"))
    return Styled((f"{sign} {name}", style), (f" {remark}" if remark else "", "faint"))


def name(text: str) -> Styled:
    return Styled((text, "name"))


def done(message: str) -> None:
    """One line that says what was done."""
    write(Styled(("✓ ", "good"), message))


def hint(text: str, stream: TextIO | None = None) -> None:
    """What to do next."""
    write(Styled((_("next") + "  ", "faint"), text), stream)


def nothing(message: str) -> None:
    """Where a listing has no rows: on standard error, so that a pipe reads nothing."""
    write(Styled((message, "faint")), sys.stderr)

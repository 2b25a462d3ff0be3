"""Live rates, latency and batch sizes."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from openmaas.cli.i18n import _
from openmaas.cli.options import Json, connect

if TYPE_CHECKING:
    from rich.text import Text

    from openmaas.cli.console import Table
    from openmaas.cli.rates import Rate


def top(
    interval: Annotated[float, typer.Option("--interval", "-i", min=0.1, max=60, help=_("Seconds between two looks."))] = 1.0,
    once: Annotated[bool, typer.Option("--once", help=_("Print one look and end."))] = False,
    as_json: Json = False,
) -> None:
    """Show what is served right now: requests a second, latency, queue, batch size. Ctrl-C ends it. --json prints one look."""
    from openmaas.cli.console import print_json, terminal_width, write_table
    from openmaas.cli.rates import look, rates

    client = connect()
    before = look(client)
    time.sleep(interval)
    after = look(client)
    current = rates(before, after)
    if as_json:
        print_json(current)
        return
    if once or terminal_width(sys.stdout) is None:
        write_table(_table(current))
        return
    from rich.live import Live

    with Live(_live(current), auto_refresh=False, screen=True) as live:
        while True:
            time.sleep(interval)
            before, after = after, look(client)
            live.update(_live(rates(before, after)), refresh=True)


def _live(current: list[Rate]) -> Text:
    """The table as rich shows it."""
    from rich.text import Text

    from openmaas.cli.console import in_colour, terminal_width

    lines = _table(current).lines(terminal_width(sys.stdout))
    return Text.from_ansi("\n".join(line.render(in_colour(sys.stdout)) for line in lines))


def _table(current: list[Rate]) -> Table:
    from openmaas.cli.console import Styled, Table, name
    from openmaas.cli.units import milliseconds

    numbers = (
        _("REQ/S"),
        _("ROWS/S"),
        _("P50"),
        _("P99"),
        _("QUEUE"),
        _("MODEL"),
        _("BATCH"),
        _("PADDING"),
        _("FAIL/S"),
        _("REPLICAS"),
    )
    made = Table(_("DEPLOYMENT"), _("VERSION"), *numbers, right=numbers)
    for rate in current:
        made.add_row(
            name(rate.deployment),
            rate.version,
            _number(rate.requests),
            _number(rate.rows),
            milliseconds(rate.p50),
            milliseconds(rate.p99),
            milliseconds(rate.queue),
            milliseconds(rate.model),
            "–" if rate.batch is None else f"{rate.batch:.1f}",
            "–" if rate.padding is None else f"{rate.padding:.0%}",
            Styled((_number(rate.failures), "bad" if rate.failures else "")),
            str(rate.replicas),
        )
    if not current:
        made.add_row(Styled((_("Nothing is ready."), "faint")))
    return made


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or not value else f"{value:.1f}"

"""Live rates, latency and batch sizes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from openmaas.cli.i18n import _
from openmaas.cli.options import Json, connect

if TYPE_CHECKING:
    from rich.table import Table

    from openmaas.cli.rates import Rate


def top(
    interval: Annotated[float, typer.Option("--interval", "-i", min=0.1, max=60, help=_("Seconds between two looks."))] = 1.0,
    once: Annotated[bool, typer.Option("--once", help=_("Print one look and end."))] = False,
    as_json: Json = False,
) -> None:
    """Show what is served right now: requests a second, latency, queue, batch size. Ctrl-C ends it. --json prints one look."""
    from openmaas.cli.console import out, print_json
    from openmaas.cli.rates import look, rates

    client = connect()
    before = look(client)
    time.sleep(interval)
    after = look(client)
    current = rates(before, after)
    if as_json:
        print_json(current)
        return
    console = out()
    if once or not console.is_terminal:
        console.print(_table(current))
        return
    from rich.live import Live

    with Live(_table(current), console=console, auto_refresh=False, screen=True) as live:
        while True:
            time.sleep(interval)
            before, after = after, look(client)
            live.update(_table(rates(before, after)), refresh=True)


def _table(current: list[Rate]) -> Table:
    from rich.text import Text

    from openmaas.cli.console import name, table
    from openmaas.cli.units import milliseconds

    numbers = (_("REQ/S"), _("ROWS/S"), _("P50"), _("P99"), _("QUEUE"), _("MODEL"), _("BATCH"), _("FAIL/S"), _("REPLICAS"))
    made = table(_("DEPLOYMENT"), _("VERSION"), *numbers, right=numbers)
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
            Text(_number(rate.failures), style="bad" if rate.failures else ""),
            str(rate.replicas),
        )
    if not current:
        made.caption = _("Nothing is ready.")
        made.caption_justify = "left"
    return made


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or not value else f"{value:.1f}"

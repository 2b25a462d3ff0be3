"""What replicas wrote."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openmaas.cli.i18n import _
from openmaas.cli.options import DeploymentArgument, Json, connect

if TYPE_CHECKING:
    from openmaas.cli.styled import Styled

_PAUSE = 0.5  # seconds between two looks with --follow
_MOST = 10_000  # lines that the server gives at once
_SHOWN_BEFORE = ("timestamp", "level", "event", "noun", "process", "replica", "exception")


def logs(
    deployment: DeploymentArgument,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, max=_MOST, help=_("How many of the last lines."))] = 200,
    replica: Annotated[str | None, typer.Option("--replica", help=_("Only this replica, by its id in `openmaas ps`."))] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help=_("Go on with new lines until interrupted."))] = False,
    raw: Annotated[bool, typer.Option("--raw", help=_("Each line as it was written."))] = False,
    as_json: Json = False,
) -> None:
    """Show what a deployment's replicas wrote."""
    from openmaas.cli.console import print_json

    client = connect()
    answer = client.logs(deployment, lines=lines, replica=replica)
    if as_json:
        print_json(answer)
        return
    _write(answer.lines, raw)
    while follow:
        time.sleep(_PAUSE)
        answer = client.logs(deployment, lines=_MOST, replica=replica, offset=answer.offset)
        _write(answer.lines, raw)


def _write(lines: list[str], raw: bool) -> None:
    from openmaas.cli.console import write

    for line in lines:
        write(line if raw else readable(line))


def readable(line: str) -> Styled | str:
    """A line of our own structured log for people; any other line as it is."""
    import msgspec

    from openmaas.cli.styled import Styled

    replica, _bar, text = line.partition(" | ")
    try:
        told = msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.MsgspecError:
        return line
    if "event" not in told:
        return line
    level = str(told.get("level", ""))
    style = {"error": "bad", "critical": "bad", "warning": "busy"}.get(level, "faint")
    rest = " ".join(f"{name}={_value(value)}" for name, value in told.items() if name not in _SHOWN_BEFORE)
    clock = str(told.get("timestamp", ""))[11:19]
    exception = f"\n{told['exception']}" if "exception" in told else ""
    return Styled(
        (f"{replica} | ", "faint"), clock, " ", (f"{level:<7}", style), f" {told['event']} ", (rest, "faint"), exception
    )


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return ",".join(f"{name}:{part}" for name, part in value.items())
    return str(value)

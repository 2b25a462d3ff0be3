"""What replicas wrote."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from openmaas.cli.i18n import _
from openmaas.cli.options import DeploymentArgument, Json, connect

_PAUSE = 0.5  # seconds between two looks with --follow


def logs(
    deployment: DeploymentArgument,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, max=10_000, help=_("How many of the last lines."))] = 200,
    replica: Annotated[str | None, typer.Option("--replica", help=_("Only this replica, by its id in `openmaas ps`."))] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help=_("Go on with new lines until interrupted."))] = False,
    as_json: Json = False,
) -> None:
    """Show what a deployment's replicas wrote."""
    from openmaas.cli.console import print_json

    client = connect()
    answer = client.logs(deployment, lines=lines, replica=replica)
    if as_json:
        print_json(answer)
        return
    _write(answer.lines)
    while follow:
        time.sleep(_PAUSE)
        answer = client.logs(deployment, lines=10_000, replica=replica, offset=answer.offset)
        _write(answer.lines)


def _write(lines: list[str]) -> None:
    from openmaas.cli.console import write

    for line in lines:
        write(line)

"""All commands, by noun."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer

from openmaas.cli import (
    administration,
    aliases,
    deployments,
    histories,
    logs,
    models,
    predictions,
    processes,
    pushes,
    server,
    top,
)
from openmaas.cli.i18n import _

app = typer.Typer(
    name="openmaas",
    help=_("Push a trained model, deploy it, call it."),
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

_PANELS: dict[str, list[Callable[..., Any]]] = {
    _("Server"): [server.up, server.down, server.status, server.doctor, server.version],
    _("Models"): [pushes.push, models.ls, models.show, aliases.alias, histories.history, models.rm, models.pull],
    _("Serving"): [
        deployments.deploy, predictions.predict, processes.ps, logs.logs, top.top, deployments.rollback, deployments.undeploy,
    ],
    _("Keeping order"): [administration.gc, administration.approve],
}  # fmt: skip

for panel, commands in _PANELS.items():
    for command in commands:
        app.command(rich_help_panel=panel)(command)

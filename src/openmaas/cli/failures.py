"""From errors to what a person reads: the cause, the evidence, one next step. Never a traceback, unless it is asked for."""

from __future__ import annotations

import os

from rich.console import Console
from rich.text import Text

from openmaas.cli.console import err
from openmaas.cli.i18n import _
from openmaas.client.deployments import DeployFailed
from openmaas.core.errors import OpenMaaSError

DEBUG = "OPENMAAS_DEBUG"


def show_error(error: OpenMaaSError) -> None:
    """An error that was raised on purpose."""
    console = err()
    _line(console, _("error"), "bad", error.message)
    if isinstance(error, DeployFailed):
        for line in error.cause.stderr[-10:]:
            console.print(Text(f"       │ {line}", style="faint"), soft_wrap=True)
    if error.next_step:
        _line(console, _("next"), "name", error.next_step)
    if error.request_id:
        _line(
            console, "", "faint", _("code {code}, request {request}").format(code=error.code, request=error.request_id), "faint"
        )


def show_bug(error: Exception) -> None:
    """An error that nobody expected: a line, and how to see the rest."""
    if os.environ.get(DEBUG):
        raise error
    console = err()
    _line(console, _("error"), "bad", _("Unexpected {kind}: {error}").format(kind=type(error).__name__, error=error))
    _line(
        console, _("next"), "name", _("Run it again with {variable}=1 for the traceback, and report it.").format(variable=DEBUG)
    )


def show_usage(message: str, command: str) -> None:
    """A command that was written wrongly."""
    console = err()
    _line(console, _("error"), "bad", message)
    _line(console, _("next"), "name", _("See `{command} --help`.").format(command=command))


def _line(console: Console, label: str, style: str, message: str, message_style: str = "") -> None:
    console.print(Text.assemble((f"{label:>5}  ", style), (message, message_style)), soft_wrap=True)

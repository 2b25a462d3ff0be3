"""From errors to what a person reads: the cause, the evidence, one next step. Never a traceback, unless it is asked for."""

from __future__ import annotations

import os
import sys

from openmaas.cli.console import Styled, write
from openmaas.cli.i18n import _
from openmaas.core.errors import OpenMaaSError

DEBUG = "OPENMAAS_DEBUG"


def show_error(error: OpenMaaSError) -> None:
    """An error that was raised on purpose."""
    _line(_("error"), "bad", error.message)
    for line in _stderr_of(error)[-10:]:
        write(Styled((f"       │ {line}", "faint")), sys.stderr)
    if error.next_step:
        _line(_("next"), "name", error.next_step)
    if error.request_id:
        text = _("code {code}, request {request}").format(code=error.code, request=error.request_id)
        write(Styled((f"       {text}", "faint")), sys.stderr)


def _stderr_of(error: OpenMaaSError) -> list[str]:
    """What a replica that did not come up, or a job that failed, said last."""
    from openmaas.client.deployments import DeployFailed
    from openmaas.client.jobs import JobFailed

    return error.cause.stderr if isinstance(error, DeployFailed | JobFailed) else []


def show_bug(error: Exception) -> None:
    """An error that nobody expected: a line, and how to see the rest."""
    if os.environ.get(DEBUG):
        raise error
    _line(_("error"), "bad", _("Unexpected {kind}: {error}").format(kind=type(error).__name__, error=error))
    _line(_("next"), "name", _("Run it again with {variable}=1 for the traceback, and report it.").format(variable=DEBUG))


def show_usage(message: str, command: str) -> None:
    """A command that was written wrongly."""
    _line(_("error"), "bad", message)
    _line(_("next"), "name", _("See `{command} --help`.").format(command=command))


def _line(label: str, style: str, message: str) -> None:
    write(Styled((f"{label:>5}  ", style), message), sys.stderr)

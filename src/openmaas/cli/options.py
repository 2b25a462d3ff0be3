"""Options and arguments that several commands share, and the client that they speak through."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from openmaas.cli.i18n import _

if TYPE_CHECKING:
    from openmaas.client import Client

Json = Annotated[bool, typer.Option("--json", help=_("Print JSON, for programs."))]
Yes = Annotated[bool, typer.Option("--yes", "-y", help=_("Do not ask."))]
ReferenceArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help=_("A version: digits (its newest), digits:3 or digits@champion."))
]
DeploymentArgument = Annotated[str, typer.Argument(metavar="DEPLOYMENT", help=_("A deployment's name."))]
Limit = Annotated[int | None, typer.Option("--limit", "-n", min=1, max=500, help=_("Rows to show; 50 without."))]
Force = Annotated[bool, typer.Option("--force", help=_("Although a gate refuses; who did it, and why, is kept."))]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help=_("Why it is forced."))]
All = Annotated[bool, typer.Option("--all", "-a", help=_("Show all rows."))]


def connect() -> Client:
    """The client for the server that the environment names."""
    from openmaas.client import Client

    return Client()


def confirm(question: str, yes: bool) -> bool:
    """Whether to go on. Without a terminal to ask at, only --yes is a yes."""
    import sys

    if yes:
        return True
    if not sys.stdin.isatty():
        raise typer.BadParameter(_("There is no terminal to ask at; say --yes."))
    return typer.confirm(question)

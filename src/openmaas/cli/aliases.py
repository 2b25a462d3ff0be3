"""Aliases: names that move between versions."""

from __future__ import annotations

from typing import Annotated

import typer

from openmaas.cli.i18n import _
from openmaas.cli.options import Json, ReferenceArgument, connect
from openmaas.core.errors import InvalidInput


def alias(
    reference: ReferenceArgument,
    name: Annotated[str | None, typer.Argument(metavar="ALIAS", help=_("The alias to set, such as champion."))] = None,
    remove: Annotated[
        bool, typer.Option("--remove", help=_("Remove the alias: openmaas alias digits@champion --remove"))
    ] = False,
    as_json: Json = False,
) -> None:
    """Let an alias mean a version: openmaas alias digits:3 champion. Without an alias, list those that there are."""
    from openmaas.cli.console import done, print_json
    from openmaas.core.names import parse_reference

    client, target = connect(), parse_reference(reference)
    if remove:
        move = client.remove_alias(target.model, name or target.alias or _missing(reference))
    elif name is not None:
        move = client.alias(reference, name)
    else:
        _list(client.model(target.model).aliases, target.model, as_json)
        return
    if as_json:
        print_json(move)
    elif move.number is None:
        done(_("{model}@{alias} is removed.").format(model=move.model, alias=move.alias))
    else:
        before = "" if move.previous is None else _(" (before: {n})").format(n=move.previous)
        done(f"{move.model}@{move.alias} → {move.model}:{move.number}{before}")


def _missing(reference: str) -> str:
    raise InvalidInput(
        _("{reference!r} names no alias.").format(reference=reference), next_step=_("Write digits@champion --remove.")
    )


def _list(aliases: dict[str, int], model: str, as_json: bool) -> None:
    from openmaas.cli import console

    if as_json:
        console.print_json(aliases)
        return
    if not aliases:
        console.nothing(_("{model} has no aliases. Set one: openmaas alias {model}:1 champion").format(model=model))
        return
    made = console.Table(_("ALIAS"), _("VERSION"))
    for alias, number in sorted(aliases.items()):
        made.add_row(console.name(f"{model}@{alias}"), f"{model}:{number}")
    console.write_table(made)

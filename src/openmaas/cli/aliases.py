"""Aliases: names that move between versions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from openmaas.cli.i18n import _
from openmaas.cli.options import Force, Json, Reason, ReferenceArgument, connect
from openmaas.core.errors import InvalidInput, Refused

if TYPE_CHECKING:
    from openmaas.client import Client


def alias(
    reference: ReferenceArgument,
    name: Annotated[str | None, typer.Argument(metavar="ALIAS", help=_("The alias to set, such as champion."))] = None,
    number: Annotated[
        int | None, typer.Argument(metavar="NUMBER", min=1, help=_("The version's number, where MODEL names none."))
    ] = None,
    force: Force = False,
    reason: Reason = "",
    remove: Annotated[
        bool, typer.Option("--remove", help=_("Remove the alias: openmaas alias digits@champion --remove"))
    ] = False,
    as_json: Json = False,
) -> None:
    """Let an alias mean a version: openmaas alias digits:3 champion, or digits champion 3. Without an alias, list them.

    Where the alias has a gate, it moves only when the version's newest evaluation holds it (openmaas gate --help).
    """
    from openmaas.cli.console import done, print_json
    from openmaas.core.names import parse_reference

    client, target = connect(), parse_reference(reference)
    if number is not None:
        if reference != target.model:
            raise typer.BadParameter(_("{reference} names a version already; leave out {number}.").format(
                reference=reference, number=number
            ))  # fmt: skip
        reference = f"{target.model}:{number}"
    if remove:
        move = client.remove_alias(target.model, name or target.alias or _missing(reference))
    elif name is not None:
        with _evidence(client, reference, name, quiet=as_json):
            move = client.alias(reference, name, force=force, reason=reason)
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


@contextmanager
def _evidence(client: Client, reference: str, alias: str, quiet: bool) -> Iterator[None]:
    """Of a refusal by the gate, each rule with what was measured."""
    try:
        yield
    except Refused as error:
        if error.code == "gate_refused" and not quiet:
            from openmaas.cli.gates import print_verdict

            print_verdict(client.check_gate(reference, alias), full=False)
        raise


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

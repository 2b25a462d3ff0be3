"""What moved, when, and by whom: aliases and deployments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from openmaas.cli.i18n import _
from openmaas.cli.options import All, Json, Limit, connect
from openmaas.core.errors import NotFound

if TYPE_CHECKING:
    from openmaas.client import Pages
    from openmaas.core.resources import AliasMove, DeploymentMove

T = TypeVar("T")


def history(
    name: Annotated[str, typer.Argument(help=_("A model or a deployment."))],
    limit: Limit = None,
    everything: All = False,
    as_json: Json = False,
) -> None:
    """Show every move of a model's aliases and of a deployment, newest first."""
    from openmaas.cli.console import nothing, print_json, write

    client = connect()
    everything = everything or (as_json and limit is None)
    aliases = _rows_or_none(client.history(name), limit, everything)
    deployments = _rows_or_none(client.deployment_history(name), limit, everything)
    if aliases is None and deployments is None:
        raise NotFound(
            _("There is no model and no deployment {name!r}.").format(name=name),
            next_step=_("List them: openmaas ls, openmaas ps"),
        )
    if as_json:
        print_json({"aliases": aliases or [], "deployments": deployments or []})
        return
    if not aliases and not deployments:
        nothing(_("Nothing moved yet."))
    if deployments:
        _print_deployments(deployments)
    if deployments and aliases:
        write()
    if aliases:
        _print_aliases(aliases)


def _rows_or_none(pages: Pages[T], limit: int | None, everything: bool) -> list[T] | None:
    """The rows; None where the name is not known."""
    from openmaas.cli.listings import first_rows, remark

    try:
        found = first_rows(pages, limit, everything)
    except NotFound:
        return None
    remark(found)
    return found.items


def _print_deployments(moves: list[DeploymentMove]) -> None:
    from openmaas.cli.console import Table, name, state, write_table
    from openmaas.cli.units import ago

    made = Table(
        _("DEPLOYMENT"), _("REVISION"), _("ACTION"), _("VERSION"), _("STATE"), _("BY"), _("WHEN"), right=(_("REVISION"),)
    )
    for move in moves:
        version = f"{move.model}:{move.version}"
        made.add_row(
            name(move.deployment), str(move.revision), move.action, version, state(move.state), move.actor, ago(move.at)
        )
    write_table(made)


def _print_aliases(moves: list[AliasMove]) -> None:
    from openmaas.cli.console import Table, name, write_table
    from openmaas.cli.units import ago

    made = Table(_("ALIAS"), _("ACTION"), _("FROM"), _("TO"), _("BY"), _("WHEN"), right=(_("FROM"), _("TO")))
    for move in moves:
        made.add_row(
            name(f"{move.model}@{move.alias}"),
            move.action,
            _number(move.previous),
            _number(move.number),
            move.actor,
            ago(move.at),
        )
    write_table(made)


def _number(number: int | None) -> str:
    return "–" if number is None else str(number)

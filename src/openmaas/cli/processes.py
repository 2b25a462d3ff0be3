"""Deployments and the replicas behind them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from openmaas.cli.i18n import _
from openmaas.cli.options import Json, connect

if TYPE_CHECKING:
    from openmaas.cli.styled import Line, Styled
    from openmaas.client import Client
    from openmaas.core.resources import DeploymentInfo, ReplicaInfo


def ps(
    deployment: Annotated[str | None, typer.Argument(help=_("Only this deployment."))] = None,
    as_json: Json = False,
) -> None:
    """Show deployments and their replicas, of one also why it has its engine. With --json the replicas."""
    from openmaas.cli.console import Styled, nothing, print_json, write

    client = connect()
    replicas = [replica for replica in client.replicas() if deployment in (None, replica.deployment)]
    if as_json:
        print_json(replicas)
        return
    deployments = [client.deployment(deployment)] if deployment else list(client.deployments())
    if not deployments:
        nothing(_("Nothing is deployed. Deploy a model: openmaas deploy NAME"))
        return
    _print(client, deployments, replicas)
    if deployment and (engine := deployments[0].engine) is not None:
        write(Styled((_("engine  {name} ({why})").format(name=engine.name, why=engine.why), "faint")))


def _print(client: Client, deployments: list[DeploymentInfo], replicas: list[ReplicaInfo]) -> None:
    from openmaas.cli.console import Table, name, state, write, write_table

    made = Table(
        _("DEPLOYMENT"), _("VERSION"), _("STATE"), _("PID"), _("RESTARTS"), _("MEMORY"), _("SINCE"), _("ENGINE"),
        right=(_("PID"), _("RESTARTS"), _("MEMORY")),
    )  # fmt: skip
    for deployment in deployments:
        version = f"{deployment.model}:{deployment.version}"
        engine = "–" if deployment.engine is None else deployment.engine.name
        made.add_row(
            name(deployment.name), version, state(deployment.state, _ready(client, deployment)), "", "", "", "", engine
        )
        own = [replica for replica in replicas if replica.deployment == deployment.name]
        for index, replica in enumerate(own):
            made.add_row(*_row(replica, deployment, last=index == len(own) - 1))
    write_table(made)
    for line in _causes(deployments):
        write(line)


def _ready(client: Client, deployment: DeploymentInfo) -> str:
    serving = deployment.serving not in (None, deployment.version)
    if deployment.measuring is not None:
        from openmaas.cli.jobs import waits_for

        return waits_for(client, deployment.measuring)
    count = f"{deployment.ready}/{deployment.replicas}"
    return _("{count}, version {n} serves").format(count=count, n=deployment.serving) if serving else count


def _row(replica: ReplicaInfo, deployment: DeploymentInfo, last: bool) -> list[Line]:
    from openmaas.cli.console import Styled, state
    from openmaas.cli.units import size, span

    return [
        Styled((f"{'└' if last else '├'} {replica.id}", "faint")),
        f"{deployment.model}:{replica.version}",
        state(replica.state),
        "–" if replica.pid is None else str(replica.pid),
        str(replica.restarts),
        size(replica.memory) if replica.memory else "–",
        span(max(0.0, time.time() - replica.since)) if replica.since else "–",
    ]


def _causes(deployments: list[DeploymentInfo]) -> list[Styled]:
    """Why a deployment does not run, and what to do."""
    from openmaas.cli.styled import Styled

    lines = []
    for deployment in deployments:
        if cause := deployment.cause:
            lines.append(Styled((f"\n{deployment.name}: {cause.message}", "bad")))
            lines += [Styled((f"  │ {line}", "faint")) for line in cause.stderr[-5:]]
            if cause.next_step:
                lines.append(Styled((_("next") + f"  {cause.next_step}", "faint")))
    return lines

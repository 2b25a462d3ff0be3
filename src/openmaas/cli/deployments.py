"""Deployments: start, go back, stop."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openmaas.cli.i18n import _, plural
from openmaas.cli.options import DeploymentArgument, Force, Json, Reason, ReferenceArgument, connect
from openmaas.cli.units import parse_size

if TYPE_CHECKING:
    from openmaas.client import Client
    from openmaas.core.resources import DeploymentInfo

Wait = Annotated[float, typer.Option("--wait", min=0, help=_("Seconds to wait until it is ready; 0 returns at once."))]


def deploy(
    reference: ReferenceArgument,
    name: Annotated[str | None, typer.Option("--as", metavar="NAME", help=_("Public name; the model's without."))] = None,
    replicas: Annotated[int, typer.Option("--replicas", "-r", min=1, help=_("Processes that serve it."))] = 1,
    memory: Annotated[
        int | None, typer.Option("--memory", metavar="SIZE", parser=parse_size, help=_("Limit for each replica, such as 2GiB."))
    ] = None,
    threads: Annotated[int, typer.Option("--threads", min=0, help=_("Threads of each engine; 0 shares the cores."))] = 0,
    max_batch: Annotated[
        int | None,
        typer.Option("--max-batch", min=1, help=_("Rows that run together at most; 32, or 16 answers of a text generator.")),
    ] = None,
    max_queue: Annotated[
        int | None,
        typer.Option("--max-queue", min=1, help=_("Requests that may wait in each replica; 1024, or 128 of a text generator.")),
    ] = None,
    max_wait: Annotated[float, typer.Option("--max-wait", min=0, help=_("Seconds to wait for batch-mates."))] = 0.0,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", min=0, help=_("Tokens that run together at most, with padding; 0 is a default."))
    ] = 0,
    engine: Annotated[
        str,
        typer.Option("--engine", metavar="NAME", help=_("auto follows a measurement; openvino:bf16 and the like force one.")),
    ] = "auto",
    weights: Annotated[
        str,
        typer.Option(
            "--weights", metavar="KIND", help=_("Of a text generator: auto, source (as it was pushed), bf16, int8 or int4.")
        ),
    ] = "auto",
    timeout: Annotated[
        float | None, typer.Option("--timeout", help=_("Seconds that a request may take; 60, or 600 of a text generator."))
    ] = None,
    force: Force = False,
    reason: Reason = "",
    wait: Wait = 600.0,
    as_json: Json = False,
) -> None:
    """Serve a version under a public name; another version of the same name takes over without a lost request."""
    client = connect()
    with _spinner(client, quiet=as_json or not wait) as watch:
        info = client.deploy(
            reference,
            name=name,
            replicas=replicas,
            memory=memory,
            threads=threads,
            max_batch=max_batch,
            max_queue=max_queue,
            max_wait=max_wait,
            max_tokens=max_tokens,
            engine=engine,
            weights=weights,
            force=force,
            reason=reason,
            request_timeout=timeout,
            wait=wait > 0,
            timeout=wait,
            watch=watch,
        )
    _report(client, info, as_json, snippets=True)


def rollback(
    target: Annotated[str, typer.Argument(help=_("A deployment (digits), or a model's alias (digits@champion)."))],
    wait: Wait = 600.0,
    as_json: Json = False,
) -> None:
    """Go back to what was before: a deployment to its last version, or an alias. It is one more move in the history."""
    from openmaas.core.names import parse_reference

    client = connect()
    if "@" in target:
        reference = parse_reference(target)
        _report_alias(client.rollback_alias(reference.model, reference.alias or ""), as_json)
        return
    with _spinner(client, quiet=as_json or not wait) as watch:
        info = client.rollback(target, wait=wait > 0, timeout=wait, watch=watch)
    _report(client, info, as_json, snippets=False)


def undeploy(deployment: DeploymentArgument, as_json: Json = False) -> None:
    """Stop a deployment; requests in flight end first."""
    from openmaas.cli.console import done, print_json

    info = connect().undeploy(deployment)
    if as_json:
        print_json(info)
    else:
        done(_("{name} stops.").format(name=info.name))


def _report_alias(move: Any, as_json: bool) -> None:
    from openmaas.cli.console import done, print_json

    if as_json:
        print_json(move)
    elif move.number is None:
        done(_("{model}@{alias} is removed, as it was before.").format(model=move.model, alias=move.alias))
    else:
        done(f"{move.model}@{move.alias} → {move.model}:{move.number}")


def _report(client: Client, info: DeploymentInfo, as_json: bool, snippets: bool) -> None:
    from openmaas.cli.console import done, hint, print_json, write

    if as_json:
        print_json(info)
        return
    version = f"{info.model}:{info.version}"
    if info.state != "ready":
        done(_("{name} → {version}: {state}.").format(name=info.name, version=version, state=info.state))
        if info.measuring is not None:
            from openmaas.cli.jobs import waits_for

            write(_("It waits: {reason}.").format(reason=waits_for(client, info.measuring)))
        hint("openmaas ps")
        return
    count = plural("{n} replica", "{n} replicas", info.replicas).format(n=info.replicas)
    done(_("{name} serves {version} with {count}.").format(name=info.name, version=version, count=count))
    if info.engine is not None:
        write(_("engine  {name} ({why})").format(name=info.engine.name, why=info.engine.why))
    if snippets:
        from openmaas.cli.snippets import print_snippets

        print_snippets(client, info.name, version)


@contextmanager
def _spinner(client: Client, quiet: bool) -> Iterator[Any]:
    """A line that follows a deployment, on standard error, at a terminal only."""
    from openmaas.cli.console import live_console
    from openmaas.cli.jobs import stage_of

    console = None if quiet else live_console()
    if console is None:
        yield None
        return
    start = time.monotonic()
    with console.status(_("Deploying")) as line:

        def watch(info: DeploymentInfo) -> None:
            states = _states(client, info) or info.state
            if info.measuring is not None:
                states = f"{info.measuring}: {stage_of(client.job(info.measuring))}"
            elapsed = time.monotonic() - start
            line.update(f"{info.name} → {info.model}:{info.version}  {states}  {elapsed:.0f} s")

        yield watch


def _states(client: Client, info: DeploymentInfo) -> str:
    """How many replicas of the new version are in which state."""
    counts: dict[str, int] = {}
    for replica in client.replicas():
        if replica.deployment == info.name and replica.version == info.version:
            counts[replica.state] = counts.get(replica.state, 0) + 1
    return ", ".join(f"{number} {state}" for state, number in sorted(counts.items()))

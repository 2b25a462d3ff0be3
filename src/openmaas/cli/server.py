"""The server itself: start, stop, ask how it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from openmaas.cli.i18n import _
from openmaas.cli.options import Json, connect

if TYPE_CHECKING:
    from openmaas.cli.styled import Line
    from openmaas.core.resources import Finding, ServerStatus
    from openmaas.core.settings import Settings

Home = Annotated[str | None, typer.Option("--home", help=_("Data folder (OPENMAAS_HOME)."))]


def up(
    detach: Annotated[bool, typer.Option("--detach", "-d", help=_("Return when everything is ready."))] = False,
    home: Home = None,
    host: Annotated[str | None, typer.Option("--host", help=_("Address to bind to (OPENMAAS_HOST)."))] = None,
    http_port: Annotated[int | None, typer.Option("--http-port", help=_("Port for predictions (OPENMAAS_HTTP_PORT)."))] = None,
    control_port: Annotated[
        int | None, typer.Option("--control-port", help=_("Port for everything else (OPENMAAS_CONTROL_PORT)."))
    ] = None,
    gateways: Annotated[int | None, typer.Option("--gateways", help=_("Gateway processes (OPENMAAS_GATEWAYS)."))] = None,
    tls_cert: Annotated[str | None, typer.Option("--tls-cert", help=_("PEM certificate (OPENMAAS_TLS_CERT)."))] = None,
    tls_key: Annotated[str | None, typer.Option("--tls-key", help=_("PEM private key (OPENMAAS_TLS_KEY)."))] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help=_("Allow plain HTTP on an address that others can reach."))
    ] = False,
) -> None:
    """Start a server here. Ctrl-C drains and stops it.

    Every other setting is an environment variable: see docs/settings.md.
    """
    from openmaas import bootstrap
    from openmaas.core.settings import load_settings

    settings = load_settings(
        home=home, host=host, http_port=http_port, control_port=control_port, gateways=gateways, tls_cert=tls_cert,
        tls_key=tls_key, insecure=insecure or None,
    )  # fmt: skip
    known = _read_key(settings)
    if detach:
        bootstrap.start_detached(settings)
        _announce(settings, known)
    else:
        bootstrap.run_server(settings, lambda _running: _announce(settings, known))


def _key_path(settings: Settings) -> Path:
    return settings.home_path / "admin.key"


def _read_key(settings: Settings) -> str:
    try:
        return _key_path(settings).read_text().strip()
    except OSError:
        return ""


def _announce(settings: Settings, known: str) -> None:
    """Say where the server is. The admin key is shown when it was made just now, and never again."""
    import openmaas
    from openmaas.cli.console import done, hint, name, write_fields

    done(_("OpenMaaS {version} is ready.").format(version=openmaas.__version__))
    rows: list[tuple[str, Line]] = [
        (_("gateway"), name(settings.url(settings.http_port))),
        (_("control"), name(settings.url(settings.control_port))),
        (_("home"), str(settings.home_path)),
    ]
    key = _read_key(settings)
    if key != known:
        rows.append((_("admin key"), key))
        rows.append(("", _("kept in {path}; it is not shown again").format(path=_key_path(settings))))
    write_fields(rows)
    hint("openmaas push PATH --name NAME")


def down(home: Home = None) -> None:
    """Stop the server of OPENMAAS_HOME: requests in flight end first."""
    from openmaas import bootstrap
    from openmaas.cli.console import done, nothing
    from openmaas.core.settings import load_settings

    settings = load_settings(home=home)
    running = bootstrap.stop_server(settings)
    if running is None:
        nothing(_("No server runs for {home}.").format(home=settings.home_path))
    else:
        done(_("The server (pid {pid}) has stopped.").format(pid=running.pid))


def status(as_json: Json = False) -> None:
    """Show the server's URLs, processes, deployments and jobs that have not ended."""
    from openmaas.cli.console import print_json

    answer = connect().status()
    if as_json:
        print_json(answer)
    else:
        _print(answer)


def _print(answer: ServerStatus) -> None:
    from openmaas.cli.console import Table, name, state, write, write_fields, write_table
    from openmaas.cli.units import size

    deployments = ", ".join(f"{count} {state}" for state, count in sorted(answer.deployments.items())) or _("none")
    write_fields([
        (_("control"), name(answer.control_url)),
        (_("gateway"), name(answer.gateway_url)),
        (_("home"), answer.home),
        (_("database"), answer.database),
        (_("version"), answer.version),
        (_("supervised"), _("yes") if answer.supervised else _("no: replicas are not watched")),
        (_("deployments"), deployments),
        (_("jobs"), ", ".join(f"{count} {state}" for state, count in sorted(answer.jobs.items())) or _("none")),
    ])  # fmt: skip
    write()
    made = Table(_("PROCESS"), _("STATE"), _("PID"), _("RESTARTS"), _("MEMORY"), right=(_("PID"), _("RESTARTS"), _("MEMORY")))
    for process in answer.processes:
        pid = "–" if process.pid is None else str(process.pid)
        memory = size(process.memory) if process.memory else "–"
        made.add_row(name(process.name), state(process.state), pid, str(process.restarts), memory)
    write_table(made)


def doctor(as_json: Json = False) -> None:
    """Let the server check itself: data folder, database, disk, engines. Exit code 1 when something is wrong."""
    from openmaas.cli.console import print_json

    findings = connect().doctor()
    if as_json:
        print_json(findings)
    else:
        _print_findings(findings)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


def _print_findings(findings: list[Finding]) -> None:
    from openmaas.cli.console import Styled, write

    for finding in findings:
        sign = ("✓ ", "good") if finding.ok else ("✗ ", "bad")
        write(Styled(sign, (f"{finding.check}  ", "name"), finding.message))
        if finding.next_step:
            write(Styled((f"  {_('next')}  {finding.next_step}", "faint")))


def version(as_json: Json = False) -> None:
    """Show the version of this program."""
    import openmaas

    if as_json:
        from openmaas.cli.console import print_json

        print_json({"version": openmaas.__version__})
    else:
        typer.echo(f"openmaas {openmaas.__version__}")

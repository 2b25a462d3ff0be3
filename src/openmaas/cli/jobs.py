"""Jobs: what takes long, and runs on whether anybody watches or not."""

from __future__ import annotations

import inspect
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openmaas.cli.i18n import _
from openmaas.cli.options import All, Json, Limit, connect

if TYPE_CHECKING:
    from rich.console import Console

    from openmaas.cli.styled import Line
    from openmaas.client import Client
    from openmaas.core.resources import JobInfo

    Watch = Callable[[JobInfo], None]

JobArgument = Annotated[str, typer.Argument(metavar="JOB", help=_("A job's id in `openmaas jobs ls`, such as job-000042."))]
Wait = Annotated[bool, typer.Option("--wait", help=_("Follow it to its end, with a progress bar; Ctrl-C leaves it running."))]

_PAUSE = 0.5  # seconds between two looks with --follow
_MOST = 10_000  # lines that the server gives at once

jobs = typer.Typer(
    help=_("Look at jobs (conversions, measurements and whatever takes long), cancel them, run them again."),
    no_args_is_help=True,
)


def _command(function: Callable[..., None]) -> Callable[..., None]:
    """One of the group's, with its description from the catalogue."""
    return jobs.command(help=_(inspect.cleandoc(function.__doc__ or "")))(function)


@_command
def ls(
    state: Annotated[str | None, typer.Option("--state", help=_("Only those in this state, such as running."))] = None,
    limit: Limit = None,
    everything: All = False,
    as_json: Json = False,
) -> None:
    """List jobs, newest first."""
    from openmaas.cli.console import Table, name, nothing, print_json, write_table
    from openmaas.cli.console import state as shown_state
    from openmaas.cli.listings import first_rows, remark
    from openmaas.cli.units import ago

    found = first_rows(connect().jobs(state=state), limit, everything or (as_json and limit is None))
    if as_json:
        print_json(found)
        return
    if not found.items:
        nothing(_("There are no jobs."))
        return
    made = Table(_("JOB"), _("KIND"), _("ABOUT"), _("STATE"), _("STAGE"), _("TIME"), _("SUBMITTED"), right=(_("TIME"),))
    for job in found.items:
        stage = "" if job.ended else _stage(job)
        made.add_row(name(job.id), job.kind, job.subject or "–", shown_state(job.state), stage, _time(job), ago(job.created_at))
    write_table(made)
    remark(found)


@_command
def show(job: JobArgument, wait: Wait = False, as_json: Json = False) -> None:
    """Show a job: its state, how far it is, its result or why it failed."""
    from openmaas.cli.console import print_json

    client = connect()
    info = client.job(job)
    if wait and not info.ended:
        info = follow_job(client, job, quiet=as_json)
    if as_json:
        print_json(info)
    else:
        print_job(info)


@_command
def logs(
    job: JobArgument,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, max=_MOST, help=_("How many of the last lines."))] = 200,
    follow: Annotated[bool, typer.Option("--follow", "-f", help=_("Go on with new lines until the job has ended."))] = False,
    as_json: Json = False,
) -> None:
    """Show what a job wrote."""
    from openmaas.cli.console import print_json, write

    client = connect()
    answer = client.job_logs(job, lines=lines)
    if as_json:
        print_json(answer)
        return
    for line in answer.lines:
        write(line)
    ended = not follow
    while not ended:
        ended = client.job(job).ended  # before its last lines are read
        answer = client.job_logs(job, lines=_MOST, offset=answer.offset)
        for line in answer.lines:
            write(line)
        if not ended:
            time.sleep(_PAUSE)


@_command
def cancel(job: JobArgument, as_json: Json = False) -> None:
    """Cancel a job: at once while it waits, as soon as its process has ended when it runs."""
    from openmaas.cli.console import done, print_json

    info = connect().cancel_job(job)
    if as_json:
        print_json(info)
    elif info.ended:
        done(_("{job} is cancelled.").format(job=info.id))
    else:
        done(_("{job} is being cancelled.").format(job=info.id))


@_command
def retry(job: JobArgument, wait: Wait = False, as_json: Json = False) -> None:
    """Run a job that failed or was cancelled again."""
    from openmaas.cli.console import done, print_json

    client = connect()
    info = client.retry_job(job)
    if wait:
        info = follow_job(client, job, quiet=as_json)
    if as_json:
        print_json(info)
    elif wait:
        print_job(info)
    else:
        done(_("{job} runs again, attempt {n}.").format(job=info.id, n=info.attempt))


# ── what other commands use ──────────────────────────────────────────────────────────────────────────────────────────


def follow_job(client: Client, job: str, quiet: bool = False) -> JobInfo:
    """Show how a job goes until it has succeeded; what it is then. A bar at a terminal, elsewhere a line for each stage.

    Raises as client.wait_job does. Ctrl-C leaves the job running, and says how to come back.
    """
    from openmaas.cli.console import hint, live_console

    console = live_console()
    watching = _silent() if quiet else _lines() if console is None else _bar(console)
    try:
        with watching as watch:
            return client.wait_job(job, progress=watch)
    except KeyboardInterrupt:
        _note(_("{job} goes on without you.").format(job=job))
        hint(f"openmaas jobs show {job} --wait", sys.stderr)
        hint(f"openmaas jobs cancel {job}", sys.stderr)
        raise


def waits_for(client: Client, job: str) -> str:
    """What a deployment waits for, and how far that is."""
    info = client.job(job)
    what = _("engines are being measured by {job}") if info.kind == "measure" else _("weights are being converted by {job}")
    return f"{what.format(job=job)} ({stage_of(info)})"


def stage_of(info: JobInfo) -> str:
    """What a job does and how far it is, or its state."""
    return (info.state == "running" and _stage(info)) or info.state


def print_job(info: JobInfo) -> None:
    """A job, whole."""
    from openmaas.cli.console import name, state, write, write_fields
    from openmaas.cli.units import clock

    rows: list[tuple[str, Line]] = [
        (_("job"), name(info.id)),
        (_("kind"), info.kind),
        (_("about"), info.subject or "–"),
        (_("state"), state(info.state)),
        (_("stage"), _stage(info) or "–"),
        (_("attempt"), str(info.attempt)),
        (_("submitted"), _("{time} by {who}").format(time=clock(info.created_at), who=info.actor)),
        (_("time"), _time(info)),
    ]
    write_fields([*rows, (_("process"), str(info.pid))] if info.pid is not None else rows)
    if info.result:
        write()
        _write_result(info)
    if info.cause is not None:
        _write_cause(info)


def _write_result(info: JobInfo) -> None:
    """As the command shows it that submits such a job; others as JSON."""
    import msgspec

    from openmaas.cli.console import write

    result = info.result or {}
    try:
        told = _told_as_its_command_does(info, result)
    except (msgspec.ValidationError, KeyError):  # of another release
        told = False
    if not told:
        write(msgspec.json.format(msgspec.json.encode(result), indent=2).decode())


def _told_as_its_command_does(info: JobInfo, result: dict[str, Any]) -> bool:
    import msgspec

    if info.kind == "evaluate" and "evaluation" in result:
        from openmaas.cli.evaluations import print_evaluation
        from openmaas.core.evaluations import Evaluation

        print_evaluation(msgspec.convert(result["evaluation"], Evaluation))
    elif info.kind == "compare" and "comparison" in result:
        from openmaas.cli.comparisons import print_comparison
        from openmaas.core.evaluations import VersionComparison

        print_comparison(msgspec.convert(result["comparison"], VersionComparison, strict=False))
    elif info.kind == "optimize" and "versions" in result:
        from openmaas.cli.optimizations import print_result

        print_result(result, info.subject)
    else:
        return False
    return True


def _write_cause(info: JobInfo) -> None:
    from openmaas.cli.console import Styled, hint, write

    assert info.cause is not None
    write()
    write(Styled((info.cause.message, "bad")))
    for line in info.cause.stderr[-10:]:
        write(Styled((f"  │ {line}", "faint")))
    hint(info.cause.next_step or f"openmaas jobs logs {info.id}")


def _stage(job: JobInfo) -> str:
    share = f" {min(1.0, job.done / job.total):.0%}" if job.total > 0 else ""
    return f"{job.stage}{share}"


def _time(job: JobInfo) -> str:
    """How long it has run."""
    from openmaas.cli.units import span

    if job.started_at is None:
        return "–"
    return span(max(0.0, (job.ended_at or time.time()) - job.started_at))


# ── how it is shown ──────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def _silent() -> Iterator[Watch | None]:
    yield None


@contextmanager
def _lines() -> Iterator[Watch]:
    """A line on standard error whenever the state or the stage changes."""
    last = ""

    def watch(job: JobInfo) -> None:
        nonlocal last
        told = f"{job.id}  {job.state}" + (f"  {job.stage}" if job.stage and not job.ended else "")
        if told != last:
            last = told
            _note(told)

    yield watch


@contextmanager
def _bar(console: Console) -> Iterator[Watch]:
    from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        line = bar.add_task("", total=None)

        def watch(job: JobInfo) -> None:
            stage = job.stage if job.state == "running" and job.stage else job.state
            description = "  ".join(filter(None, (job.id, job.kind, job.subject, stage)))
            bar.update(line, description=description, completed=job.done, total=job.total or None)

        yield watch


def _note(text: str) -> None:
    from openmaas.cli.console import Styled, write

    write(Styled((text, "faint")), sys.stderr)

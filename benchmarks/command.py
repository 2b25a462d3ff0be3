"""The command line of the benchmarks."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Annotated

import typer
from rich.console import Console

from benchmarks import pushing, startup
from benchmarks.cases.case import CASES
from benchmarks.compression import plot as compression_plot
from benchmarks.compression import rounds as compression_rounds
from benchmarks.compression import table as compression_table
from benchmarks.compression.report import Report as CompressionReport
from benchmarks.compression.subject import SUBJECTS
from benchmarks.generation import plot as generation_plot
from benchmarks.generation import rounds as generation_rounds
from benchmarks.generation import table as generation_table
from benchmarks.generation.peers.servers import PEERS as GENERATORS
from benchmarks.generation.report import Report as GenerationReport
from benchmarks.page import write_section
from benchmarks.serving import plot, rounds, table
from benchmarks.serving.peers.registry import PEERS
from benchmarks.serving.report import Report

app = typer.Typer(help="Measure OpenMaaS beside its peers. Without a command: everything, with defaults.")
# A log file has room for the whole table; a terminal says itself how wide it is.
console = Console(width=None if sys.stdout.isatty() else 180)

Peers = Annotated[str, typer.Option(help="Servers by name, with commas between.")]
Models = Annotated[str, typer.Option(help="Models by name, with commas between.")]
Rounds = Annotated[int, typer.Option(min=1, help="Visits to each server.")]
Page = Annotated[bool, typer.Option(help="Write the table into docs/benchmarks.md.")]

ALL_PEERS, ALL_MODELS = ",".join(PEERS), ",".join(CASES)


@app.callback(invoke_without_command=True)
def everything(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        serving()
        generation()
        compression()
        distillation()
        startup_times()
        pushes()


@app.command()
def models(models: Models = ALL_MODELS) -> None:
    """Export the models once; a few minutes, most of them for installing torch."""
    for name in _chosen(models, CASES):
        console.print(f"model [bold]{name}[/bold]")
        CASES[name].export()


@app.command()
def prepare(peers: Peers = ALL_PEERS) -> None:
    """Install each server into an environment of its own; minutes the first time."""
    for name in _chosen(peers, PEERS):
        console.print(f"environment of [bold]{name}[/bold]")
        PEERS[name].prepare()


@app.command()
def serving(
    models: Models = ALL_MODELS,
    peers: Peers = ALL_PEERS,
    connections: Annotated[str, typer.Option(help="Loads, with commas between.")] = "1,16,64",
    seconds: Annotated[int, typer.Option(help="Length of a measurement; 0: as the model needs.")] = 0,
    rounds_: Annotated[int, typer.Option("--rounds", min=1, help="Visits to each server.")] = 3,
    page: Page = True,
) -> None:
    """Requests a second, latency, memory and cold start of every server."""
    levels = [int(level) for level in connections.split(",")]
    chosen = [PEERS[name] for name in _chosen(peers, PEERS)]
    _models(models)
    cases = [CASES[name] for name in _chosen(models, CASES)]
    prepare(",".join(peer.name for peer in chosen if any(peer.serves(case) for case in cases)))
    for name in _chosen(models, CASES):
        case = CASES[name]
        report = rounds.run(
            case,
            [peer for peer in chosen if peer.serves(case)],
            connections=levels,
            seconds=seconds or case.seconds,
            rounds=rounds_,
            console=console,
        )
        _show(report, page=page)


@app.command()
def show(models: Models = ALL_MODELS, page: Page = True) -> None:
    """Draw the tables and plots of the last run again."""
    for name in _chosen(models, CASES):
        _show(Report.load(name), page=page)


@app.command("startup")
def startup_times(rounds: Rounds = 5, page: Page = True) -> None:
    """Start, import and idle memory of OpenMaaS, and its listing of many models."""
    report = startup.run_all(rounds, console)
    console.print(startup.terminal(report))
    if page:
        write_section("startup", "Start and size", startup.markdown(report))


@app.command("push")
def pushes(rounds: Rounds = 3, page: Page = True) -> None:
    """Push a file of 1 GiB, beside a plain copy of it."""
    report = pushing.run_all(rounds, console)
    console.print(pushing.terminal(report))
    if page:
        write_section("push", "Push of a large model", pushing.markdown(report))


@app.command()
def generation(
    peers: Annotated[str, typer.Option(help="Servers by name, with commas between.")] = ",".join(GENERATORS),
    streams: Annotated[str, typer.Option(help="Streams side by side, with commas between.")] = "1,8,16",
    rounds_: Annotated[int, typer.Option("--rounds", min=1, help="Visits to each server.")] = 2,
    page: Page = True,
    add: Annotated[bool, typer.Option(help="Add the visits to the last run.")] = False,
    show: Annotated[bool, typer.Option(help="Only draw the last run again.")] = False,
) -> None:
    """Tokens a second of servers that generate text, beside the engine alone."""
    if show:
        report = GenerationReport.load()
    else:
        chosen = [GENERATORS[name] for name in _chosen(peers, GENERATORS)]
        for peer in chosen:
            peer.prepare()
        levels = [int(level) for level in streams.split(",")]
        former = GenerationReport.load() if add else None
        report = generation_rounds.run(chosen, levels, rounds_, console, former)
    console.print(generation_table.terminal(report))
    generation_plot.draw(report)
    if page:
        picture = "![Decoded tokens a second](../benchmarks/results/generation.png)"
        write_section("generation", "Text generation", f"{picture}\n\n{generation_table.markdown(report)}")


@app.command()
def compression(
    subjects: Annotated[str, typer.Option(help="Models by name, with commas between.")] = ",".join(SUBJECTS),
    seconds: Annotated[float, typer.Option(help="That each search may take.")] = 300.0,
    page: Page = True,
    show: Annotated[bool, typer.Option(help="Only draw the last run again.")] = False,
) -> None:
    """Recipes by hand and the search beside them; models that are left out keep the figures of their last run."""
    report = CompressionReport.load()
    if not show:
        report = compression_rounds.run([SUBJECTS[name] for name in _chosen(subjects, SUBJECTS)], seconds, console, report)
    _show_compression(report, page=page)


@app.command()
def distillation(
    seeds: Annotated[int, typer.Option(min=2, max=10, help="Students of each kind.")] = 5, page: Page = True
) -> None:
    """The same student with and without a teacher, over several seeds."""
    _show_compression(compression_rounds.teach(seeds, console, CompressionReport.load()), page=page)


def _show_compression(report: CompressionReport, *, page: bool) -> None:
    console.print(compression_table.terminal(report))
    compression_plot.draw(report)
    if page:
        write_section("compression", "Compression", compression_table.markdown(report))


_models = models


def _show(report: Report, *, page: bool) -> None:
    console.print(table.terminal(report))
    plot.draw(report)
    console.print(f"plot: {os.path.relpath(report.plot)}")
    if page:
        picture = f"![{report.title}: {report.unit} and latency](../benchmarks/results/{report.plot.name})"
        write_section(f"serving {report.case}", f"Serving: {report.title}", f"{picture}\n\n{table.markdown(report)}")


def _chosen(names: str, known: Mapping[str, object]) -> list[str]:
    chosen = names.split(",")
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise typer.BadParameter(f"{', '.join(unknown)}: not among {', '.join(known)}")
    return chosen


if __name__ == "__main__":
    app()

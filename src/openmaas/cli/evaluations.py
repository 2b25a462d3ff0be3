"""How good a version is on a dataset."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from openmaas.cli.conversions import NoWait
from openmaas.cli.i18n import _, plural
from openmaas.cli.options import Json, ReferenceArgument, connect

if TYPE_CHECKING:
    from openmaas.cli.styled import Styled
    from openmaas.core.evaluations import Estimate, Evaluation, Figures

_MOST_DRAWN = 20  # classes of a confusion matrix
_MOST_LISTED = 30  # classes of the table; of more, those that are found worst
_LONGEST_NAME = 20
_OFTEN = 0.05  # share of a class's rows from which a confusion is marked


def evaluate(
    reference: ReferenceArgument,
    data: Annotated[
        str, typer.Option("--data", metavar="DATASET", help=_("Rows with their truth: digits-test, digits-test:2."))
    ],
    rows: Annotated[int, typer.Option("--rows", min=0, help=_("At most so many, drawn by the seed; 0 is all."))] = 0,
    engine: Annotated[
        str,
        typer.Option("--engine", metavar="NAME", help=_("That answers, such as openvino:bf16; the one that serves without.")),
    ] = "",
    seconds: Annotated[float, typer.Option("--seconds", min=1, max=86400, help=_("Of timing."))] = 8.0,
    seed: Annotated[int, typer.Option("--seed", min=0, help=_("Of the rows that are drawn, and of the intervals."))] = 0,
    no_wait: NoWait = False,
    as_json: Json = False,
) -> None:
    """Let a version answer a dataset: its metrics with 95% intervals, its confusions, and what serving it takes.

    openmaas evaluate digits --data digits-test
    """
    from openmaas.cli.console import done, hint, print_json
    from openmaas.cli.jobs import follow_job

    client = connect()
    job = client.evaluate(reference, data, rows=rows, engine=engine, seconds=seconds, seed=seed)
    if not no_wait:
        job = follow_job(client, job.id, quiet=as_json)
    if as_json:
        print_json(job if no_wait else (job.result or {}).get("evaluation"))
    elif no_wait:
        done(_("{job} is submitted.").format(job=job.id))
        hint(f"openmaas jobs show {job.id} --wait")
    else:
        import msgspec

        from openmaas.core.evaluations import Evaluation

        made = msgspec.convert((job.result or {})["evaluation"], Evaluation)
        print_evaluation(made)
        hint(_next(made))


def _next(made: Evaluation) -> str:
    model = made.version.partition(":")[0]
    return f"openmaas gate set {model} champion --data {made.dataset} --metric {made.metric} --max-loss 1%"


def print_evaluation(made: Evaluation) -> None:
    """All of it, for people."""
    from openmaas.cli.console import Styled, write

    rows = plural("{n} row", "{n} rows", made.rows).format(n=f"{made.rows:,}")
    if made.task == "generation":
        rows = plural("{n} passage", "{n} passages", made.rows).format(n=f"{made.rows:,}")
    write(Styled((made.version, "name"), _(" on "), (made.dataset, "name"), f", {rows}{_by(made.figures)}"))
    write()
    _write_metrics(made)
    _write_confusion(made)
    _write_classes(made)
    if made.figures is not None:
        _write_figures(made.figures, generates=made.task == "generation")
    for note in made.notes:
        write(Styled((note, "faint")))


def _by(figures: Figures | None) -> str:
    if figures is None:
        return ""
    threads = plural("{n} thread", "{n} threads", figures.choice.threads).format(n=figures.choice.threads)
    return _(", by {engine} with {threads}").format(engine=figures.choice.label, threads=threads)


# ── metrics ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _write_metrics(made: Evaluation) -> None:
    from openmaas.cli.console import Styled, Table, write_table

    numbers = (_("VALUE"), _("95% INTERVAL"))
    table = Table(_("METRIC"), *numbers, right=numbers)
    for metric, estimate in made.metrics.items():
        own = metric == made.metric
        table.add_row(Styled((metric, "name" if own else "")), figure(estimate.value), interval(estimate))
    write_table(table)


def figure(value: float) -> str:
    """A metric in four digits that count."""
    return f"{value:.4f}" if abs(value) < 10 else f"{value:,.1f}" if abs(value) < 10_000 else f"{value:.4g}"


def interval(estimate: Estimate) -> str:
    """From where to where, or a dash where that was not told."""
    if estimate.low is None or estimate.high is None:
        return "–"
    return f"{figure(estimate.low)} – {figure(estimate.high)}"


# ── classes ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _write_confusion(made: Evaluation) -> None:
    from openmaas.cli.console import Styled, terminal_width, write

    if made.confusion is None or not 2 <= len(made.confusion) <= _MOST_DRAWN:
        return
    lines = confusion_lines([one.name for one in made.classes], made.confusion)
    width = terminal_width(sys.stdout)
    write()
    write(Styled((_("confusion: the true class downwards, the answered one across"), "head")))
    if width is not None and len(lines[0].plain) > width:
        write(Styled((_("It is wider than this terminal; --json has it."), "faint")))
        return
    for line in lines:
        write(line)


def confusion_lines(names: list[str], table: tuple[tuple[int, ...], ...]) -> list[Styled]:
    """What is right in green, what is often taken for something else in red; nothing is a dot."""
    from openmaas.cli.console import Styled
    from openmaas.cli.styled import cells

    longest = max(map(cells, names))
    widest = max(len(str(count)) for row in table for count in row)
    named = longest <= max(widest, 6)  # else the columns have the numbers of the rows
    heads = names if named else [str(place) for place in range(len(names))]
    labels = names if named else [f"{place} {name}" for place, name in enumerate(names)]
    left = min(max(map(cells, labels)), _LONGEST_NAME + 3)
    width = max(widest, *map(cells, heads)) + 2
    lines = [Styled((" " * left + "".join(" " * (width - cells(head)) + head for head in heads), "head"))]
    for place, (label, row) in enumerate(zip(labels, table, strict=True)):
        total = max(1, sum(row))
        counts = [_cell(count, width, right=place == column, often=count / total >= _OFTEN) for column, count in enumerate(row)]
        lines.append(Styled(*Styled((label, "head")).padded(left).pieces, *counts))
    return lines


def _cell(count: int, width: int, *, right: bool, often: bool) -> tuple[str, str]:
    if not count:
        return "·".rjust(width), "faint"
    return str(count).rjust(width), "good" if right else "bad" if often else "busy"


def _write_classes(made: Evaluation) -> None:
    from openmaas.cli.console import Styled, Table, write, write_table

    if not made.classes:
        return
    shown = sorted(made.classes, key=lambda one: one.f1)[:_MOST_LISTED] if len(made.classes) > _MOST_LISTED else made.classes
    numbers = (_("ROWS"), _("PRECISION"), _("RECALL"), _("F1"))
    table = Table(_("CLASS"), *numbers, right=numbers)
    for one in shown:
        name = one.name if len(one.name) <= 2 * _LONGEST_NAME else f"{one.name[: 2 * _LONGEST_NAME - 1]}…"
        table.add_row(name, f"{one.rows:,}", f"{one.precision:.3f}", f"{one.recall:.3f}", f"{one.f1:.3f}")
    write()
    if len(shown) < len(made.classes):
        told = _("{shown} of {classes} classes, those that are found worst").format(shown=len(shown), classes=len(made.classes))
        write(Styled((told, "head")))
    write_table(table)


# ── what serving takes ───────────────────────────────────────────────────────────────────────────────────────────────


def _write_figures(figures: Figures, *, generates: bool) -> None:
    from openmaas.cli.console import Styled, write
    from openmaas.cli.units import size

    first, best = figures.speeds[0], figures.best
    unit = (
        plural("{rate} tokens/s at {batch} stream", "{rate} tokens/s at {batch} streams", best.batch)
        if generates
        else _("{rate} rows/s at batch {batch}")
    )
    rate = f"{best.rate:,.0f}" if best.rate >= 100 else f"{best.rate:.3g}"
    parts = [
        _("p50 {p50}, p99 {p99} at batch {batch}").format(p50=_time(first.p50), p99=_time(first.p99), batch=first.batch),
        unit.format(rate=rate, batch=best.batch),
        _("{size} of files").format(size=size(figures.size)),
        _("{memory} at most in memory").format(memory=size(figures.memory)),
        _("{cost} s of a processor for 1,000 rows").format(cost=f"{figures.cost:.3g}"),
    ]
    write()
    write(Styled((_("speed") + "  ", "head"), " · ".join(parts)))


def _time(seconds: float) -> str:
    """A latency, which may be of some microseconds."""
    from openmaas.cli.units import milliseconds

    return f"{seconds * 1e6:.3g} µs" if seconds < 1e-4 else milliseconds(seconds)

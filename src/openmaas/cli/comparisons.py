"""Versions measured beside each other: tables, the front in characters, and a page with plots."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from openmaas.cli.conversions import NoWait
from openmaas.cli.i18n import _
from openmaas.cli.options import Json, connect
from openmaas.cli.units import parse_share

if TYPE_CHECKING:
    from openmaas.cli.styled import Styled
    from openmaas.core.evaluations import Axis, Entrant, VersionComparison

_WIDTH = 80
_WIDE = 125
"""Columns from which recipes and ratios have room in the tables."""

_NARROW = 40
_INSTALL = "pip install 'openmaas[report]'"


class Target(StrEnum):
    latency = "latency"
    throughput = "throughput"
    size = "size"
    memory = "memory"


def compare(
    references: Annotated[
        list[str], typer.Argument(metavar="MODEL MODEL…", help=_("Versions, the baseline first: digits:1 digits:2 digits:3."))
    ],
    data: Annotated[
        str, typer.Option("--data", metavar="DATASET", help=_("Rows with their truth; without, the baseline's own sample."))
    ] = "",
    rows: Annotated[int, typer.Option("--rows", min=0, help=_("At most so many, drawn by the seed; 0 is all."))] = 0,
    metric: Annotated[str, typer.Option("--metric", metavar="NAME", help=_("accuracy, f1, rmse and so on."))] = "",
    max_loss: Annotated[
        float,
        typer.Option(
            "--max-loss",
            metavar="SHARE",
            parser=parse_share,
            help=_("Of quality that the recommended one may lose: 1%, 0.005."),
        ),
    ] = "1%",  # type: ignore[assignment]  # as it is parsed
    target: Annotated[Target, typer.Option("--target", help=_("Of which the best within it is recommended."))] = Target.latency,
    engines: Annotated[
        str,
        typer.Option(
            "--engines",
            metavar="NAMES",
            help=_("One for each version; empty is the one that serves it: onnxruntime,,"),
        ),
    ] = "",
    seconds: Annotated[float, typer.Option("--seconds", min=1, max=86400, help=_("Of timing."))] = 60.0,
    seed: Annotated[int, typer.Option("--seed", min=0, help=_("Of the rows that are drawn, and of the intervals."))] = 0,
    report: Annotated[Path, typer.Option("--report", metavar="FILE", help=_("Where the page with plots goes."))] = Path(
        "report.html"
    ),
    no_wait: NoWait = False,
    as_json: Json = False,
) -> None:
    """Measure versions beside each other: quality with paired intervals, size, memory and speed.

    openmaas compare digits:1 digits:2 digits:3 --data digits-test
    """
    from openmaas.cli.console import done, hint, print_json
    from openmaas.cli.jobs import follow_job

    if len(references) < 2:
        raise typer.BadParameter(_("Name the baseline and at least one version to compare with it."))
    if not no_wait:
        check_report(report)
    client = connect()
    job = client.compare(
        references[0], references[1:], data=data, rows=rows, metric=metric, max_loss=max_loss, target=target.value,
        engines=engines.split(",") if engines else (), seconds=seconds, seed=seed,
    )  # fmt: skip
    if no_wait:
        if as_json:
            print_json(job)
        else:
            done(_("{job} is submitted.").format(job=job.id))
            hint(f"openmaas jobs show {job.id} --wait")
        return
    job = follow_job(client, job.id, quiet=as_json)
    comparison = _comparison((job.result or {})["comparison"])
    written = can_report()
    if written:
        write_report(comparison, report, job=job.id)
    if as_json:
        print_json(job)
        return
    print_comparison(comparison)
    if written:
        done(_("{file} has the plots, the classes and the rows that changed.").format(file=report))
    if comparison.recommended and comparison.recommended != comparison.entrants[0].version:
        model, _colon, number = comparison.recommended.partition(":")
        hint(f"openmaas alias {model} champion {number}")


def _comparison(plain: object) -> VersionComparison:
    import msgspec

    from openmaas.core.evaluations import VersionComparison

    return msgspec.convert(plain, VersionComparison, strict=False)


# ── a page ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def can_report() -> bool:
    """Whether what draws plots is installed; a line says how to install it where it is not."""
    from importlib.util import find_spec

    return all(find_spec(name) is not None for name in ("matplotlib", "jinja2"))


def check_report(path: Path) -> None:
    """Before work that takes long: raises InvalidInput where no report can be written to the path."""
    import os

    from openmaas.core.errors import InvalidInput

    folder = path.parent
    reason = (
        _("{folder} is no folder").format(folder=repr(str(folder)))
        if not folder.is_dir()
        else _("it is a folder")
        if path.is_dir()
        else _("{folder} may not be written to").format(folder=repr(str(folder)))
        if not os.access(folder, os.W_OK)
        else ""
    )
    if reason:
        raise InvalidInput(
            _("The report cannot be written to {path}: {reason}.").format(path=repr(str(path)), reason=reason),
            code="not_written",
            next_step=_("Name another file: --report FILE."),
        )


def write_report(comparison: VersionComparison, path: Path, *, job: str = "") -> None:
    """The page, whole or not at all. Raises InvalidInput where it cannot be written, or what draws it is not installed."""
    import os
    import time

    from openmaas.core.errors import InvalidInput
    from openmaas.reports import render_html

    if not can_report():
        raise InvalidInput("Reports are drawn by matplotlib and jinja2.", code="not_installed", next_step=_INSTALL)
    page = render_html(comparison, made_at=time.strftime("%Y-%m-%d %H:%M"), job=job)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(page, "utf-8")
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise InvalidInput(
            f"The report cannot be written to {str(path)!r}: {error.strerror}.",
            code="not_written",
            next_step="Name another file: --report FILE.",
        ) from None


# ── in a terminal ────────────────────────────────────────────────────────────────────────────────────────────────────


def print_comparison(comparison: VersionComparison) -> None:
    """Quality, then what serving takes, the front in characters, and what is recommended."""
    from openmaas.cli.console import Styled, write

    _write_quality(comparison)
    write()
    _write_figures(comparison)
    for note in comparison.notes:
        write(Styled((note, "faint")))
    _write_plot(comparison)
    if comparison.why:
        write()
        write(Styled((_headline(comparison), "name")))
        for line in _wrapped(comparison.why):
            write(line)


def _wrapped(text: str) -> list[str]:
    import sys
    import textwrap

    from openmaas.cli.console import terminal_width

    return textwrap.wrap(text, min(terminal_width(sys.stdout) or 100, 100))


def _headline(comparison: VersionComparison) -> str:
    baseline, recommended = comparison.entrants[0].version, comparison.recommended
    return _("Keep {version}").format(version=baseline) if recommended == baseline else _("Recommended: {version}").format(
        version=recommended
    )  # fmt: skip


def _mark(number: int) -> str:
    from openmaas.reports.terminal import MARKS

    return MARKS[number % len(MARKS)]


def _write_quality(comparison: VersionComparison) -> None:
    """In a narrow terminal recipes have lines of their own."""
    from openmaas.cli.console import Styled, Table, write, write_table
    from openmaas.reports import words

    metric, wide = comparison.metric, _is_wide()
    recipes = wide and any(one.label for one in comparison.entrants)
    table = Table(
        "", _("VERSION"), *([_("RECIPE")] if recipes else []), (metric or _("quality")).upper(), _("LOST"), _("VERDICT")
    )
    for number, one in enumerate(comparison.entrants):
        lost = words.DASH if number == 0 else words.lost(metric, one.loss)
        recipe = [Styled((_cut(one.label), "faint"))] if recipes else []
        told = words.estimate(metric, one.metrics.get(metric))
        table.add_row(_mark(number), Styled((one.version, "name")), *recipe, told, lost, _verdict(one, comparison))
    write_table(table)
    for number, one in enumerate(comparison.entrants):
        if one.label and not recipes:
            write(Styled(f"{_mark(number)}   ", (one.label, "faint")))


def _is_wide() -> bool:
    import sys

    from openmaas.cli.console import terminal_width

    return (terminal_width(sys.stdout) or _WIDE) >= _WIDE


def _cut(text: str) -> str:
    return text if len(text) <= _NARROW else f"{text[: _NARROW - 1]}…"


def _verdict(one: Entrant, comparison: VersionComparison) -> Styled:
    from openmaas.cli.console import Styled
    from openmaas.reports import words

    said = words.verdict(one, comparison)
    told = {
        "recommended": _("recommended"), "dominated": _("dominated"), "baseline": _("baseline"),
        "on the front": _("on the front"),
    }.get(said, "")  # fmt: skip
    return Styled((told, {"recommended": "good", "dominated": "bad"}.get(said, "faint")))


def _write_figures(comparison: VersionComparison) -> None:
    """Green and red are better and worse than the baseline beyond the noise."""
    from openmaas.cli.console import Styled, Table, write_table
    from openmaas.core.pareto import change, figure
    from openmaas.reports import words

    numbers, wide = (_("SIZE"), _("MEMORY"), _("P50"), _("P99"), *_speed_columns(comparison)), _is_wide()
    table = Table("", *([_("VERSION")] if wide else []), _("ENGINE"), *numbers, right=numbers)
    baseline = comparison.entrants[0]

    def coloured(one: Entrant, axis: Axis, text: str) -> Styled:
        style = {-1: "good", 1: "bad"}.get(change(one, baseline, axis), "")
        ours, theirs = (figure(entrant, axis) for entrant in (one, baseline))
        times = f" {words.times(theirs / ours)}" if wide and one is not baseline and ours > 0 else ""
        return Styled((text, style), (times, "faint"))

    for number, one in enumerate(comparison.entrants):
        figures = one.figures
        threads = f" ({figures.choice.threads})" if figures.choice.threads else ""
        table.add_row(
            _mark(number), *([Styled((one.version, "name"))] if wide else []), f"{figures.choice.label}{threads}",
            coloured(one, "size", words.size(figures.size)), coloured(one, "memory", words.size(figures.memory)),
            coloured(one, "latency", words.duration(figures.speeds[0].p50)), words.duration(figures.speeds[0].p99),
            coloured(one, "throughput", words.rate(figures.best.rate)), str(figures.best.batch),
        )  # fmt: skip
    write_table(table)


def _speed_columns(comparison: VersionComparison) -> tuple[str, str]:
    return (_("TOKENS/S"), _("STREAMS")) if comparison.task == "generation" else (_("ROWS/S"), _("BATCH"))


def _write_plot(comparison: VersionComparison) -> None:
    import sys
    from importlib.util import find_spec

    from openmaas.cli.console import Styled, hint, terminal_width, write

    if find_spec("plotext") is None:
        write(Styled((_("Plots need one more package."), "faint")))
        hint(_INSTALL)
        return
    from openmaas.reports import terminal_plot

    drawn = terminal_plot(comparison, max(_NARROW, min(terminal_width(sys.stdout) or _WIDTH, _WIDTH)))
    if drawn is not None:
        write()
        for line in drawn.splitlines():
            write(line)

"""A report as a table, for the terminal and for the page."""

from __future__ import annotations

from statistics import mean

from rich.table import Table

from benchmarks.serving.report import Report, Row, base_of, medians

MIB = 2**20


def header(report: Report) -> list[str]:
    loads = " / ".join(map(str, report.connections))
    rows = report.rows()
    base = base_of(rows).title if rows else ""
    middle = sorted(report.connections)[len(report.connections) // 2]
    return [
        "server",
        f"{report.unit} at {loads}",
        f"{base} is … times as fast",
        f"p50 / p99 ms at {middle}",
        f"p99 ms at {max(report.connections)}",
        "RSS / PSS MiB",
        "cold start s",
        "errors",
    ]


def cells(report: Report, row: Row, base: Row) -> list[str]:
    levels = report.connections
    ratios = row.ratios(base)
    most = row.cells.get(max(levels))
    middle = row.middle()
    return [
        f"{row.title} {row.version}",
        " / ".join(_rate(row.cells[level].rate) if level in row.cells else "–" for level in levels),
        "1" if row is base else " / ".join(f"{ratios[level]:.1f}" if level in ratios else "–" for level in levels),
        f"{_ms(middle.p50)} / {_ms(middle.p99)}",
        _ms(most.p99) if most else "–",
        f"{row.rss / MIB:.0f} / {row.pss / MIB:.0f}",
        f"{row.cold:.1f}",
        f"{row.errors:,}",
    ]


def terminal(report: Report) -> Table:
    """The table as rich draws it; ours stands out."""
    table = Table(title=f"{report.title}: {report.machine}", caption="\n".join(notes(report)), header_style="bold")
    for position, title in enumerate(header(report)):
        table.add_column(title, justify="left" if position == 0 else "right")
    rows = report.rows()
    for row in rows:
        style = "bold cyan" if row.name == "openmaas" else ""
        table.add_row(*cells(report, row, base_of(rows)), style=style)
    return table


def markdown(report: Report) -> str:
    """The same table as Markdown, with its notes below."""
    rows = report.rows()
    titles = header(report)
    lines = [titles, ["---", *["---:"] * (len(titles) - 1)]]
    for row in rows:
        texts = cells(report, row, base_of(rows))
        lines.append([f"**{text}**" for text in texts] if row.name == "openmaas" else texts)
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return table + "\n\n" + "\n".join(f"- {note}" for note in notes(report))


def notes(report: Report) -> list[str]:
    """What a reader needs to trust the figures, or not to."""
    found = [
        f"Medians of {report.rounds} visits to each server, {report.seconds} s a load, {report.date}, {report.machine}.",
    ]
    shares = report.disturbances()
    if shares:
        found.append(f"Other programs took {mean(shares):.1%} of the machine meanwhile, {max(shares):.0%} at the worst moment.")
    engine = report.engine()
    if engine:
        best = max(engine, key=lambda batch: engine[batch])
        rates = ", ".join(f"{_rate(engine[batch])} at batch {batch}" for batch in sorted({1, 32, best} & engine.keys()))
        found.append(f"onnxruntime alone in a loop, rows/s: {rates}.")
    chosen = medians(report.chosen)
    if report.choice and not chosen:
        found.append(f"OpenMaaS chose {report.choice}.")
    if chosen:
        best = max(chosen, key=lambda batch: chosen[batch])
        rates = ", ".join(f"{_rate(chosen[batch])} at batch {batch}" for batch in sorted({1, 32, best} & chosen.keys()))
        what = "decoding and then the engine" if report.unit.startswith("images") else "that engine"
        found.append(f"OpenMaaS chose {report.choice}; {what} alone in a loop, rows/s: {rates}.")
    found += [
        f"{report.titles[name]} failed and was left out of later rounds: {why.splitlines()[0]}"
        for name, why in report.failures.items()
    ]
    return found


def _rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}"


def _ms(seconds: float) -> str:
    milliseconds = seconds * 1000
    return f"{milliseconds:.1f}" if milliseconds < 100 else f"{milliseconds:,.0f}"

"""A report as a table, for the terminal and for the page."""

from __future__ import annotations

from rich.table import Table

from benchmarks.generation.load import ANSWER, LONG, PROMPT, SHORT
from benchmarks.generation.report import Report, Visit

MIB = 2**20


def header(report: Report) -> list[str]:
    streams = " / ".join(map(str, report.levels))
    return [
        "server", "weights", f"decoded tokens/s, {streams} streams", "share of the engine alone",
        f"first token s, {streams} streams", "prompt tokens/s", "first token of a short call s: idle / beside a long prompt",
        "peak MiB", "cold start s",
    ]  # fmt: skip


def cells(report: Report, row: Visit, rows: dict[str, Visit]) -> list[str]:
    reading = row.reading
    alone = rows.get(f"alone-{report.weights[row.name]}") if row.name.startswith("openmaas") else None
    pairs = zip(reading.levels, alone.reading.levels, strict=True) if alone else ()
    served = bool(row.cold)
    return [
        f"{report.titles[row.name]} {report.versions.get(row.name, '')}".strip(),
        report.weights[row.name],
        " / ".join(f"{level.decode:.1f}" for level in reading.levels),
        " / ".join(f"{ours.decode / theirs.decode:.0%}" for ours, theirs in pairs) or "–",
        " / ".join(f"{level.first:.2f}" for level in reading.levels),
        f"{reading.prefill:,.0f}",
        f"{reading.idle:.2f} / {reading.beside:.2f}" if served else "–",
        f"{row.memory / MIB:,.0f}",
        f"{row.cold:.1f}" if served else "–",
    ]


def terminal(report: Report) -> Table:
    table = Table(title=f"{report.model}: {report.machine}", caption="\n".join(notes(report)), header_style="bold")
    for position, title in enumerate(header(report)):
        table.add_column(title, justify="left" if position < 2 else "right")
    rows = {row.name: row for row in report.rows()}
    for row in rows.values():
        table.add_row(*cells(report, row, rows), style="bold cyan" if row.name.startswith("openmaas") else "")
    return table


def markdown(report: Report) -> str:
    rows = {row.name: row for row in report.rows()}
    titles = header(report)
    lines = [titles, ["---", "---", *["---:"] * (len(titles) - 2)]]
    for row in rows.values():
        texts = cells(report, row, rows)
        lines.append([f"**{text}**" for text in texts] if row.name.startswith("openmaas") else texts)
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return table + "\n\n" + "\n".join(f"- {note}" for note in notes(report))


def _visits(rounds: int) -> str:
    return "one visit to each in turn" if rounds == 1 else f"{rounds} visits to each in turn, medians"


def notes(report: Report) -> list[str]:
    found = [
        f"{report.model}, {_visits(report.rounds)}, {report.date}, {report.machine}; "
        "two threads for every engine, the load generator on the same cores.",
        f"Streams: prompts of about {PROMPT} tokens, all different, {ANSWER} tokens each, greedy, by /v1/chat/completions. "
        "Decoded tokens/s are those of all streams together while all of them were being answered.",
        f"Prompt tokens/s: one prompt of about {LONG} tokens, to its first token. A short call has about {SHORT} tokens.",
    ]
    for name, why in report.failures.items():
        lines = why.strip().splitlines()
        found.append(f"{report.titles[name]} ({report.weights[name]}) failed: {lines[-1] if lines else 'without a word'}")
    return found

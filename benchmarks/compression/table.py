"""A report as tables, for the terminal and for the page."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table

from benchmarks.compression.report import Distillation, Report, Result, Row

_FAIR = (
    "All versions of a model in one alternating run, each by the engine that `openmaas` chose for it, beside the pushed one "
    "in float32 (the first row of each table; by onnxruntime, the writer by transformers). The upper bound of a loss is its "
    "95% confidence bound over rows, paired (over documents for the writer); files are those that the engine loads. Recipes: "
    "`benchmarks/compression/recipes`."
)


def header(result: Result) -> list[str]:
    what = (
        [f"tokens/s, {result.batch} streams", "times as fast", "ms a token, 1 stream"]
        if result.generates
        else [f"rows/s at batch {result.batch}", "times as fast", "p50 ms at batch 1"]
    )
    least = "same next token" if result.generates else "least cosine"
    return ["made by", "engine", "file", "times smaller", *what, "quality", "lost (95% bound)", least]


def cells(row: Row) -> list[str]:
    bound = "" if row.loss_high is None else f" (≤ {row.loss_high:.2%})"
    lost = "–" if row.loss is None else f"{row.loss:.2%}{bound}"
    least = f"{row.same:.1%}" if row.same is not None else "–" if row.cosine is None else f"{row.cosine:.5f}"
    rate, p50 = f"{row.rate:,.0f}", f"{row.p50 * 1e3:.3f}"
    return [
        row.label, row.engine, _bytes(row.size), f"{row.smaller:.1f}", rate, f"{row.faster:.2f}", p50, row.quality, lost, least,
    ]  # fmt: skip


def terminal(report: Report) -> RenderableType:
    tables: list[RenderableType] = []
    for result in report.results:
        table = Table(title=f"{result.title}: {result.said}", header_style="bold", caption="\n".join(_failures(result)))
        for name in header(result):
            table.add_column(name)
        for row in result.rows():
            table.add_row(*cells(row), style="dim" if row.dominated else "")
        tables.append(table)
    tables += [distilled(found) for found in report.distillation]
    return Group(*tables)


def markdown(report: Report) -> str:
    parts = [f"{report.date}, {report.machine}. {_FAIR}"]
    for result in report.results:
        names = header(result)
        lines = [
            f"### {result.title}",
            "",
            f"{result.said}.",
            "",
            f"![What was kept, by size and speed](../benchmarks/results/compression-{result.subject}.png)",
            "",
        ]
        lines += [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
        lines += [f"| {' | '.join(cells(row))} |" for row in result.rows()]
        lines += ["", *(f"- {text}" for text in _failures(result))]
        lines += [
            f"- {one.label}: {one.seconds:.0f} s of at most {result.seconds:.0f} for searching. {one.why}"
            for one in result.made
            if one.label.startswith("auto")
        ]
        parts.append("\n".join(lines))
    if report.distillation:
        parts.append("\n".join(("### Distillation", "", *(f"- {distilled(found)}" for found in report.distillation))))
    return "\n\n".join(parts)


def distilled(found: Distillation) -> str:
    """The gain over all seeds in a sentence, and the accuracies."""
    gain, half = found.gain()
    taught, alone = (", ".join(f"{value:.4f}" for value in side) for side in (found.taught, found.alone))
    return (
        f"Digits, {found.rows}, seeds {found.seeds[0]} to {found.seeds[-1]}, student `distil: {found.step}`: with a teacher "
        f"{taught}; the same student, rows and seeds without one {alone}. Gain {gain:+.2%} ± {half:.2%} (95%, Student's t over "
        "pairs)."
    )


def _failures(result: Result) -> list[str]:
    return [f"{one.label}: {one.failed}" for one in result.made if one.failed]


def _bytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"

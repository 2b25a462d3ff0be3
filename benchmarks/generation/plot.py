"""A report as a picture: decoded tokens a second at each number of streams."""

from __future__ import annotations

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt

from benchmarks.generation.report import PLOT, Report
from benchmarks.serving.plot import BAR, FAINT, INK, OURS, THEIRS

ALONE = "#d9e2ec"


def draw(report: Report) -> None:
    """Write the picture beside the JSON of the report."""
    rows = report.rows()[::-1]
    if not rows:
        return
    height = 1.6 + 0.42 * len(rows)
    with mpl.rc_context({"font.family": "DejaVu Sans", "font.size": 10, "text.color": INK}):
        figure, axes = plt.subplots(
            1, len(report.levels), figsize=(4.2 * len(report.levels), height), sharey=True, squeeze=False
        )
        for place, (axis, streams) in enumerate(zip(axes[0], report.levels, strict=True)):
            rates = [row.reading.levels[place].decode for row in rows]
            axis.barh(range(len(rows)), rates, BAR, color=[_colour(row.name) for row in rows])
            for position, rate in enumerate(rates):
                axis.text(rate + max(rates) * 0.02, position, f"{rate:,.1f}", va="center", size=9)
            axis.set_xlim(0, max(rates) * 1.25)
            axis.set_xticks([])
            axis.tick_params(axis="y", length=0)
            axis.spines[:].set_visible(False)
            axis.set_title(f"{streams} stream{'s' if streams > 1 else ''}", loc="left", size=11, weight="bold")
        names = [f"{report.titles[row.name]}, {report.weights[row.name]}" for row in rows]
        axes[0][0].set_yticks(range(len(rows)), names)
        for label, row in zip(axes[0][0].get_yticklabels(), rows, strict=True):
            label.set_color(OURS if row.name.startswith("openmaas") else INK)
        figure.suptitle("Decoded tokens a second", x=0.012, ha="left", size=16, weight="bold")
        rounds = "one round" if report.rounds == 1 else f"median of {report.rounds} rounds"
        source = f"{report.model} · {report.date} · {report.machine} · {rounds}"
        figure.text(0.012, 0.015, source, size=8.5, color=FAINT)
        figure.tight_layout(rect=(0, 0.05, 1, 0.99))
        figure.savefig(PLOT, dpi=150, facecolor="white")
        plt.close(figure)


def _colour(name: str) -> str:
    if name.startswith("openmaas"):
        return OURS
    return ALONE if name.startswith("alone") else THEIRS

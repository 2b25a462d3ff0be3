"""A result as a picture: what was kept of quality against size and against speed."""

from __future__ import annotations

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from benchmarks.compression.report import Report, Result, Row
from benchmarks.places import RESULTS
from benchmarks.serving.plot import FAINT, INK, OURS, THEIRS

_TICKS = (1, 1.5, 2, 3, 4, 5, 7, 10, 15, 20, 30, 40, 60)


def draw(report: Report) -> None:
    """Write a picture for each model beside the JSON of the report."""
    for result in report.results:
        rows = [row for row in result.rows() if row.loss is not None]
        if len(rows) > 1:
            _draw(report, result, rows)


def _draw(report: Report, result: Result, rows: list[Row]) -> None:
    with mpl.rc_context({"font.family": "DejaVu Sans", "font.size": 9, "text.color": INK}):
        figure, axes = plt.subplots(1, 2, figsize=(12, 4.6), sharey=True)
        _scatter(axes[0], rows, [row.smaller for row in rows], "times smaller")
        _scatter(axes[1], rows, [row.faster for row in rows], f"times as many rows a second, batch {result.batch}")
        axes[0].set_ylabel("quality lost, points")
        figure.suptitle(result.title, x=0.012, ha="left", size=15, weight="bold")
        figure.text(0.012, 0.015, f"{report.date} · {report.machine} · bars reach to the 95% bound", size=8, color=FAINT)
        figure.tight_layout(rect=(0, 0.05, 1, 0.97))
        figure.savefig(RESULTS / f"compression-{result.subject}.png", dpi=150, facecolor="white")
        plt.close(figure)


def _scatter(axis: Axes, rows: list[Row], values: list[float], title: str) -> None:
    axis.set_xscale("log")
    axis.axhline(0, color=FAINT, linewidth=0.6)
    placed: list[tuple[float, float]] = []
    for row, value in sorted(zip(rows, values, strict=True), key=lambda pair: pair[1]):
        assert row.loss is not None
        colour = OURS if "auto" in row.label else THEIRS
        high = max(0.0, (row.loss_high or row.loss) - row.loss) * 100
        axis.errorbar(value, row.loss * 100, yerr=[[0], [high]], fmt="o", color=colour, alpha=0.35 if row.dominated else 1.0)
        near = sum(1 for other, loss in placed if value / other < 1.6 and abs(loss - row.loss) < 0.003)
        placed.append((value, row.loss))
        place = (5, 5 + 10 * (near % 6))
        ink = OURS if colour == OURS else INK
        axis.annotate(row.label, (value, row.loss * 100), xytext=place, textcoords="offset points", size=7.5, color=ink)
    axis.set_title(title, loc="left", size=10, weight="bold")
    axis.spines[["top", "right"]].set_visible(False)
    axis.margins(x=0.18, y=0.12)
    axis.set_xticks([tick for tick in _TICKS if min(values) / 1.3 <= tick <= max(values) * 1.3])
    axis.xaxis.set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))
    axis.xaxis.set_minor_locator(mpl.ticker.NullLocator())

"""A report as a picture: answers a second at each load, and latency."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.layout_engine import ConstrainedLayoutEngine

from benchmarks.serving.report import Report, Row, base_of

OURS, THEIRS, INK, FAINT = "#0f766e", "#b6c2cf", "#1f2933", "#7b8794"
BAR = 0.62
"""Height of a bar; rows are 1 apart."""
HEAD, FOOT = 0.95, 0.35
"""Inches above and below the panels."""


def draw(report: Report) -> None:
    """Write the picture beside the JSON of the report."""
    rows = report.rows()[::-1]
    if not rows:
        return
    base = base_of(rows[::-1])
    levels = report.connections
    height = HEAD + FOOT + 0.7 + 0.46 * len(rows)
    head, foot = HEAD / height, FOOT / height
    style: dict[Any, Any] = {"font.family": "DejaVu Sans", "font.size": 10, "text.color": INK, "axes.edgecolor": FAINT}
    with mpl.rc_context(style):
        figure, axes = plt.subplots(
            1,
            len(levels) + 1,
            figsize=(4.1 * (len(levels) + 1), height),
            sharey=True,
            layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1, rect=(0, foot, 1, 1 - head - foot)),
            gridspec_kw={"width_ratios": [1.0] * len(levels) + [1.15]},
        )
        for axis, level in zip(axes, levels, strict=False):
            _rates(axis, rows, base, level)
        _latencies(axes[-1], rows, levels[len(levels) // 2])
        for axis in axes:
            _bare(axis)
        _names(axes[0], rows)
        subtitle = f"{report.unit} over HTTP with JSON, one sample a request"
        figure.text(0.012, 1 - 0.18 / height, report.title, size=18, weight="bold", va="top")
        figure.text(0.012, 1 - 0.58 / height, subtitle, size=11.5, color=FAINT, va="top")
        source = f"{report.date} · {report.machine} · median of {report.rounds} rounds · × is relative to {base.title}"
        figure.text(0.012, 0.14 / height, source, size=9, color=FAINT)
        figure.savefig(report.plot, dpi=150, facecolor="white")
        plt.close(figure)


def _rates(axis: Axes, rows: list[Row], base: Row, level: int) -> None:
    most = max(row.cells[level].rate for row in rows if level in row.cells)
    for place, row in enumerate(rows):
        if level not in row.cells:
            axis.text(most * 0.02, place, "not offered", va="center", color=FAINT, size=9)
            continue
        rate = row.cells[level].rate
        axis.barh(place, rate, BAR, color=_colour(row))
        text = f"{rate:,.0f}"
        if row is not base and level in base.cells:
            text += f"  ×{rate / base.cells[level].rate:.2f}"
        axis.text(rate + most * 0.02, place, text, va="center", size=9, color=INK, weight=_weight(row))
    axis.set_xlim(0, most * 1.38)
    axis.set_xticks([])
    axis.set_title(f"{level} connection{'s' if level > 1 else ''}", loc="left", size=11, weight="bold", color=INK)


def _latencies(axis: Axes, rows: list[Row], level: int) -> None:
    """From the median to the 99th percentile, on a logarithmic axis."""
    for place, row in enumerate(rows):
        cell = row.cells.get(level)
        if cell is None:
            continue
        low, high = cell.p50 * 1000, cell.p99 * 1000
        axis.plot([low, high], [place, place], color=_colour(row), linewidth=5, solid_capstyle="round")
        axis.plot(low, place, "o", color="white", markeredgecolor=_colour(row), markeredgewidth=2, markersize=7)
        label = f"{low:.1f} – {high:.1f}" if high < 100 else f"{low:,.0f} – {high:,.0f}"
        axis.annotate(label, (high, place), xytext=(8, 0), textcoords="offset points", va="center", size=9, weight=_weight(row))
    axis.set_xscale("log")
    low, high = axis.get_xlim()
    axis.set_xlim(low, high * (high / low) ** 0.45)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.tick_params(axis="x", which="both", colors=FAINT, labelsize=8, length=0)
    axis.grid(axis="x", color="#e4e7eb", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.set_title(f"p50 – p99 in ms, {level} connections", loc="left", size=11, weight="bold", color=INK)


def _bare(axis: Axes) -> None:
    axis.spines[:].set_visible(False)
    axis.tick_params(axis="y", length=0)


def _names(axis: Axes, rows: list[Row]) -> None:
    """The servers' names, on the axis that all panels share."""
    axis.set_ylim(-0.6, len(rows) - 0.4)
    axis.set_yticks(range(len(rows)), [row.title for row in rows])
    for label, row in zip(axis.get_yticklabels(), rows, strict=True):
        label.set_fontweight(_weight(row))
        label.set_color(OURS if row.name == "openmaas" else INK)


def _colour(row: Row) -> str:
    return OURS if row.name == "openmaas" else THEIRS


def _weight(row: Row) -> str:
    return "bold" if row.name == "openmaas" else "normal"

"""A result as a picture: what was kept of quality against size and against speed."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from benchmarks.compression.report import Report, Result, Row
from benchmarks.places import RESULTS
from benchmarks.serving.plot import FAINT, INK, OURS, THEIRS

_MARK = 3.5  # points that a mark reaches to each side
_PLOTTED = 0.78  # of the width; names are on the rest
_LINE = 0.045  # of the height, between names
_TICKS = (1, 1.5, 2, 3, 4, 5, 7, 10, 15, 20, 30, 40, 60)


def draw(report: Report) -> None:
    """Write a picture for each model beside the JSON of the report."""
    for result in report.results:
        rows = [row for row in result.rows() if row.loss is not None]
        if len(rows) > 1:
            _draw(report, result, rows)


def _draw(report: Report, result: Result, rows: list[Row]) -> None:
    rows = sorted(rows, key=lambda row: -row.smaller)
    with mpl.rc_context({"font.family": "DejaVu Sans", "font.size": 9, "text.color": INK}):
        figure, axes = plt.subplots(1, 2, figsize=(12, 4.6), dpi=150, sharey=True)
        values = [row.smaller for row in rows], [row.faster for row in rows]
        speed = f"tokens a second, {result.batch} streams" if result.generates else f"rows a second, batch {result.batch}"
        titles = "times smaller", f"times as many {speed}"
        for axis, some, title in zip(axes, values, titles, strict=True):
            _scatter(axis, rows, some, title)
        axes[0].set_ylabel("perplexity lost, %" if result.generates else "quality lost, points")
        figure.suptitle(result.title, x=0.012, ha="left", size=15, weight="bold")
        figure.text(0.012, 0.015, f"{report.date} · {report.machine} · bars reach to the 95% bound", size=8, color=FAINT)
        figure.tight_layout(rect=(0, 0.05, _PLOTTED, 0.97))
        for axis, some in zip(axes, values, strict=True):
            _number(axis, rows, some)
        for number, row in enumerate(rows):
            height = axes[0].get_position().y1 - number * _LINE
            figure.text(_PLOTTED + 0.03, height, str(number + 1), size=8, weight="bold", ha="right", va="top", color=_ink(row))
            figure.text(_PLOTTED + 0.038, height, row.label, size=8, va="top", color=_ink(row))
        figure.savefig(RESULTS / f"compression-{result.subject}.png", facecolor="white")
        plt.close(figure)


def _scatter(axis: Axes, rows: list[Row], values: list[float], title: str) -> None:
    axis.set_xscale("log")
    axis.axhline(0, color=FAINT, linewidth=0.6)
    for row, value in zip(rows, values, strict=True):
        alpha = 0.35 if row.dominated else 1.0
        axis.errorbar(value, _lost(row), yerr=[[0], [_bound(row) - _lost(row)]], fmt="o", color=_colour(row), alpha=alpha)
    axis.set_title(title, loc="left", size=10, weight="bold")
    axis.spines[["top", "right"]].set_visible(False)
    axis.margins(x=0.12, y=0.12)
    axis.set_xticks([tick for tick in _TICKS if min(values) / 1.3 <= tick <= max(values) * 1.3])
    axis.xaxis.set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))
    axis.xaxis.set_minor_locator(mpl.ticker.NullLocator())


def _number(axis: Axes, rows: list[Row], values: list[float]) -> None:
    """The number of each mark, or the numbers of those that lie on each other, at the nearest place that nothing else takes."""
    figure = axis.figure
    assert isinstance(figure, Figure)
    point, frame, zero = figure.dpi / 72, axis.bbox, axis.transData.transform((1, 0))[1]
    at, ends = (
        [axis.transData.transform((value, high(row))) for row, value in zip(rows, values, strict=True)]
        for high in (_lost, _bound)
    )
    taken = [Bbox([mark - _MARK * point, mark + _MARK * point]) for mark in at]
    taken += [Bbox([mark - np.array([point, 0]), end + np.array([point, 0])]) for mark, end in zip(at, ends, strict=True)]
    taken.append(Bbox([(frame.x0, zero - point), (frame.x1, zero + point)]))
    for some in _together(at, 1.5 * _MARK * point):
        mark, told = at[some[0]], ", ".join(str(number + 1) for number in some)
        text = figure.text(
            0, 0, told, transform=None, size=8, weight="bold", ha="center", va="center", color=_ink(rows[some[0]])
        )
        box = text.get_window_extent()
        places = (Bbox.from_bounds(x, y, box.width, box.height) for x, y in _around(mark, box.width, box.height, point))
        place = next(place for place in places if place.x0 > frame.x0 and not place.count_overlaps(taken))
        text.set_position(((place.x0 + place.x1) / 2, (place.y0 + place.y1) / 2))
        taken.append(place)


def _together(at: list[NDArray[np.float64]], near: float) -> list[list[int]]:
    """Which marks lie on each other."""
    found: list[list[int]] = []
    for number, mark in enumerate(at):
        fitting = next((some for some in found if min(np.hypot(*(mark - at[one])) for one in some) < near), None)
        if fitting is None:
            found.append([number])
        else:
            fitting.append(number)
    return found


def _around(mark: NDArray[np.float64], width: float, height: float, point: float) -> Iterator[tuple[float, float]]:
    """Lower left corners of a box round a mark, further and further away."""
    for away in count(_MARK + 2, 1):
        for angle in np.linspace(0, 2 * np.pi, 24, endpoint=False):
            x, y = np.cos(angle) * (width / 2 + away * point), np.sin(angle) * (height / 2 + away * point)
            yield mark[0] + x - width / 2, mark[1] + y - height / 2


def _colour(row: Row) -> str:
    return OURS if "auto" in row.label else THEIRS


def _ink(row: Row) -> str:
    return OURS if _colour(row) == OURS else INK


def _lost(row: Row) -> float:
    assert row.loss is not None
    return row.loss * 100


def _bound(row: Row) -> float:
    return max(_lost(row), (row.loss_high or 0.0) * 100)

"""Plots of a comparison as SVG for a page: text stays text, and colours are the page's own, light or dark.

Drawn by matplotlib without pyplot, so that nothing outside is changed. Names are somebody's own words: they are drawn as they
are, never read as mathematics, and shortened.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Final, Self

from openmaas.core.evaluations import ClassChange, Entrant, Estimate, VersionComparison
from openmaas.core.pareto import front
from openmaas.reports import words

# Colours that are put in place of the page's while matplotlib draws.
INK: Final = "#010203"
MUTED: Final = "#040506"
LINE: Final = "#070809"
PAPER: Final = "#0a0b0c"
GOOD: Final = "#0d0e0f"
BAD: Final = "#101112"
SERIES: Final = ("#131415", "#161718", "#191a1b", "#1c1d1e", "#1f2021", "#222324", "#252627", "#28292a")
_VARIABLES: Final = {
    INK: "--ink", MUTED: "--muted", LINE: "--line", PAPER: "--paper", GOOD: "--good", BAD: "--bad",
    **{color: f"--series-{number}" for number, color in enumerate(SERIES, 1)},
}  # fmt: skip
_LONGEST_NAME: Final = 28
_MOST_CLASSES: Final = 24
_INVALID: Final = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SPOTS: Final = ((8, 6), (8, -12), (-8, 6), (-8, -12), (0, 11), (0, -18), (14, 18), (14, -24), (-14, 18), (-14, -24), (0, 28))


def clean(text: str, longest: int = _LONGEST_NAME) -> str:
    """Without what XML cannot hold, on one line, and shortened."""
    plain = " ".join(_INVALID.sub("", text).split())
    return plain if len(plain) <= longest else f"{plain[: longest - 1]}…"


def color(number: int) -> str:
    return SERIES[number % len(SERIES)]


# ── quality against what it costs ────────────────────────────────────────────────────────────────────────────────────


def pareto(comparison: VersionComparison, axis: str) -> str:
    """Quality against size, or against latency. Empty where fewer than two entrants have a quality."""
    points = [
        (number, one, found)
        for number, one in enumerate(comparison.entrants)
        if (found := words.quality(one, comparison.metric)) is not None
    ]
    if len(points) < 2:
        return ""
    with _Plot(6.4, 4.3, f"pareto-{axis}") as plot:
        axes = plot.figure.subplots()
        scale = 100.0 if _in_percent(comparison.metric) else 1.0
        spread = _spread([_cost(one, axis) for _, one, _ in points])
        _draw_front(axes, axis, points, scale)
        marks = []
        for number, one, found in points:
            x, y = _cost(one, axis), found.value * scale
            ink = MUTED if one.dominated else color(number)
            if found.low is not None and found.high is not None and number:
                axes.plot([x, x], [found.low * scale, found.high * scale], color=ink, linewidth=1.3, alpha=0.75, zorder=2)
            recommended = one.version == comparison.recommended
            axes.plot(
                [x], [y], marker="s" if number == 0 else "o", color=ink, markersize=8, linestyle="", zorder=4,
                markeredgecolor=INK if recommended else PAPER, markeredgewidth=1.8 if recommended else 0.8,
            )  # fmt: skip
            marks.append((x, y, clean(one.version), ink))
        if spread:
            axes.set_xscale("log")
        _tidy_cost(axes, axis)
        axes.set_xlabel("size of the files" if axis == "size" else _latency(comparison))
        unit = ", %" if scale > 1 else ""
        axes.set_ylabel(clean(f"{comparison.metric}{unit}"))
        axes.margins(x=0.18, y=0.14)
        if not words.is_higher(comparison.metric):
            axes.invert_yaxis()
        _label(plot, axes, marks)
        return plot.svg()


def _draw_front(axes: Any, axis: str, points: Sequence[tuple[int, Entrant, Estimate]], scale: float) -> None:
    kept = front([one for _, one, _ in points], ("quality", "size" if axis == "size" else "latency"))
    on_front = [point for point, is_kept in zip(points, kept, strict=True) if is_kept]
    line = sorted((_cost(one, axis), found.value * scale) for _, one, found in on_front)
    if len(line) > 1:
        axes.plot(*zip(*line, strict=True), color=LINE, linewidth=2.2, zorder=1, drawstyle="steps-post")


def _cost(one: Entrant, axis: str) -> float:
    return float(one.figures.size) if axis == "size" else one.figures.speeds[0].p50


def _in_percent(metric: str) -> bool:
    return words.is_share(metric) and metric not in ("cosine", "r2", "pearson", "spearman")


def _spread(values: Sequence[float]) -> bool:
    """Whether a logarithmic axis shows them better."""
    return min(values) > 0 and max(values) / min(values) > 4


def _tidy_cost(axes: Any, axis: str) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    told = words.size if axis == "size" else words.duration
    logarithmic = axes.get_xscale() == "log"
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=8) if logarithmic else MaxNLocator(6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda number, _: told(number) if number > 0 else ""))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _label(plot: _Plot, axes: Any, marks: Sequence[tuple[float, float, str, str]]) -> None:
    """Each name beside its mark, on no other name, on no mark, and inside of the axes; with a line where it is farther off."""
    renderer = plot.renderer()
    frame = axes.get_window_extent(renderer)
    places = [axes.transData.transform((x, y)) for x, y, _, _ in marks]
    taken: list[Any] = []
    for (x, y, name, ink), _ in zip(marks, places, strict=True):
        best, fewest = None, math.inf
        for spot in _SPOTS:
            text = axes.annotate(
                name, (x, y), xytext=spot, textcoords="offset points", fontsize=9.5,
                color=MUTED if ink == MUTED else INK,
                ha="left" if spot[0] > 0 else "right" if spot[0] < 0 else "center",
                arrowprops={"arrowstyle": "-", "color": LINE, "linewidth": 0.8} if abs(spot[1]) >= 18 else None, zorder=5,
            )  # fmt: skip
            box = text.get_window_extent(renderer).expanded(1.02, 1.05)
            hits = sum(box.overlaps(other) for other in taken) * 3 + sum(
                box.x0 - 5 < px < box.x1 + 5 and box.y0 - 5 < py < box.y1 + 5 for px, py in places
            )
            hits += 0 if frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1 else 2
            if hits < fewest:
                if best is not None:
                    best[0].remove()
                best, fewest = (text, box), hits
            else:
                text.remove()
            if not fewest:
                break
        assert best is not None
        taken.append(best[1])


# ── speed ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def speeds(comparison: VersionComparison) -> str:
    """Median and 99th percentile at batch 1, and the throughput at the best batch size, of each entrant."""
    entrants = comparison.entrants
    with _Plot(9.6, 0.9 + 0.42 * len(entrants), "speeds") as plot:
        left, right = plot.figure.subplots(1, 2, sharey=True)
        rows = list(range(len(entrants)))[::-1]
        for row, (number, one) in zip(rows, enumerate(entrants), strict=True):
            first, best = one.figures.speeds[0], one.figures.best
            ink = MUTED if one.dominated else color(number)
            left.barh([row + 0.19], [first.p50 * 1e3], height=0.34, color=ink)
            left.barh([row - 0.19], [first.p99 * 1e3], height=0.34, color=ink, alpha=0.45)
            right.barh([row], [best.rate], height=0.6, color=ink)
            _beside(left, first.p50 * 1e3, row + 0.19, f"p50 {words.duration(first.p50)}")
            _beside(left, first.p99 * 1e3, row - 0.19, f"p99 {words.duration(first.p99)}")
            _beside(right, best.rate, row, f"{words.rate(best.rate)} at {words.batch(comparison, best.batch)}")
        left.set_yticks(rows, [clean(one.version) for one in entrants])
        left.set_xlabel(f"latency at {words.batch(comparison, 1)}, ms")
        right.set_xlabel(f"{words.row(comparison)}s a second, at best")
        for axes in (left, right):
            axes.margins(x=0.42)
            axes.set_xlim(left=0)
            axes.grid(axis="y", visible=False)
            axes.tick_params(axis="y", length=0)
        return plot.svg()


def _beside(axes: Any, x: float, y: float, text: str) -> None:
    axes.annotate(text, (x, y), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8.5, color=INK)


def _latency(comparison: VersionComparison) -> str:
    if words.row(comparison) == "token":
        return "latency: median time of a token, 1 stream"
    return "latency: median call at batch 1"


def batches(comparison: VersionComparison) -> str:
    """Throughput by batch size. Empty where no entrant was measured at more than one."""
    if all(len(one.figures.speeds) < 2 for one in comparison.entrants):
        return ""
    with _Plot(6.4, 3.7, "batches") as plot:
        axes = plot.figure.subplots()
        for number, one in enumerate(comparison.entrants):
            sizes, rates = zip(*((speed.batch, speed.rate) for speed in one.figures.speeds), strict=True)
            ink = MUTED if one.dominated else color(number)
            axes.plot(sizes, rates, marker="o", markersize=4, linewidth=1.8, color=ink, label=clean(one.version))
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

        axes.set_xticks([1, 2, 4, 8, 16, 32, 64])
        axes.xaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:g}"))
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda number, _: words.rate(number)))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("streams" if words.row(comparison) == "token" else "rows in a call")
        axes.set_ylabel(f"{words.row(comparison)}s a second")
        axes.legend(frameon=False, fontsize=9, labelcolor=INK)
        return plot.svg()


# ── classes ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def class_changes(changes: Sequence[ClassChange], name: str) -> str:
    """Recall before and after of the classes that changed most. name: of the plot, for ids within the page."""
    told = sorted(changes, key=lambda one: -abs(one.after - one.before))[:_MOST_CLASSES]
    if not told:
        return ""
    told = [one for one in changes if one in told]
    with _Plot(6.4, 0.9 + 0.26 * len(told), f"classes-{name}") as plot:
        axes = plot.figure.subplots()
        rows = list(range(len(told)))[::-1]
        for row, one in zip(rows, told, strict=True):
            worse, same = one.after < one.before, one.after == one.before
            ink = MUTED if same else BAD if worse else GOOD
            before, after = 100 * one.before, 100 * one.after
            axes.plot([before, after], [row, row], color=ink, linewidth=2.4, zorder=2)
            axes.plot([before], [row], marker="o", markersize=5.5, color=PAPER, markeredgecolor=MUTED, linestyle="", zorder=3)
            axes.plot([after], [row], marker="o", markersize=5.5, color=ink, linestyle="", zorder=4)
        axes.set_yticks(rows, [clean(one.name) for one in told])
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.set_ylim(-0.7, len(told) - 0.3)
        axes.set_xlabel("recall, %: before (hollow) and after")
        axes.margins(x=0.06)
        return plot.svg()


# ── drawing ──────────────────────────────────────────────────────────────────────────────────────────────────────────

_STYLE: Final[dict[str, Any]] = {
    "svg.fonttype": "none", "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "font.size": 10,
    "axes.edgecolor": LINE, "axes.labelcolor": MUTED, "axes.facecolor": "none", "figure.facecolor": "none",
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": LINE, "grid.linewidth": 0.6,
    "grid.alpha": 0.6, "axes.axisbelow": True, "xtick.color": MUTED, "ytick.color": MUTED, "xtick.labelsize": 9,
    "ytick.labelsize": 9, "axes.labelsize": 9.5, "text.parse_math": False, "text.usetex": False,
    "axes.formatter.use_mathtext": False, "axes.unicode_minus": True,
}  # fmt: skip


class _Plot:
    """A figure of so many inches in our style, which holds within the context. name: no other plot of the page has it."""

    def __init__(self, width: float, height: float, name: str) -> None:
        self._size = (width, height)
        self._name = name
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        from matplotlib import rc_context
        from matplotlib.figure import Figure

        self._stack.enter_context(rc_context({**_STYLE, "svg.hashsalt": self._name}))
        self._stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", UserWarning)  # a letter that the font lacks, which the reader's browser has
        self.figure = Figure(figsize=self._size, layout="constrained")
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def renderer(self) -> Any:
        """Of text as wide as it will be, once the axes have their final places."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        canvas = FigureCanvasAgg(self.figure)
        canvas.draw()
        return canvas.get_renderer()

    def svg(self) -> str:
        """An element for a page: as wide as there is room, in the page's colours, without what is around it in a file."""
        buffer = io.StringIO()
        self.figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
        drawn = buffer.getvalue()
        drawn = drawn[drawn.index("<svg") :]
        head, _, body = drawn.partition(">")
        width = re.search(r'width="([\d.]+)pt"', head)
        head = re.sub(r' (width|height|version|xmlns:xlink|xmlns)="[^"]*"', "", head)
        head += f' role="img" style="max-width: {float(width[1]) * 1.25 if width else 640:.0f}px"'
        body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL).replace("xlink:href", "href")
        for placeholder, variable in _VARIABLES.items():
            body = body.replace(placeholder, f"var({variable})")
        return f"{head}>{body}"

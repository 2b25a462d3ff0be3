"""The Pareto front in characters, for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from openmaas.core.evaluations import Entrant, VersionComparison
from openmaas.core.pareto import front
from openmaas.reports import words

MARKS: Final = "abcdefghijklmnopqrstuvwxyz"
"""An entrant's letter, by its place."""

_HEIGHT: Final = 16


def terminal_plot(comparison: VersionComparison, width: int = 80) -> str | None:
    """Quality against latency, or against the target where that is size: a letter for each entrant, dots along the front.

    None where fewer than two entrants have a quality. Raises ModuleNotFoundError without plotext (the extra `report`).
    """
    by_size = comparison.target == "size"
    points = [
        (MARKS[number % len(MARKS)], one, found.value)
        for number, one in enumerate(comparison.entrants)
        if (found := words.quality(one, comparison.metric)) is not None
    ]
    if len(points) < 2:
        return None
    import plotext

    figure = plotext.figure
    figure.clear()
    figure.theme("colorless")
    figure.plot_size(width, _HEIGHT)
    percent = 100.0 if words.is_share(comparison.metric) else 1.0
    factor, unit = (1e-3, "kB") if by_size else (1e3, "ms")
    places = [(_cost(one, by_size) * factor, value * percent) for _, one, value in points]
    _scale(figure, places, flipped=not words.is_higher(comparison.metric))
    kept = front([one for _, one, _ in points], ("quality", "size" if by_size else "latency"))
    line = sorted(place for place, on_front in zip(places, kept, strict=True) if on_front)
    if len(line) > 1:
        drawn = figure.signal(*map(list, zip(*line, strict=True)), marker="·")
        drawn.lines()
        figure.draw(drawn)
    for (mark, _, _), (x, y) in zip(points, places, strict=True):
        figure.draw(figure.signal([x], [y], marker=mark))
    cost = "size" if by_size else f"p50 at {words.batch(comparison, 1)}"
    figure.title(f"{comparison.metric}{', %' if percent > 1 else ''} against {cost}, {unit}")
    text: str = plotext.uncolorize(str(figure.build()))
    figure.clear()
    return "\n".join(line.rstrip() for line in text.splitlines()).strip("\n")


def _cost(one: Entrant, by_size: bool) -> float:
    return float(one.figures.size) if by_size else one.figures.speeds[0].p50


def _scale(figure: Any, places: Sequence[tuple[float, float]], *, flipped: bool) -> None:
    """Some room around the outermost letters; logarithmic where the figures are far apart."""
    xs, ys = ([place[axis] for place in places] for axis in (0, 1))
    across, up = figure.ruler("x"), figure.ruler("y")
    if min(xs) > 0 and max(xs) / min(xs) > 4:
        across.scale("log")
        across.lim(min(xs) / 1.2, max(xs) * 1.2)
    else:
        room = 0.08 * (max(xs) - min(xs)) or max(abs(xs[0]) * 0.1, 1e-6)
        across.lim(min(xs) - room, max(xs) + room)
    room = 0.12 * (max(ys) - min(ys)) or max(abs(ys[0]) * 0.01, 1e-6)
    up.lim(min(ys) - room, max(ys) + room)
    if flipped:
        up.direction(-1)

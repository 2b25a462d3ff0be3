"""A comparison as one HTML page that needs nothing besides itself: no script, nothing from anywhere, light and dark, printable.

Names of models, classes and texts of datasets are somebody's own words: jinja2 escapes all of them, and the page's own policy
forbids whatever would run or be fetched.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from openmaas.core.evaluations import ChangedRow, Entrant, VersionComparison
from openmaas.core.pareto import AXES, change, figure
from openmaas.reports import words

if TYPE_CHECKING:
    import jinja2

_PNG: Final = re.compile(r"data:image/png;base64,[A-Za-z0-9+/]+={0,2}")
_MOST_CLASS_PLOTS: Final = 6


def render_html(comparison: VersionComparison, *, made_at: str = "", job: str = "") -> str:
    """The page. made_at: date and time as people read them; job: the id of the job that measured.

    Raises ModuleNotFoundError without jinja2 and matplotlib (the extra `report`).
    """
    from openmaas.reports import plots

    comparison = shown(comparison)
    changed_classes = [
        (one, plots.class_changes(one.classes, str(number)))
        for number, one in enumerate(comparison.entrants)
        if any(item.before != item.after for item in one.classes)
    ]
    return _template().render(
        comparison=comparison,
        baseline=comparison.entrants[0],
        recommended=next((one for one in comparison.entrants if one.version == comparison.recommended), None),
        made_at=made_at,
        job=job,
        pareto=[svg for axis in ("size", "latency") if (svg := plots.pareto(comparison, axis))],
        speeds=plots.speeds(comparison),
        batches=plots.batches(comparison),
        changed_classes=changed_classes[:_MOST_CLASS_PLOTS],
        metrics=list(dict.fromkeys(name for one in comparison.entrants for name in one.metrics)),
        text=comparison.task == "generation",
        words=words,
        color=lambda one: _color(comparison, one),
        ratio=lambda one, axis: _ratio(comparison, one, axis),
        marked=lambda one, axis: _marked(comparison, one, axis),
        image=_image,
        axes=AXES,
    )


def shown(comparison: VersionComparison) -> VersionComparison:
    """Without entrants whose figures cannot be drawn: that were never timed."""
    import msgspec

    entrants = tuple(one for one in comparison.entrants if one.figures.speeds)
    return msgspec.structs.replace(comparison, entrants=entrants)


@cache
def _template() -> jinja2.Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("openmaas.reports", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("comparison.html")


def _color(comparison: VersionComparison, one: Entrant) -> str:
    if one.dominated:
        return "var(--muted)"
    return f"var(--series-{1 + comparison.entrants.index(one) % 8})"


def _ratio(comparison: VersionComparison, one: Entrant, axis: Any) -> str:
    """How many times as good as the baseline, for a person: 3.2× smaller is better than 0.31."""
    ours, theirs = figure(one, axis), figure(comparison.entrants[0], axis)
    return words.times(theirs / ours) if ours > 0 else words.DASH


def _marked(comparison: VersionComparison, one: Entrant, axis: Any) -> str:
    """The style of a figure that is better or worse than the baseline's beyond the noise."""
    return ("better", "", "worse")[change(one, comparison.entrants[0], axis) + 1]


def _image(row: ChangedRow) -> bool:
    """Whether the preview is a PNG and nothing that only says so."""
    return _PNG.fullmatch(row.preview) is not None

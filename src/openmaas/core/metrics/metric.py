"""What a metric is: a figure of rows that may be weighed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from openmaas.core.metrics.outcomes import Array, Kind

Statistic = Callable[[Array], Array]
"""How often each row was drawn [resample, row] → the figure of each resample, NaN where its rows do not define it."""


@dataclass(frozen=True)
class Metric:
    """higher: more is better. share: at most 1, so that a loss is the absolute drop; else it is a share of the baseline's.

    badness: (truth [N], answers [N]) → what each row takes from the figure, up to a factor [N].
    """

    name: str
    kind: Kind
    prepare: Callable[[Array, Array], Statistic]
    badness: Callable[[Array, Array], Array]
    higher: bool = True
    share: bool = True

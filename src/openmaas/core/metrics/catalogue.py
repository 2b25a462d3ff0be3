"""All metrics by name, and which of them tell of a task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from openmaas.core.errors import InvalidInput
from openmaas.core.metrics.classification import accuracy, balanced, macro, ratio, wrong
from openmaas.core.metrics.metric import Metric
from openmaas.core.metrics.regression import distances, gaps, mae, pearson, r2, rank_gaps, rmse, spearman, squares
from openmaas.core.metrics.text import mean_loss, perplexity, weighed

METRICS: Final[dict[str, Metric]] = {
    metric.name: metric
    for metric in (
        Metric("accuracy", "classes", accuracy, wrong),
        Metric("f1", "classes", macro(lambda hits, rows, given: ratio(2 * hits, rows + given)), wrong),
        Metric("precision", "classes", macro(lambda hits, _, given: ratio(hits, given)), wrong),
        Metric("recall", "classes", macro(lambda hits, rows, _: ratio(hits, rows)), wrong),
        Metric("balanced_accuracy", "classes", macro(balanced), wrong),
        Metric("mae", "values", mae, distances, higher=False, share=False),
        Metric("rmse", "values", rmse, squares, higher=False, share=False),
        Metric("r2", "values", r2, squares),
        Metric("spearman", "values", spearman, rank_gaps),
        Metric("pearson", "values", pearson, gaps),
        Metric("log_loss", "losses", mean_loss, weighed, higher=False, share=False),
        Metric("perplexity", "losses", perplexity, weighed, higher=False, share=False),
    )
}

BY_TASK: Final[dict[str, tuple[str, ...]]] = {
    "classification": ("accuracy", "f1", "precision", "recall", "balanced_accuracy"),
    "regression": ("rmse", "mae", "r2", "pearson", "spearman"),
    "similarity": ("spearman", "pearson"),
    "generation": ("perplexity",),
}
"""What is told of a task; the first is the usual one. Besides, log_loss of classes with probabilities."""


def find_metric(name: str) -> Metric:
    """Raises InvalidInput for a name that is none."""
    if name not in METRICS:
        raise InvalidInput(f"{name[:40]!r} is not a metric; there are {', '.join(METRICS)}.", code="unknown_metric")
    return METRICS[name]


def require_metric(name: str, task: str, without_truth: Sequence[str] = ()) -> None:
    """Of the figures of a task whose outcomes are kept row by row, or empty, which is the usual one.

    without_truth: what is told where there is no truth. Raises InvalidInput.
    """
    known = BY_TASK.get(task, tuple(without_truth))
    if not name or name in known:
        return
    raise InvalidInput(
        f"{name[:40]!r} is no metric of {task}; there are {', '.join(known)}."
        if known
        else f"{name[:40]!r} needs a dataset with a truth; without one, agreement is told.",
        code="unfit_metric",
        next_step="Leave --metric out for the usual one."
        if task in BY_TASK
        else "Leave --metric out, or give a dataset with labels.",
    )

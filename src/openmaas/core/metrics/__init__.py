"""How good answers are: figures with their 95% intervals, and differences of two versions over the same rows.

Intervals are percentile bootstraps over rows (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13); those of
differences are paired: each resample takes the same rows of both. Rows that depend on each other, as passages of a document do,
are drawn together. Rows with equal truth and answers are drawn as multinomial counts, which is the same distribution and much
faster. There are 2,000 resamples; of more than 10,000 rows that are all different fewer, 500 at the least.

A resample never holds what no row has shown, so that flawless answers would seem certain. There the interval is widened:
accuracy always to Wilson's interval (1927); a paired difference of accuracies to Bonett and Price's (2012), and without any
discordant row to the exact bound of a share never seen in n rows, 1 - 0.025^(1/n), about 3.7 / n (the two-sided rule of
three); macro averages without an error to the mean over classes of Jeffreys posteriors, Beta(1/2, rows + 1/2).

Nor do resamples tell enough where few rows are answered otherwise: of a count k they reach the bound of Poisson(k), and the
exact one is nearly that of Poisson(k + 1) (Garwood, 1936). So paired differences of macro averages are resampled with one more
of the rows that got worse, for the bound on that side, and likewise of those that got better. In those of numbers and of losses
one more row changes, by as much as any may (differences.py); where no row does, the unseen ones are taken to be like the worst.
"""

from __future__ import annotations

from openmaas.core.metrics.catalogue import BY_TASK, METRICS, find_metric, require_metric
from openmaas.core.metrics.classification import class_figures, confusion
from openmaas.core.metrics.differences import loss, paired_difference
from openmaas.core.metrics.intervals import estimate
from openmaas.core.metrics.metric import Metric
from openmaas.core.metrics.outcomes import MOST_ROWS, Answered, Kind, decode_outcomes, encode_outcomes
from openmaas.core.metrics.resampling import unseen_share

__all__ = [
    "BY_TASK", "METRICS", "MOST_ROWS", "Answered", "Kind", "Metric", "class_figures", "confusion", "decode_outcomes",
    "encode_outcomes", "estimate", "find_metric", "loss", "paired_difference", "require_metric", "unseen_share",
]  # fmt: skip

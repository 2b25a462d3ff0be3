"""Evaluations of versions on datasets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class EvaluationInfo:
    """A version on a dataset: both exact references. value: of the metric.

    evaluation: openmaas.core.evaluations.Evaluation as JSON, without the outcomes of single rows.
    """

    id: int
    version: str
    dataset: str
    metric: str
    value: float
    evaluation: dict[str, Any]
    job: str
    actor: str
    at: float

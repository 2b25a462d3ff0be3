"""Lineage: which version was made of which."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class LineageLink:
    """A version that another was made with besides its parent, or a dataset that is deleted.

    role: teacher, student, merged or base; of a dataset, data, evaluation or calibrated. note: of a dataset, who deleted it,
    and why.
    """

    role: str
    version: str
    deleted: bool
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class LineageNode:
    """A version in the tree of those that were made of each other.

    recipe: short; details: all that is kept of how it was made, as JSON. quality: of its newest evaluation: metric, value,
    low, high, dataset, job and at. loss: of quality to its baseline, as openmaas.core.evaluations.Estimate.
    """

    version: str
    number: int
    digest: str
    format: str
    size: int
    deleted: bool
    aliases: list[str]
    created_at: float
    created_by: str
    parent: str | None = None
    recipe: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    links: list[LineageLink] = field(default_factory=list)
    quality: dict[str, Any] | None = None
    loss: dict[str, Any] | None = None
    baseline: str = ""
    dominated: bool = False


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """A version's ancestors and descendants, parents before children. complete: False where there are more than were told."""

    version: str
    nodes: list[LineageNode]
    complete: bool = True

"""Gates: when an alias or a deployment may move, and what was decided."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from openmaas.core.resources.base import STRICT

GateTarget = Literal["alias", "deployment"]


@dataclass(frozen=True, kw_only=True)
class GateRequest:
    """When an alias or a deployment may move: as openmaas.core.evaluations.Rules, whose metric is chosen where it is empty.

    data, baseline: references. Left empty, they are those of the gate that is there or was taken away; where there was none,
    the dataset of the newest evaluation of a version of the model, and the version that the alias or the deployment stands at,
    or the newest.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = STRICT
    data: str = ""
    baseline: str = ""
    metric: str = ""
    max_loss: float | None = None
    minimum: float | None = None
    max_p99: float | None = None
    max_size: int | None = None
    max_cost: float | None = None


@dataclass(frozen=True, kw_only=True)
class GateInfo:
    """A gate. rules: openmaas.core.evaluations.Rules as JSON. notes: what was chosen when it was set, and why."""

    model: str
    target: GateTarget
    name: str
    rules: dict[str, Any]
    actor: str
    at: float
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class GateVerdict:
    """A version held against a gate, without a move. checks: openmaas.core.evaluations.Check of each rule as JSON."""

    gate: GateInfo
    version: str
    passed: bool
    checks: list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class GateTrial:
    """Hold the model's version with this number against a gate. engine: that would serve it; empty is the one that serves
    it, or would where none is asked for."""

    __pydantic_config__: ClassVar[dict[str, str]] = STRICT
    number: int
    engine: str = ""


@dataclass(frozen=True, kw_only=True)
class GateDecision:
    """What a gate decided of one wish to move, with its evidence. `forced` by the actor, for the reason."""

    id: int
    model: str
    target: GateTarget
    name: str
    number: int
    previous: int | None
    outcome: Literal["passed", "refused", "forced"]
    rules: dict[str, Any]
    checks: list[dict[str, Any]]
    reason: str
    actor: str
    at: float

"""Jobs: what is asked for, how far it is and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from openmaas.core.resources.base import STRICT, CauseInfo

JobState = Literal["queued", "running", "cancelling", "succeeded", "failed", "cancelled"]


@dataclass(frozen=True, kw_only=True)
class JobRequest:
    """Begin a job. `arguments` are those of its kind (openmaas.core.jobs)."""

    __pydantic_config__: ClassVar[dict[str, str]] = STRICT
    kind: str
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class JobInfo:
    """A job as it stands.

    subject: the version that it is about, digits:3, or empty. attempt: counts from 1, one more with each retry.
    stage, done, total: what it does and how far it is; total 0 where that cannot be said. result: of one that succeeded,
    None in a list where it has more than 16 KiB. cause: of one that failed. measures: runs alone, so that its figures are not
    disturbed. pid: while its process runs.
    """

    id: str
    project: str
    kind: str
    subject: str
    arguments: dict[str, Any]
    state: JobState
    attempt: int
    stage: str
    done: float
    total: float
    result: dict[str, Any] | None
    cause: CauseInfo | None
    measures: bool
    actor: str
    pid: int | None
    created_at: float
    started_at: float | None
    ended_at: float | None

    @property
    def ended(self) -> bool:
        return self.state in ("succeeded", "failed", "cancelled")


@dataclass(frozen=True, kw_only=True)
class JobReport:
    """What a job's own process tells: how far it is, and once its result or the cause of its failure, which ends it."""

    __pydantic_config__: ClassVar[dict[str, str]] = STRICT
    stage: str = ""
    done: float = 0.0
    total: float = 0.0
    result: dict[str, Any] | None = None
    cause: CauseInfo | None = None

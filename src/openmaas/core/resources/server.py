"""The server itself: its processes, what its operator approves, frees and diagnoses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from openmaas.core.resources.base import STRICT


@dataclass(frozen=True, kw_only=True)
class ProcessInfo:
    name: str
    state: str
    pid: int | None
    restarts: int
    memory: int
    url: str | None


@dataclass(frozen=True, kw_only=True)
class ServerStatus:
    """`openmaas status`. supervised: whether control has heard from the supervisor within the last seconds.

    deployments and jobs: how many are in which state; jobs only those that have not ended.
    """

    version: str
    control_url: str
    gateway_url: str
    home: str
    database: str
    supervised: bool
    processes: list[ProcessInfo]
    deployments: dict[str, int]
    jobs: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A line of `openmaas doctor`."""

    check: str
    ok: bool
    message: str
    next_step: str | None = None


@dataclass(frozen=True, kw_only=True)
class Approval:
    """An admin's word that a file which runs code when it is loaded (a pickle) may be loaded: by its digest."""

    sha256: str
    reason: str
    actor: str
    at: float


@dataclass(frozen=True, kw_only=True)
class ApprovalRequest:
    __pydantic_config__: ClassVar[dict[str, str]] = STRICT
    sha256: str
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class GcReport:
    """What garbage collection would free (`done` False) or has freed. jobs: that ended long ago and no result needs; `bytes`
    counts their logs too."""

    blobs: int
    bytes: int
    uploads: int
    done: bool
    digests: list[str]
    jobs: int = 0

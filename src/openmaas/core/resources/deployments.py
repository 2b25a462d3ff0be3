"""Deployments, their replicas and their history."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from openmaas.core.resources.base import STRICT, CauseInfo


@dataclass(frozen=True, kw_only=True)
class DeployRequest:
    """Deploy a version. `version` is a reference: digits, digits:3, digits@champion. `name` defaults to the model's.

    engine: auto follows a measurement; a name such as openvino:bf16 forces one. weights: of what generates text, as
    openmaas.core.generation.WEIGHTS has them. memory: bytes for each replica, None for no limit. threads: of the engine, 0
    shares the cores. max_batch: rows, of what generates text sequences that run together. max_queue: requests. max_wait and
    timeout: seconds. max_tokens: of one batch with its padding, where rows are sequences; 0 for a default.
    max_batch, max_queue and timeout are 32, 1024 and 60 where they are None; for what generates text 16, 128 and 600.
    force: although the deployment's gate refuses, for the reason that is kept with it.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = STRICT
    version: str
    name: str | None = None
    replicas: int = 1
    memory: int | None = None
    threads: int = 0
    max_batch: int | None = None
    max_queue: int | None = None
    max_wait: float = 0.0
    timeout: float | None = None
    max_tokens: int = 0
    engine: str = "auto"
    weights: str = "auto"
    force: bool = False
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class EngineInfo:
    """The engine of a deployment, as after --engine. threads: 0 where it takes its replica's share. why: how it was chosen."""

    name: str
    threads: int
    why: str


@dataclass(frozen=True, kw_only=True)
class ReplicaInfo:
    """A row of `openmaas ps`. `state` as in contracts.ReplicaState; `memory` resident bytes; `since` Unix seconds."""

    id: str
    deployment: str
    version: int
    pid: int | None
    state: str
    restarts: int
    memory: int
    since: float
    cause: CauseInfo | None


@dataclass(frozen=True, kw_only=True)
class DeploymentInfo:
    """A deployment as it stands.

    state: starting (nothing serves yet), ready, updating (the old revision serves while the new one starts), failed (the
    last revision did not come up; `serving` says whether an older one still answers), stopped.
    version and serving: version numbers of the newest revision and of the one that answers.
    engine: of the revision whose replicas are counted; None until one is chosen. measuring: the job that this waits for.
    """

    name: str
    project: str
    model: str
    state: Literal["starting", "ready", "updating", "failed", "stopped"]
    revision: int
    version: int
    serving: int | None
    replicas: int
    ready: int
    options: dict[str, Any]
    cause: CauseInfo | None
    updated_at: float
    actor: str
    engine: EngineInfo | None = None
    measuring: str | None = None


@dataclass(frozen=True, kw_only=True)
class DeploymentMove:
    """One row of a deployment's history. `action` is deploy, rollback or undeploy; `state` what became of it."""

    deployment: str
    revision: int
    model: str
    version: int
    action: Literal["deploy", "rollback", "undeploy"]
    state: Literal["starting", "ready", "failed", "superseded", "stopped"]
    cause: CauseInfo | None
    actor: str
    at: float

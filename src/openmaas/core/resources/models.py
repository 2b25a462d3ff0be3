"""Models, their versions, and the aliases that name one of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from openmaas.core.resources.base import STRICT


@dataclass(frozen=True, kw_only=True)
class ModelSummary:
    """A row of `openmaas ls`."""

    name: str
    project: str
    versions: int
    latest: int | None
    format: str | None
    size: int
    aliases: dict[str, int]
    updated_at: float


@dataclass(frozen=True, kw_only=True)
class VersionInfo:
    """A version, whole. `manifest` is openmaas.core.manifest.Manifest as JSON; `digest` is its SHA-256.

    measurement: openmaas.core.measurement.Measurement as JSON, the newest on this server's processor, with the `job` and `at`;
    measuring: id of a job that is at it. variant: openmaas.core.evaluations.Entrant as JSON, what the newest comparison with a
    version that it was made of said, with `baseline`, `baseline_figures`, `metric`, `dataset`, `job` and `at`. serving: for
    each engine by which deployments serve it, its name (`engine`), a `deployment`, and the `choice`, an
    openmaas.core.manifest.EngineChoice as JSON. These are only told of a version that is asked for by itself.
    """

    model: str
    project: str
    number: int
    digest: str
    format: str
    engine: str
    size: int
    manifest: dict[str, Any]
    metadata: dict[str, Any]
    card: str
    aliases: list[str]
    created_at: float
    created_by: str
    parent: str | None
    recipe: str | None
    measurement: dict[str, Any] | None = None
    measuring: str | None = None
    variant: dict[str, Any] | None = None
    serving: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class VersionChange:
    """Free metadata and the card of a version; None leaves them as they are."""

    __pydantic_config__: ClassVar[dict[str, str]] = STRICT
    metadata: dict[str, Any] | None = None
    card: str | None = None


@dataclass(frozen=True, kw_only=True)
class AliasMove:
    """One row of an alias's history. `number` is None where the alias was removed; `action` is set, rollback or remove."""

    id: int
    model: str
    alias: str
    number: int | None
    previous: int | None
    action: Literal["set", "rollback", "remove"]
    actor: str
    at: float


@dataclass(frozen=True, kw_only=True)
class AliasChange:
    """Move an alias to the version with this number. force: although its gate refuses, for the reason that is kept with it."""

    __pydantic_config__: ClassVar[dict[str, str]] = STRICT
    number: int
    force: bool = False
    reason: str = ""

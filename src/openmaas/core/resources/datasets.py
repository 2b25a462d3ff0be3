"""Datasets and their versions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class DatasetSummary:
    """A row of `openmaas data ls`: format, rows and size (bytes) of the newest version."""

    name: str
    project: str
    versions: int
    latest: int
    format: str
    purpose: str
    rows: int
    size: int
    updated_at: float


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """A dataset's version, whole. `manifest` is openmaas.core.datasets.DatasetManifest as JSON; `digest` is its SHA-256."""

    name: str
    project: str
    number: int
    digest: str
    format: str
    purpose: str
    rows: int
    size: int
    manifest: dict[str, Any]
    created_at: float
    created_by: str

    @property
    def reference(self) -> str:
        return f"{self.name}:{self.number}"


@dataclass(frozen=True, kw_only=True)
class DatasetPushResult:
    """What came of a completed upload of a dataset. `created` is False when the newest version is the same already.

    left_out: hidden files of the pushed folder; only the client that did not send them knows.
    """

    dataset: DatasetInfo
    created: bool
    stored_bytes: int
    left_out: tuple[str, ...] = ()

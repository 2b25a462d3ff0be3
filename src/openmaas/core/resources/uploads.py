"""Uploads: files on their way to a version of a model or of a dataset."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from openmaas.core.resources.base import STRICT
from openmaas.core.resources.models import VersionInfo


@dataclass(frozen=True, kw_only=True)
class UploadFile:
    """A file to come. `path` relative with '/', `size` in bytes, `sha256` in lower-case hex."""

    __pydantic_config__: ClassVar[dict[str, str]] = STRICT
    path: str
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class UploadRequest:
    """Begin, or find again, an upload: the same name and files give the same upload, so that a killed one goes on.

    sample: path of the file among `files` that holds sample inputs, if there is one. parity: what the client compared where
    it converted a live object (openmaas.core.manifest.Parity as JSON).
    kind: what becomes of it; a dataset has a name, files and perhaps a label: the column that is predicted.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = STRICT
    name: str
    files: list[UploadFile]
    project: str = "default"
    sample: str | None = None
    parity: dict[str, Any] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    card: str | None = None
    parent: str | None = None
    recipe: str | None = None
    kind: Literal["model", "dataset"] = "model"
    label: str | None = None


@dataclass(frozen=True, kw_only=True)
class UploadInfo:
    """How far an upload is. `offsets` gives, by sha256, the bytes already there of each file that is not complete;
    a digest that is missing from it needs no more bytes. An answer to bytes speaks of their files alone."""

    id: str
    name: str
    chunk_size: int
    offsets: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class PushResult:
    """What came of a completed upload. `created` is False when the newest version had exactly these files already.

    jobs: ids of those that were begun by it, such as the measurement of engines.
    left_out: files of the pushed folder that the model does without; only the client that did not send them knows.
    """

    version: VersionInfo
    created: bool
    stored_bytes: int
    left_out: tuple[str, ...] = ()
    jobs: list[str] = field(default_factory=list)

"""The seam that every kind of job fits: a function that is given a Job and returns its result."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from openmaas.core.datasets import DatasetManifest
from openmaas.core.manifest import Manifest
from openmaas.core.settings import Settings


class Job(Protocol):
    """What a running task is given.

    arguments: checked when the job was submitted. scratch: an empty folder, gone afterwards. settings: the server's.
    client: openmaas.Client for this server and project, good while the job runs (typed loosely: it is imported late).
    """

    id: str
    kind: str
    arguments: dict[str, Any]
    scratch: Path
    settings: Settings

    @property
    def client(self) -> Any: ...

    def progress(self, stage: str, done: float = 0.0, total: float = 0.0) -> None:
        """Tell how far it is; total 0 where that cannot be said. Cheap: told on at most a few times a second.

        Raises Cancelled when somebody has cancelled the job.
        """

    def log(self, line: str) -> None:
        """A line for `openmaas jobs logs`."""

    def files(self, reference: str) -> tuple[Manifest, Path]:
        """A version's manifest and a folder with its files, digests checked, only to be read."""

    def dataset(self, reference: str) -> tuple[DatasetManifest, Path]:
        """A dataset's manifest and a folder with its files, digests checked, only to be read."""

    def environment(self, name: str) -> Path:
        """The interpreter of an environment of its own (tasks/environments/NAME.txt), made now where it was not made before."""

    def alone(self) -> AbstractContextManager[None]:
        """Hold this machine's measuring lock: no other job that measures runs meanwhile."""


class Task(Protocol):
    """An entry point of the group: what the job does. Its return value, plain JSON, is the job's result.

    Raises OpenMaaSError for a failure with a cause, Cancelled when it was cancelled.
    """

    def __call__(self, job: Job) -> dict[str, Any]: ...

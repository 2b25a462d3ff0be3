"""What runs, as the supervisor last told it. In memory alone: after a restart of control it is told again, whole."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from openmaas.core.contracts import JobStatus, Observed, ProcessStatus, ReplicaStatus

_SUPERVISED = 5.0  # seconds; the supervisor reports at least every 2 s


class Fleet:
    """The newest Observed, and what gateways were told of it. Thread-safe: each is replaced whole.

    routed: the revision that each deployment's requests go to, by project and name, as gateways were last told; None before.
    desired: the version of the newest Desired that was pushed. job_keys: keys of jobs whose processes have not been seen yet,
    by the pair of id and start; nowhere else are they in plain.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._heard: float | None = None
        self._observed = Observed(desired=-1)
        self._replicas: dict[str, ReplicaStatus] = {}
        self.routed: dict[tuple[str, str], int] | None = None
        self.desired = -1
        self.job_keys: dict[tuple[str, int], str] = {}

    def take(self, observed: Observed) -> bool:
        """Remember it. True when replicas came, left, or moved, which gateways must be told."""
        replicas = {status.id: status for status in observed.replicas}
        with self._lock:
            moved = self._heard is None or _places(replicas) != _places(self._replicas)
            self._observed, self._replicas, self._heard = observed, replicas, self._clock()
        return moved

    @property
    def heard(self) -> bool:
        """Whether the supervisor has told anything since control started."""
        return self._heard is not None

    @property
    def supervised(self) -> bool:
        """Whether the supervisor has been heard within the last seconds."""
        return self._heard is not None and self._clock() - self._heard < _SUPERVISED

    @property
    def processes(self) -> tuple[ProcessStatus, ...]:
        return self._observed.processes

    @property
    def jobs(self) -> dict[tuple[str, int], JobStatus]:
        """Processes of jobs, by id and start."""
        return {(status.id, status.attempt): status for status in self._observed.jobs}

    @property
    def replicas(self) -> dict[str, ReplicaStatus]:
        """By replica id."""
        return self._replicas


def _places(replicas: dict[str, ReplicaStatus]) -> dict[str, str]:
    return {name: status.address for name, status in replicas.items()}

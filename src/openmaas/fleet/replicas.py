"""All replicas of this machine: those that are desired run, any other is drained and stopped."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec

from openmaas.core.contracts import Desired, JobSpec, ReplicaSpec, ReplicaStatus
from openmaas.core.settings import Settings
from openmaas.fleet.keeper import Keeper
from openmaas.fleet.output import LogFile, Output
from openmaas.fleet.process import Launch
from openmaas.fleet.watch import ReplicaWatch

_LONGEST_SOCKET_PATH = 100
GRACE_BEYOND_DRAIN = 5.0


class Commands(Protocol):
    """How each kind of process is started."""

    def control(self) -> Launch: ...
    def gateway(self, index: int) -> Launch: ...
    def replica(self, spec: ReplicaSpec, address: str) -> Launch: ...
    def job(self, spec: JobSpec, lock: int) -> Launch: ...


class Replicas:
    """Keeps the replicas in step with the newest Desired."""

    def __init__(self, settings: Settings, commands: Commands, on_change: Callable[[], None]) -> None:
        self._settings = settings
        self._commands = commands
        self._on_change = on_change
        self._desired = Desired(version=-1)
        self._keepers: dict[str, Keeper] = {}
        self._leaving: dict[str, asyncio.Task[None]] = {}
        self._logs: dict[str, LogFile] = {}
        self._closed = False

    @property
    def version(self) -> int:
        """The version of Desired that the replicas follow."""
        return self._desired.version

    def apply(self, desired: Desired) -> None:
        """Start what is missing, stop what is no longer wanted."""
        if self._closed:
            return
        self._desired = desired
        wanted = {spec.id for spec in desired.replicas}
        for name in self._keepers.keys() - wanted - self._leaving.keys():
            self._leaving[name] = asyncio.create_task(self._dismiss(name), name=f"stop {name}")
        for spec in desired.replicas:
            if spec.id not in self._keepers:
                self._start(spec)
        self._on_change()

    def statuses(self) -> tuple[ReplicaStatus, ...]:
        return tuple(
            ReplicaStatus(
                id=keeper.name,
                state=keeper.state,
                address=address_of(keeper.name, self._settings),
                pid=keeper.running_pid,
                restarts=max(0, keeper.restarts.starts - 1),
                memory=keeper.memory,
                since=keeper.since,
                cause=keeper.cause,
            )
            for keeper in self._keepers.values()
        )

    async def stop(self) -> None:
        """Drain and stop all of them."""
        self._closed = True
        await asyncio.gather(*(keeper.stop() for keeper in self._keepers.values()))

    def kill(self) -> None:
        for keeper in self._keepers.values():
            keeper.kill()

    def _start(self, spec: ReplicaSpec) -> None:
        address = address_of(spec.id, self._settings)
        keeper = Keeper(
            spec.id,
            lambda: self._commands.replica(self._with_threads(spec), address),
            ReplicaWatch(address, spec.memory, self._settings),
            Output(self._log(spec.deployment), label=spec.id),
            grace=self._settings.drain_timeout + GRACE_BEYOND_DRAIN,
            next_step=f"openmaas logs {spec.deployment}",
            on_change=self._on_change,
        )
        self._keepers[spec.id] = keeper
        keeper.start()

    async def _dismiss(self, name: str) -> None:
        await self._keepers[name].stop()
        del self._keepers[name], self._leaving[name]
        Path(address_of(name, self._settings).removeprefix("unix:")).unlink(missing_ok=True)
        self.apply(self._desired)  # it may be wanted again since

    def _log(self, deployment: str) -> LogFile:
        """One log for each deployment, through all its revisions."""
        path = self._settings.home_path / "logs" / "deployments" / f"{deployment}.log"
        return self._logs.setdefault(deployment, LogFile(path))

    def _with_threads(self, spec: ReplicaSpec) -> ReplicaSpec:
        if spec.threads:
            return spec
        return msgspec.structs.replace(spec, threads=share_of_cores(self._desired, len(os.sched_getaffinity(0))))


def share_of_cores(desired: Desired, cores: int) -> int:
    """Threads for a replica that names none: an even share. A revision that the next one replaces does not count."""
    newest: dict[str, int] = {}
    for spec in desired.replicas:
        newest[spec.deployment] = max(spec.revision, newest.get(spec.deployment, 0))
    staying = sum(spec.revision == newest[spec.deployment] for spec in desired.replicas)
    return max(1, cores // max(1, staying))


def address_of(name: str, settings: Settings) -> str:
    """Where a replica listens: the same across its restarts. A name too long for a socket path becomes a digest."""
    path = settings.runtime_path / f"{name}.sock"
    if len(os.fsencode(path)) > _LONGEST_SOCKET_PATH:
        path = path.with_name(f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.sock")
    return f"unix:{path}"

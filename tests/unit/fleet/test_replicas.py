"""Desired and actual replicas, with fake replicas as processes."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import msgspec

from openmaas.core.contracts import Desired, ReplicaSpec
from openmaas.core.manifest import Manifest
from openmaas.core.settings import Settings
from openmaas.core.types import Signature
from openmaas.fleet.process import Launch
from openmaas.fleet.replicas import Replicas, address_of, share_of_cores

from .conftest import child, until

MANIFEST = Manifest(format="dummy", engine="dummy", entry="", signature=Signature(inputs=(), outputs=()), files=())


def spec(deployment: str = "digits", revision: int = 1, index: int = 0, **more: object) -> ReplicaSpec:
    return ReplicaSpec(
        id=f"{deployment}-{revision}-{index}",
        deployment=deployment,
        revision=revision,
        project="default",
        model=deployment,
        version=revision,
        digest="",
        manifest=MANIFEST,
        **more,  # type: ignore[arg-type]
    )


class Fakes:
    """Starts the fake replica and notes with which specs."""

    def __init__(self, *behaviours: str) -> None:
        self.behaviours = behaviours
        self.specs: list[ReplicaSpec] = []

    def control(self) -> Launch:
        raise AssertionError

    def gateway(self, index: int) -> Launch:
        raise AssertionError

    def replica(self, spec: ReplicaSpec, address: str) -> Launch:
        self.specs.append(spec)
        return child(address, *self.behaviours)


def states(replicas: Replicas) -> dict[str, str]:
    return {status.id: status.state for status in replicas.statuses()}


async def test_what_is_desired_runs_and_nothing_else(settings: Settings) -> None:
    changes = asyncio.Event()
    replicas = Replicas(settings, Fakes("answered=1"), changes.set)
    replicas.apply(Desired(version=1, replicas=(spec(), spec(index=1))))
    await until(lambda: states(replicas) == {"digits-1-0": "ready", "digits-1-1": "ready"})
    assert changes.is_set()
    assert replicas.version == 1
    status = replicas.statuses()[0]
    assert status.address == f"unix:{settings.runtime_path}/digits-1-0.sock"
    assert status.pid is not None
    replicas.apply(Desired(version=2, replicas=(spec(index=1), spec(revision=2))))
    await until(lambda: states(replicas) == {"digits-1-1": "ready", "digits-2-0": "ready"})
    assert not Path(status.address.removeprefix("unix:")).exists()
    await replicas.stop()
    assert set(states(replicas).values()) == {"stopped"}


async def test_one_that_is_wanted_again_while_it_drains_comes_back(settings: Settings) -> None:
    replicas = Replicas(settings, Fakes(), lambda: None)
    replicas.apply(Desired(version=1, replicas=(spec(),)))
    await until(lambda: states(replicas) == {"digits-1-0": "ready"})
    first = replicas.statuses()[0].pid
    replicas.apply(Desired(version=2))
    replicas.apply(Desired(version=3, replicas=(spec(),)))
    await until(lambda: states(replicas) == {"digits-1-0": "ready"} and replicas.statuses()[0].pid != first)
    await replicas.stop()


async def test_a_stopped_replica_is_replaced_and_its_neighbour_is_not(settings: Settings) -> None:
    replicas = Replicas(settings, Fakes("answered=1"), lambda: None)
    replicas.apply(Desired(version=1, replicas=(spec(), spec("other"))))
    await until(lambda: set(states(replicas).values()) == {"ready"})
    stopped, neighbour = (status.pid for status in replicas.statuses())
    assert stopped is not None
    os.kill(stopped, signal.SIGSTOP)
    await until(lambda: (now := replicas.statuses()[0]).state == "ready" and now.pid != stopped)
    assert replicas.statuses()[0].restarts == 1
    assert replicas.statuses()[1].pid == neighbour
    await replicas.stop()


async def test_a_failed_one_stays_failed_until_it_is_no_longer_desired(settings: Settings) -> None:
    replicas = Replicas(settings, Fakes("cause=engine_not_found", "say=hello"), lambda: None)
    replicas.apply(Desired(version=1, replicas=(spec(),)))
    await until(lambda: states(replicas) == {"digits-1-0": "failed"})
    cause = replicas.statuses()[0].cause
    assert cause is not None
    assert (cause.code, cause.stderr, cause.next_step) == ("engine_not_found", ("hello",), "openmaas logs digits")
    assert "digits-1-0 | hello" in (settings.home_path / "logs" / "deployments" / "digits.log").read_text()
    replicas.apply(Desired(version=2))
    await until(lambda: not states(replicas))


async def test_threads_are_shared_where_none_are_asked_for(settings: Settings) -> None:
    fakes = Fakes()
    replicas = Replicas(settings, fakes, lambda: None)
    replicas.apply(Desired(version=1, replicas=(spec(), spec("other", threads=7))))
    await until(lambda: len(fakes.specs) == 2)
    cores = len(os.sched_getaffinity(0))
    assert sorted(one.threads for one in fakes.specs) == sorted((max(1, cores // 2), 7))
    await replicas.stop()


def test_a_revision_that_is_being_replaced_takes_no_share() -> None:
    old, new = spec(), spec(revision=2)
    assert share_of_cores(Desired(version=1, replicas=(old,)), 8) == 8
    assert share_of_cores(Desired(version=1, replicas=(old, new)), 8) == 8
    assert share_of_cores(Desired(version=1, replicas=(new, spec("other"))), 8) == 4
    assert share_of_cores(Desired(version=1, replicas=tuple(spec(index=index) for index in range(64))), 2) == 1


def test_a_long_name_still_has_an_address(settings: Settings) -> None:
    long = msgspec.structs.replace(settings, runtime_dir="/tmp/" + "r" * 50)
    first, second = (address_of("d" * 60 + f"-1-{index}", long) for index in range(2))
    assert first != second
    assert max(len(first), len(second)) <= len("unix:") + 100

"""Optimisations that are killed, cancelled or find no room: one end each, nothing half registered, and a retry works."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from openmaas.client import JobFailed
from openmaas.core.errors import Cancelled, StorageFull
from openmaas.core.resources import JobInfo

from .compression import World, make_world
from .conftest import Server, alive, make_server, stop_all
from .test_compression import reached, wait

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TRAINED = [{"prune": {"method": "global", "amount": 0.5, "epochs": 12}}, "compress"]
PHASES = ("training", "examining", "comparing", "timing", "registering")


@pytest.fixture(scope="module")
def world(server: Server, tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(server, tmp_path_factory.mktemp("files"))


def begin(world: World, seed: int, **options: Any) -> JobInfo:
    """An optimisation of which each seed makes another file."""
    recipe = {"seed": seed, "steps": TRAINED}
    client = world.server.client()
    return client.optimize("digits:1", recipe=recipe, data="digits-train", evaluation="digits-test", seconds=2.0, **options)


def seen(world: World, job: JobInfo, stage: str) -> int:
    """The pid of its process as soon as its log tells of a stage; a stage may be over before it is asked for."""
    log = world.server.home / "logs" / "jobs" / f"{job.id}.log"
    pid = wait(lambda: world.server.client().job(job.id).pid, f"{job.id} has a process")
    wait(lambda: log.exists() and stage in log.read_text(), f"{job.id} is at {stage!r}", 120)
    return int(pid)


def descendants(pid: int) -> list[int]:
    found: list[int] = []
    waiting = [pid]
    while waiting:
        for task in Path(f"/proc/{waiting.pop()}/task").glob("*/children"):
            try:
                children = [int(child) for child in task.read_text().split()]
            except OSError:
                continue
            found += children
            waiting += children
    return found


def test_phases_are_all_there_and_told(world: World) -> None:
    job = begin(world, 1)
    done = world.server.client().wait_job(job.id, timeout=180)
    log = (world.server.home / "logs" / "jobs" / f"{job.id}.log").read_text()
    assert [phase for phase in PHASES if phase not in log] == []
    assert done.result is not None and done.result["created"]
    world.nothing_is_left()


@pytest.mark.parametrize("phase", PHASES)
def test_killed_in_a_phase(world: World, phase: str) -> None:
    client, before = world.server.client(), world.versions()
    job = begin(world, 100 + PHASES.index(phase))
    pid = seen(world, job, phase)
    children = descendants(pid)
    os.kill(pid, signal.SIGKILL)
    try:
        client.wait_job(job.id, timeout=90)
    except JobFailed as failed:
        assert failed.code == "job_killed", failed
    else:
        pytest.skip("it ended before it was killed")
    world.nothing_is_left()
    assert not [child for child in children if alive(child)]
    registered = world.versions()
    assert registered == before or (phase == "registering" and len(registered) == len(before) + 1)
    if phase in ("training", "registering"):
        client.retry_job(job.id)
        done = client.wait_job(job.id, timeout=180)
        assert done.attempt == 2 and done.result is not None
        assert len(world.versions()) == len(before) + 1, "once, however often it was begun"
        assert world.server.json("lineage", done.result["version"])
        world.nothing_is_left()


@pytest.mark.parametrize("phase", ["training", "comparing", "timing"])
def test_cancelled_in_a_phase(world: World, phase: str) -> None:
    client, before = world.server.client(), world.versions()
    job = begin(world, 200 + PHASES.index(phase))
    pid = seen(world, job, phase)
    children = descendants(pid)
    world.server.run("jobs", "cancel", job.id)
    with pytest.raises(Cancelled):
        client.wait_job(job.id, timeout=90)
    ended = client.job(job.id)
    assert (ended.state, ended.result) == ("cancelled", None)
    assert not [one for one in (pid, *children) if alive(one)]
    assert world.versions() == before
    world.nothing_is_left()


def test_a_search_that_is_killed_leaves_nothing(world: World) -> None:
    client, before = world.server.client(), world.versions()
    job = client.optimize("digits:1", auto=True, data="digits-train", evaluation="digits-test", seconds=60.0)
    pid = reached(world, job, "step 1 of")
    children = descendants(pid)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(JobFailed, match="SIGKILL"):
        client.wait_job(job.id, timeout=90)
    assert world.versions() == before
    world.nothing_is_left()
    assert not [child for child in children if alive(child)]


@pytest.mark.parametrize("phase", ["training", "timing", "registering"])
def test_control_killed_in_a_phase_changes_nothing(world: World, phase: str) -> None:
    server, before = world.server, world.versions()
    job = begin(world, 300 + PHASES.index(phase))
    pid = seen(world, job, phase)
    killed = server.processes()["control"]
    os.kill(killed, signal.SIGKILL)
    wait(lambda: server.control_is_back(killed), "control is back")
    done = server.client().wait_job(job.id, timeout=180)
    assert done.state == "succeeded" and done.result is not None
    assert done.attempt == 1
    assert len(world.versions()) == len(before) + 1
    wait(lambda: not alive(pid), "its process has ended")
    kept = list(server.client().evaluations(done.result["version"]))
    assert len([one for one in kept if one.job == job.id]) == 1
    world.nothing_is_left()


def test_a_killed_supervisor_leaves_it_to_the_next(own_server: Callable[..., Server], tmp_path: Path) -> None:
    server = own_server()
    world = make_world(server, tmp_path)
    job = begin(world, 400)
    pid = seen(world, job, "training")
    processes = server.processes()
    os.kill(processes["supervisor"], signal.SIGKILL)
    wait(lambda: not any(alive(one) for one in processes.values()), "the server is gone")
    assert alive(pid)
    time.sleep(1)
    server.up()
    done = server.client().wait_job(job.id, timeout=180)
    assert done.result is not None and done.result["version"] == "digits:2"
    assert world.versions() == ["digits:1", "digits:2"]
    world.nothing_is_left()


# ── a full disk ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB; skipped where none can be mounted."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(path)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=False)


@pytest.mark.parametrize("left", [8 * 2**10, 64 * 2**10])
def test_a_full_disk_fails_the_job_and_nothing_is_half_made(small_disk: Path, tmp_path: Path, left: int) -> None:
    server = make_server(small_disk / "home")
    server.up()
    try:
        world = make_world(server, tmp_path)
        warm = begin(world, 500)
        server.client().wait_job(warm.id, timeout=180)
        before, ballast = world.versions(), small_disk / "ballast"
        free = os.statvfs(small_disk)
        ballast.write_bytes(bytes(free.f_bavail * free.f_frsize - left))
        job = None
        try:
            job = begin(world, 501)
            server.client().wait_job(job.id, timeout=240)
        except StorageFull as full:
            assert "disk is full" in str(full)
        except JobFailed as failed:
            assert "task_failed" not in failed.code, failed
        else:
            pytest.fail("it found room where there was none")
        assert world.versions() == before
        ballast.unlink()
        job = begin(world, 501) if job is None else server.client().retry_job(job.id)
        done = server.client().wait_job(job.id, timeout=180)
        assert done.result is not None and done.result["created"]
        assert len(world.versions()) == len(before) + 1
        world.nothing_is_left()
    finally:
        stop_all(server)

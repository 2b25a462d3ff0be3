"""Watches, with a fake replica as a process."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest

import openmaas.fleet.watch as module
from openmaas.core.contracts import Cause
from openmaas.core.settings import Settings
from openmaas.fleet.output import LogFile, Output
from openmaas.fleet.process import Process
from openmaas.fleet.watch import ReplicaWatch, ServiceWatch

from .conftest import child, until


class Run:
    """What a watch tells, noted."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.ready = self.progress = False
        self.memory = 0

    @property
    def pid(self) -> int:
        return self.process.pid

    def became_ready(self) -> None:
        self.ready = True

    def made_progress(self) -> None:
        self.progress = True

    def holds(self, memory: int) -> None:
        self.memory = memory


class Here(Run):
    """As if this process were the child."""

    pid = os.getpid()

    def __init__(self) -> None:
        self.ready = self.progress = False
        self.memory = 0


@pytest.fixture
async def run(tmp_path: Path, sockets: Path) -> AsyncIterator[Callable[..., object]]:
    """Starts a fake replica and a watch of it; both end with the test."""
    started: list[tuple[Process, asyncio.Task[Cause]]] = []

    async def start(
        settings: Settings, *behaviours: str, memory: int | None = None, **more: object
    ) -> tuple[Run, asyncio.Task[Cause]]:
        address = f"unix:{sockets / 'r.sock'}"
        process = await Process.start(child(address, *behaviours), Output(LogFile(tmp_path / "child.log")))
        noted = Run(process)
        task = asyncio.create_task(ReplicaWatch(address, memory, settings, **more)(noted))  # type: ignore[arg-type]
        started.append((process, task))
        return noted, task

    yield start
    for process, task in started:
        task.cancel()
        process.kill()
        await process.ended
        await asyncio.gather(task, return_exceptions=True)


async def test_ready_when_it_answers_a_ping_and_progress_when_it_answered_something(
    run: Callable[..., object], settings: Settings
) -> None:
    noted, task = await run(settings, "answered=1")
    await until(lambda: noted.progress)
    assert noted.ready
    await until(lambda: noted.memory > 2**20)
    assert not task.done()


async def test_being_ready_for_a_while_is_progress_too(run: Callable[..., object], settings: Settings) -> None:
    now = 0.0
    noted, _ = await run(settings, clock=lambda: now)
    await until(lambda: noted.ready)
    await asyncio.sleep(0.3)
    assert not noted.progress
    now = 11.0
    await until(lambda: noted.progress)


async def test_one_that_is_stopped_is_hung(run: Callable[..., object], settings: Settings) -> None:
    noted, task = await run(settings)
    await until(lambda: noted.ready)
    os.kill(noted.pid, signal.SIGSTOP)
    cause = await asyncio.wait_for(task, 60)
    assert cause.code == "hung"
    assert "1.5 s (OPENMAAS_HANG_TIMEOUT)" in cause.message


async def test_one_that_listens_and_says_nothing_is_hung(run: Callable[..., object], settings: Settings) -> None:
    noted, task = await run(settings, "deaf")
    cause = await asyncio.wait_for(task, 60)
    assert cause.code == "hung"
    assert not noted.ready


async def test_a_batch_that_never_ends_is_hung(run: Callable[..., object], settings: Settings) -> None:
    _, task = await run(msgspec.structs.replace(settings, stall_timeout=3.0), "stalled=4")
    cause = await asyncio.wait_for(task, 60)
    assert cause.code == "hung"
    assert "OPENMAAS_STALL_TIMEOUT" in cause.message


async def test_one_that_does_not_get_ready_in_time(run: Callable[..., object], settings: Settings) -> None:
    _, task = await run(msgspec.structs.replace(settings, start_timeout=0.3), "quiet")
    cause = await asyncio.wait_for(task, 60)
    assert cause.code == "start_timeout"
    assert "OPENMAAS_START_TIMEOUT" in cause.message


async def test_one_that_holds_too_much_memory(run: Callable[..., object], settings: Settings) -> None:
    _, task = await run(settings, memory=2**20)
    cause = await asyncio.wait_for(task, 60)
    assert cause.code == "memory_limit"
    assert "its limit is 1048576" in cause.message
    assert "--memory" in cause.next_step


async def test_a_service_is_ready_when_its_url_answers_200(tmp_path: Path) -> None:
    statuses = [b"503 Service Unavailable", b"200 OK"]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 " + (statuses.pop(0) if statuses else b"200 OK") + b"\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/health/ready"

    noted = Here()
    task = asyncio.create_task(ServiceWatch(url, start_timeout=60)(noted))
    await until(lambda: noted.ready and noted.memory)
    assert not statuses
    task.cancel()
    server.close()
    late = await ServiceWatch(url, start_timeout=0.1)(Here())
    assert late.code == "start_timeout"


async def test_a_service_that_goes_silent_is_hung_and_one_that_says_no_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PING", 0.02)
    silent = False
    status = b"200 OK"
    open_ends: list[asyncio.StreamWriter] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        open_ends.append(writer)
        if not silent:
            writer.write(b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\n\r\n")
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/health/ready"
    noted = Here()
    task = asyncio.create_task(ServiceWatch(url, start_timeout=60, hang_timeout=0.3)(noted))
    await until(lambda: noted.ready)
    status = b"503 Service Unavailable"
    asked = len(open_ends)
    await until(lambda: len(open_ends) >= asked + 4)
    assert not task.done()
    silent = True
    cause = await asyncio.wait_for(task, 60)
    assert cause.code == "hung"
    for writer in open_ends:
        writer.close()
    server.close()

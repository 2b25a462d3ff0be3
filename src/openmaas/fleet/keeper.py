"""Keep one child running: start it, let it be watched, start it again with back-off, or stay down and say why."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec

from openmaas.core.contracts import Cause, ReplicaState
from openmaas.core.log import get_logger
from openmaas.fleet.causes import DO_NOT_RETRY, exit_cause, told_cause, with_evidence
from openmaas.fleet.output import Output
from openmaas.fleet.process import Launch, Process
from openmaas.fleet.restarts import Restarts

_NOTHING_TO_DRAIN = 2.0  # seconds that a child has to stop which was not ready yet

_log = get_logger("process")


class Watched(Protocol):
    """What a watch sees of the start that it watches, and what it tells."""

    @property
    def pid(self) -> int: ...
    def became_ready(self) -> None: ...
    def made_progress(self) -> None: ...
    def holds(self, memory: int) -> None: ...


Watch = Callable[[Watched], Awaitable[Cause]]
"""Looks after one start. Returns only when the child must be killed, with the reason (code `hung`: the state of that name)."""


class Keeper:
    """One child under a fixed name.

    state, pid, memory (bytes), since (Unix time of the last change), cause (of the last end; None after progress).
    settled: set as soon as the first start became ready or ended.
    """

    def __init__(
        self,
        name: str,
        launch: Callable[[], Launch],
        watch: Watch,
        output: Output,
        *,
        grace: float,
        next_step: str,
        restarts: Restarts | None = None,
        on_change: Callable[[], None] = lambda: None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.name = name
        self.state: ReplicaState = "starting"
        self.since = time.time()
        self.cause: Cause | None = None
        self.memory = 0
        self.restarts = restarts or Restarts()
        self.settled = asyncio.Event()
        self._launch = launch
        self._watch = watch
        self._output = output
        self._grace = grace
        self._next_step = next_step
        self._on_change = on_change
        self._sleep = sleep
        self._process: Process | None = None
        self._was_ready = False
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    # what a watch tells

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def became_ready(self) -> None:
        self._was_ready = True
        self._enter("ready")
        self.settled.set()

    def made_progress(self) -> None:
        self.restarts.progressed()
        self.cause = None

    def holds(self, memory: int) -> None:
        self.memory = memory

    # what the supervisor asks for

    @property
    def running_pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        self._task = asyncio.create_task(self._keep(), name=self.name)

    async def stop(self) -> None:
        """Drain it: SIGTERM, and SIGKILL when its grace is over. Returns when it is gone."""
        self._stopping.set()
        if self._task is not None:
            await self._task
        self._enter("stopped")

    def kill(self) -> None:
        """End it now and do not start it again."""
        self._stopping.set()
        if self._process is not None:
            self._process.kill()

    # the life of the child

    async def _keep(self) -> None:
        while not self._stopping.is_set():
            cause = await self._run_once()
            if self._stopping.is_set():
                return
            self.cause = cause
            if self.restarts.exhausted:
                self._enter("failed")
                await self._stopping.wait()
            else:
                self._enter("backoff")
                await first_of(self._sleep(self.restarts.delay), self._stopping.wait())

    async def _run_once(self) -> Cause | None:
        """One start, to its end. Returns why it ended, None when it was asked to."""
        self._was_ready = False
        self.restarts.started()
        try:
            self._process = process = await Process.start(self._launch(), self._output)
        except OSError as error:
            return self._ended(Cause(code="spawn_failed", message=f"The system could not start it: {error.strerror}."))
        self._enter("starting")
        try:
            verdict = await first_of(self._look_after(), self._wait(process.ended), self._stopping.wait())
            if isinstance(verdict, Cause):
                self._enter("hung" if verdict.code == "hung" else self.state)
                process.kill()
            elif self._stopping.is_set():
                self._enter("draining")
                await process.stop(self._grace if self._was_ready else _NOTHING_TO_DRAIN)
            status = await process.ended
        finally:
            process.kill()
            self._process, self.memory = None, 0
        return self._ended(verdict if isinstance(verdict, Cause) else self._own_cause(status))

    async def _look_after(self) -> Cause:
        try:
            return await self._watch(self)
        except Exception as error:  # a child that nobody watches any more must not seem well
            _log.exception("watch failed", name=self.name)
            return Cause(code="internal", message=f"Watching it failed: {type(error).__name__}: {error}.")

    @staticmethod
    async def _wait(ended: asyncio.Future[int]) -> None:
        await asyncio.wait({ended})

    def _own_cause(self, status: int) -> Cause:
        told = told_cause(self._output.tail(20))
        if told is not None and status == DO_NOT_RETRY:
            self.restarts.give_up()
        return told or exit_cause(status, self._was_ready)

    def _ended(self, cause: Cause) -> Cause:
        self.settled.set()
        if self.restarts.looping:
            starts = self.restarts.fruitless
            message = f"{cause.message} It was started {starts} times in a row to no use and now stays down."
            cause = msgspec.structs.replace(cause, message=message)
        if not self._stopping.is_set():
            self._output.note(cause.message)
            _log.warning("process ended", name=self.name, code=cause.code, cause=cause.message, starts=self.restarts.starts)
        return with_evidence(cause, self._output.tail(30), self._next_step)

    def _enter(self, state: ReplicaState) -> None:
        if state != self.state:
            self.state, self.since = state, time.time()
        self._on_change()


async def first_of(*waits: Awaitable[Any]) -> Any:
    """The result of whichever ends first, the earlier one on a tie; the others are cancelled."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(task for task in tasks if task.done()).result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

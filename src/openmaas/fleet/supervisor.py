"""The root of the process tree: control, the gateways, and the replicas that control desires.

start   folders, lock, ports → control and the gateways side by side → ready when each answers 200
run     every child is restarted when it ends; replicas go on while control is away
stop    gateways first, which end what is in flight, then replicas and jobs, then control; jobs are put back
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from typing import Final, Literal

import openmaas
from openmaas.core.contracts import Desired, Observed, ProcessStatus, ReplicaState
from openmaas.core.errors import Unavailable
from openmaas.core.log import get_logger
from openmaas.core.settings import Settings, prepare_runtime
from openmaas.fleet.control_line import ControlLine
from openmaas.fleet.home import Running, clear_temporary, lock_home, own_log, prepare_home, tidy_runtime, write_note
from openmaas.fleet.jobs import Jobs
from openmaas.fleet.keeper import Keeper, first_of
from openmaas.fleet.memory import resident
from openmaas.fleet.output import LogFile, Output, bound_log
from openmaas.fleet.ports import check_exposure, claim_port
from openmaas.fleet.process import Launch
from openmaas.fleet.replicas import GRACE_BEYOND_DRAIN, Commands, Replicas
from openmaas.fleet.restarts import Restarts
from openmaas.fleet.watch import ServiceWatch

_FIRST_ANSWER = 60.0  # seconds that control (a migration) and a gateway have to answer
_SHOWN_LINES = 15
_LOOK_AT_LOG = 10.0  # seconds

ServiceState = Literal["starting", "ready", "backoff", "stopped"]
_SERVICE_STATES: Final[dict[ReplicaState, ServiceState]] = {
    "starting": "starting", "ready": "ready", "hung": "backoff", "backoff": "backoff",
    "failed": "stopped", "draining": "stopped", "stopped": "stopped",
}  # fmt: skip

_log = get_logger("supervisor")


class Supervisor:
    """One for each data folder; `on_ready` is called once, when control and the gateways answer."""

    def __init__(
        self, settings: Settings, commands: Commands, on_ready: Callable[[Running], None] = lambda running: None
    ) -> None:
        self._settings = settings
        self._on_ready = on_ready
        self._started_at = time.time()
        self._stop = asyncio.Event()
        self._changed = asyncio.Event()
        self._replicas = Replicas(settings, commands, self._changed.set)
        self._jobs = Jobs(settings, commands.job, self._changed.set)
        self._line = ControlLine(settings.control_address, self._apply, self._observe, self._changed)
        control, gateway = settings.url(settings.control_port), settings.url(settings.http_port)
        self._control = self._service("control", commands.control, f"{control}/health/ready")
        self._gateways = [
            self._service(
                f"gateway-{index}", _bind(commands.gateway, index), f"{gateway}/v2/health/ready", shared=settings.gateways > 1
            )
            for index in range(settings.gateways)
        ]

    async def run(self) -> None:
        """Start everything, keep it running until SIGTERM, SIGINT or SIGHUP, and stop it in order.

        Raises Conflict when the home or a port is taken, Refused when keys would travel readable, and Unavailable with the
        last lines of its log when control or a gateway does not come up.
        """
        settings = self._settings
        check_exposure(settings)
        prepare_home(settings)
        with lock_home(settings):
            prepare_runtime(settings)
            try:
                clear_temporary(settings)
                self._jobs.adopt()
                await asyncio.gather(claim_port(settings, "http_port"), claim_port(settings, "control_port"))
                self._listen_to_signals()
                write_note(settings, self._running(ready=False))
                try:
                    await self._serve()
                finally:
                    await self._stop_children()
            finally:
                tidy_runtime(settings)

    # start and run

    async def _serve(self) -> None:
        for keeper in self._services:
            keeper.start()
        line = asyncio.create_task(self._line.run(), name="control line")
        jobs = asyncio.create_task(self._jobs.watch(), name="jobs")
        log = asyncio.create_task(self._bound_own_log(), name="log")
        try:
            await first_of(self._stop.wait(), self._until_ready())
            if not self._stop.is_set():
                self._tell_ready()
            await self._stop.wait()
        finally:
            for task in (line, jobs, log):
                task.cancel()
            await asyncio.gather(line, jobs, log, return_exceptions=True)

    async def _bound_own_log(self) -> None:
        """Where it was started apart, its output goes to a file that nobody else looks after."""
        while True:
            bound_log(own_log(self._settings))  # here, so that nothing is written between the copy and the emptying
            await asyncio.sleep(_LOOK_AT_LOG)

    async def _until_ready(self) -> None:
        for settled in asyncio.as_completed([_came_up(keeper) for keeper in self._services]):
            await settled

    def _tell_ready(self) -> None:
        running = self._running(ready=True)
        write_note(self._settings, running)
        seconds = round(time.time() - self._started_at, 3)
        _log.info("ready", control=running.control_url, gateway=running.gateway_url, seconds=seconds)
        self._on_ready(running)

    def _service(self, name: str, launch: Callable[[], Launch], health: str, shared: bool = False) -> Keeper:
        return Keeper(
            name,
            launch,
            ServiceWatch(health, _FIRST_ANSWER, None if shared else self._settings.hang_timeout),
            Output(LogFile(self._settings.home_path / "logs" / f"{name}.log")),
            grace=self._settings.drain_timeout + GRACE_BEYOND_DRAIN,
            next_step="openmaas doctor",
            restarts=Restarts(attempts=None),
            on_change=self._changed.set,
        )

    # stop

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._on_signal)

    def _on_signal(self) -> None:
        """The first asks everything to drain; the second ends it now."""
        if not self._stop.is_set():
            _log.info("stopping", next="a second signal ends everything at once")
            self._stop.set()
            return
        for keeper in self._services:
            keeper.kill()
        self._replicas.kill()
        self._jobs.kill()

    async def _stop_children(self) -> None:
        await asyncio.gather(*(keeper.stop() for keeper in self._gateways))
        await asyncio.gather(self._replicas.stop(), self._jobs.stop())
        await self._control.stop()
        _log.info("stopped")

    # what is told

    def _apply(self, desired: Desired) -> None:
        self._jobs.apply(desired)
        self._replicas.apply(desired)

    @property
    def _services(self) -> list[Keeper]:
        return [self._control, *self._gateways]

    def _observe(self) -> Observed:
        own = ProcessStatus(name="supervisor", state="ready", pid=os.getpid(), memory=resident(os.getpid()))
        return Observed(
            desired=self._replicas.version,
            replicas=self._replicas.statuses(),
            jobs=self._jobs.statuses(),
            processes=(own, *(self._process_status(keeper) for keeper in self._services)),
        )

    def _process_status(self, keeper: Keeper) -> ProcessStatus:
        port = self._settings.control_port if keeper is self._control else self._settings.http_port
        return ProcessStatus(
            name=keeper.name,
            state=_SERVICE_STATES[keeper.state],
            pid=keeper.running_pid,
            restarts=max(0, keeper.restarts.starts - 1),
            memory=keeper.memory,
            url=self._settings.url(port),
        )

    def _running(self, ready: bool) -> Running:
        settings = self._settings
        return Running(
            pid=os.getpid(),
            control_url=settings.url(settings.control_port),
            gateway_url=settings.url(settings.http_port),
            started_at=self._started_at,
            version=openmaas.__version__,
            ready=ready,
        )


def _bind(launch: Callable[[int], Launch], index: int) -> Callable[[], Launch]:
    return lambda: launch(index)


async def _came_up(keeper: Keeper) -> None:
    """Wait until its first start is ready. Raises Unavailable with what it last said when that one ended instead."""
    await keeper.settled.wait()
    if keeper.state == "ready" or keeper.cause is None:
        return
    shown = "\n".join(f"  | {line}" for line in keeper.cause.stderr[-_SHOWN_LINES:])
    raise Unavailable(
        f"{keeper.name} did not start: {keeper.cause.message}" + (f"\n{shown}" if shown else ""),
        code=keeper.cause.code,
        next_step=None if keeper.cause.next_step == "openmaas doctor" else keeper.cause.next_step,
    )

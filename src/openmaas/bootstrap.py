"""Builds each process by hand: the only file that sees both planes.

    python -m openmaas.bootstrap supervisor | control | gateway --index N | replica --address unix:/path | job --lock N

Each process imports only what it is made of. Settings come from the environment; a replica reads its ReplicaSpec on stdin, a
job its JobSpec.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from openmaas.core.contracts import JobSpec, ReplicaSpec
from openmaas.core.errors import OpenMaaSError, Unavailable, WireError
from openmaas.core.log import configure_logging
from openmaas.core.memory import settle
from openmaas.core.settings import Settings, load_settings
from openmaas.fleet.causes import cause_line
from openmaas.fleet.environment import child_environment, server_environment
from openmaas.fleet.home import Running, is_locked, own_log, prepare_home, read_note
from openmaas.fleet.lifeline import PARENT_VARIABLE, die_with_parent
from openmaas.fleet.ports import check_exposure
from openmaas.fleet.process import Launch

_STOP_BEYOND_DRAIN: Final = 15.0
_LOOK: Final = 0.02
_SHOWN_BYTES: Final = 4096


# ── what the command line calls ──────────────────────────────────────────────────────────────────────────────────────


def run_server(settings: Settings, on_ready: Callable[[Running], None] = lambda running: None) -> None:
    """Be the supervisor until SIGTERM, SIGINT or SIGHUP. `on_ready` is called once everything answers.

    Raises Conflict, Refused, InvalidInput or Unavailable when the server cannot start; nothing is left running then.
    """
    from openmaas.fleet.supervisor import Supervisor

    configure_logging("supervisor", settings.log_level)

    async def supervise() -> None:
        await Supervisor(settings, ProcessCommands(settings), on_ready).run()

    _run(supervise())


def start_detached(settings: Settings) -> Running:
    """Start the server apart from this terminal and return when it is ready. Its log is `logs/supervisor.log` in the home.

    Raises what `run_server` raises, with the same message.
    """
    prepare_home(settings)
    log = own_log(settings)
    reading, writing = os.pipe()
    try:
        pid = _spawn_apart((*_python("supervisor"), "--tell", str(writing)), server_environment(settings), log, writing)
    finally:
        os.close(writing)
    with os.fdopen(reading, "rb") as news:
        told = msgspec.json.decode(news.read() or b"{}", type=_News)
    if told.running is not None:
        return told.running
    os.waitpid(pid, 0)
    if told.error is not None:
        raise OpenMaaSError.from_wire(told.error)
    last = log.read_bytes()[-_SHOWN_BYTES:].decode("utf-8", "replace")
    raise Unavailable(f"The server ended while it started. Its last lines:\n{last}", next_step=f"See {log}.")


def _spawn_apart(command: tuple[str, ...], environment: Mapping[str, str], log: Path, kept: int) -> int:
    """Start a process in a session of its own, with its output in the log and the descriptor `kept` still open."""
    os.set_inheritable(kept, True)
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        actions = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0), *((os.POSIX_SPAWN_DUP2, output, to) for to in (1, 2))]
        return os.posix_spawn(command[0], command, environment, file_actions=actions, setsid=True)
    finally:
        os.close(output)


def running_server(settings: Settings) -> Running | None:
    """The server of this home, if one runs."""
    return read_note(settings)


def stop_server(settings: Settings) -> Running | None:
    """Ask the server of this home to drain and stop, and wait until it is gone. Returns what ran; None when nothing did.

    Raises Unavailable when it is still there after the time that draining may take.
    """
    running = read_note(settings)
    if running is None:
        return None
    os.kill(running.pid, signal.SIGTERM)
    patience = 3 * settings.drain_timeout + _STOP_BEYOND_DRAIN
    deadline = time.monotonic() + patience
    while is_locked(settings):
        if time.monotonic() > deadline:
            raise Unavailable(
                f"The server (pid {running.pid}) has not stopped within {patience:g} s.",
                code="still_running",
                next_step=f"kill -9 {running.pid}",
            )
        time.sleep(_LOOK)
    return running


class _News(msgspec.Struct, omit_defaults=True):
    """What a detached supervisor tells once through its pipe."""

    running: Running | None = None
    error: WireError | None = None


# ── how the supervisor starts each process ───────────────────────────────────────────────────────────────────────────


class ProcessCommands:
    """Every process is this interpreter with this module."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def control(self) -> Launch:
        return Launch(_python("control"), child_environment(self._settings, "control"))

    def gateway(self, index: int) -> Launch:
        return Launch((*_python("gateway"), "--index", str(index)), child_environment(self._settings, "gateway"))

    def replica(self, spec: ReplicaSpec, address: str) -> Launch:
        environment = child_environment(self._settings, "replica")
        return Launch((*_python("replica"), "--address", address), environment, stdin=msgspec.json.encode(spec))

    def job(self, spec: JobSpec, lock: int) -> Launch:
        environment = child_environment(self._settings, "job")
        return Launch((*_python("job"), "--lock", str(lock)), environment, stdin=msgspec.json.encode(spec))


def _python(process: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "openmaas.bootstrap", process)


# ── the processes ────────────────────────────────────────────────────────────────────────────────────────────────────


def _supervisor(settings: Settings, arguments: argparse.Namespace) -> None:
    with _telling(arguments.tell) as tell:
        run_server(settings, tell)


def _gateway(settings: Settings, arguments: argparse.Namespace) -> None:
    from openmaas import gateway

    check_exposure(settings)
    _run(gateway.serve(settings, arguments.index))


def _replica(settings: Settings, arguments: argparse.Namespace) -> None:
    from openmaas import replica

    spec = msgspec.json.decode(sys.stdin.buffer.read(), type=ReplicaSpec)
    _run(replica.serve(spec, arguments.address, settings))


def _job(settings: Settings, arguments: argparse.Namespace) -> None:
    from openmaas.tasks import process

    if arguments.lock is not None:  # held to the end of this process, and by nothing that it starts
        os.set_inheritable(arguments.lock, False)
        os.write(arguments.lock, str(os.getpid()).encode())
    process.run(msgspec.json.decode(sys.stdin.buffer.read(), type=JobSpec), settings)


def _control(settings: Settings, arguments: argparse.Namespace) -> None:
    check_exposure(settings)
    _run(_serve_control(settings))


async def _serve_control(settings: Settings) -> None:
    """Open the database, answer on the link and over HTTP until SIGTERM."""
    gc.disable()  # nothing that is imported is garbage, and looking for it takes a sixth of the start
    from openmaas.api.app import create_app
    from openmaas.api.planes import Planes
    from openmaas.api.services import build_services
    from openmaas.control.observed import Fleet
    from openmaas.control.rollout import Rollout
    from openmaas.control.snapshots import Hub
    from openmaas.core.link import LinkServer
    from openmaas.store.database import open_database

    database = open_database(settings)
    fleet = Fleet()
    hub = Hub(database, fleet, asyncio.get_running_loop())
    services = build_services(settings, database, fleet, hub.publish)
    services.keys.ensure_admin()
    hub.publish()
    planes = Planes(hub, Rollout(database, fleet, hub).observe, services.jobs.observe, services.measurements.observe)
    link = LinkServer(planes.handle)
    await link.listen(settings.control_address)
    await _serve_http(settings, create_app(services))
    await planes.close()
    link.close()
    database.close()


async def _serve_http(settings: Settings, app: Any) -> None:
    from granian.constants import HTTPModes, Interfaces, TaskImpl
    from granian.http import HTTP1Settings
    from granian.server.embed import Server

    server = Server(
        app,
        address=settings.host,
        port=settings.control_port,
        interface=Interfaces.ASGINL,
        http=HTTPModes.http1,
        task_impl=TaskImpl.asyncio,
        websockets=False,
        log_enabled=False,
        http1_settings=HTTP1Settings(header_read_timeout=int(settings.body_timeout * 1000)),
        ssl_cert=Path(settings.tls_cert) if settings.tls_cert else None,
        ssl_key=Path(settings.tls_key) if settings.tls_key else None,
    )
    serving = asyncio.create_task(server.serve())
    await asyncio.sleep(0)  # granian puts its own signal handlers first
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, server.stop)
    gc.enable()
    settle()
    await serving


_PROCESSES: Final[dict[str, Callable[[Settings, argparse.Namespace], None]]] = {
    "supervisor": _supervisor,
    "control": _control,
    "gateway": _gateway,
    "replica": _replica,
    "job": _job,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Be one process until it ends. Exit status 1 with a cause on stderr when it cannot start."""
    parser = argparse.ArgumentParser(prog="python -m openmaas.bootstrap")
    parser.add_argument("process", choices=tuple(_PROCESSES))
    parser.add_argument("--index", type=int, default=0, help="which gateway")
    parser.add_argument("--address", default="", help="where a replica listens")
    parser.add_argument("--lock", type=int, default=None, help="descriptor of the file that a job's process keeps locked")
    parser.add_argument("--tell", type=int, default=None, help="descriptor of a pipe that waits for the supervisor to be ready")
    arguments = parser.parse_args(argv)
    parent = os.environ.get(PARENT_VARIABLE)
    if parent is not None:
        die_with_parent(int(parent))
    try:
        settings = load_settings()
        configure_logging(arguments.process, settings.log_level)
        _PROCESSES[arguments.process](settings, arguments)
    except OpenMaaSError as error:
        sys.stderr.write(f"{cause_line(error)}\n")
        raise SystemExit(1) from error


def _run(process: Coroutine[Any, Any, None]) -> None:
    import uvloop

    uvloop.run(process)


@contextlib.contextmanager
def _telling(descriptor: int | None) -> Iterator[Callable[[Running], None]]:
    """Tell the one that waits at the other end of the pipe how the start went: once, ready or not."""
    if descriptor is None:
        yield lambda running: None
        return
    os.set_inheritable(descriptor, False)
    with os.fdopen(descriptor, "wb") as pipe:

        def tell(running: Running) -> None:
            with contextlib.suppress(BrokenPipeError):  # nobody waits any more
                pipe.write(msgspec.json.encode(_News(running=running)))
                pipe.close()

        try:
            yield tell
        except OpenMaaSError as error:
            if not pipe.closed:
                pipe.write(msgspec.json.encode(_News(error=error.to_wire())))
            raise


if __name__ == "__main__":
    main()

"""The life of a gateway process: follow control, open the door, and on SIGTERM let what is in flight end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from pathlib import Path

from granian.constants import HTTPModes, Interfaces, TaskImpl
from granian.http import HTTP1Settings
from granian.server.embed import Server

from openmaas.core.contracts import Snapshot
from openmaas.core.log import get_logger
from openmaas.core.memory import settle
from openmaas.core.settings import Settings
from openmaas.gateway.follower import Follower
from openmaas.gateway.gate import Gate
from openmaas.gateway.http import Door
from openmaas.gateway.metrics import Metrics
from openmaas.gateway.pages import Pages
from openmaas.gateway.router import Router


async def serve(settings: Settings, index: int = 0) -> None:
    """Answer at settings.host and settings.http_port until SIGTERM, then drain for at most settings.drain_timeout seconds."""
    gate = Gate(
        max_body=settings.max_body, max_in_flight=settings.max_in_flight, max_in_flight_bytes=settings.max_in_flight_bytes
    )
    router = Router(settings)
    metrics = Metrics()
    pages = Pages(gate, router, metrics)

    def apply(snapshot: Snapshot) -> None:
        gate.update(snapshot.keys)
        router.update(snapshot)
        pages.informed = True

    kept = settings.home_path / "run" / f"snapshot-{index}.msgpack"
    follower = Follower(settings.control_address, kept, apply, peer=f"gateway-{index}")
    follower.recall()
    following = asyncio.create_task(follower.run())
    server = _server(settings, Door(settings, gate, router, metrics, pages))
    serving = asyncio.create_task(server.serve())
    await asyncio.sleep(0)
    settle()
    stop = _stop_on_signals()
    await asyncio.wait({asyncio.create_task(stop.wait()), serving}, return_when=asyncio.FIRST_COMPLETED)
    pages.draining = True
    await _drain(gate, settings.drain_timeout)
    server.stop()
    with contextlib.suppress(Exception):
        await asyncio.wait_for(serving, 5)
    following.cancel()
    await router.close()


def _stop_on_signals() -> asyncio.Event:
    """Set on SIGTERM or SIGINT; installed after granian's own handlers, which know nothing of what is in flight."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


def _server(settings: Settings, door: Door) -> Server:
    return Server(
        door,
        address=settings.host,
        port=settings.http_port,
        interface=Interfaces.RSGI,
        http=HTTPModes.http1,
        task_impl=TaskImpl.asyncio,
        websockets=False,
        backlog=2048,
        log_enabled=False,
        http1_settings=HTTP1Settings(header_read_timeout=int(settings.body_timeout * 1000)),
        ssl_cert=Path(settings.tls_cert) if settings.tls_cert else None,
        ssl_key=Path(settings.tls_key) if settings.tls_key else None,
    )


async def _drain(gate: Gate, timeout: float) -> None:
    try:
        await asyncio.wait_for(gate.empty(), timeout)
    except TimeoutError:
        get_logger("gateway").warning("drain_incomplete", in_flight=gate.in_flight)

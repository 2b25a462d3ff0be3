"""The life of a gateway process: follow control, open the door, and on SIGTERM let what is in flight end."""

from __future__ import annotations

import asyncio
import signal
import ssl

from openmaas.core.contracts import Snapshot
from openmaas.core.errors import InvalidInput
from openmaas.core.log import get_logger
from openmaas.core.memory import settle
from openmaas.core.settings import Settings
from openmaas.gateway.door import Door
from openmaas.gateway.follower import Follower
from openmaas.gateway.gate import Gate
from openmaas.gateway.http import HttpServer
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

    stop = _stop_on_signals()
    kept = settings.home_path / "run" / f"snapshot-{index}.msgpack"
    follower = Follower(settings.control_address, kept, apply, peer=f"gateway-{index}")
    follower.recall()
    following = asyncio.create_task(follower.run())
    server = HttpServer(Door(settings, gate, router, metrics, pages), body_timeout=settings.body_timeout)
    await server.listen(settings.host, settings.http_port, tls=_tls(settings), shared=settings.gateways > 1)
    settle()
    await stop.wait()
    pages.draining = True
    if not await server.drain(settings.drain_timeout):
        get_logger("gateway").warning("drain_incomplete", in_flight=gate.in_flight)
    server.close()
    following.cancel()
    await router.close()


def _stop_on_signals() -> asyncio.Event:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


def _tls(settings: Settings) -> ssl.SSLContext | None:
    if not settings.tls_cert:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key or None)
    except (OSError, ssl.SSLError) as error:
        raise InvalidInput(
            f"The certificate {settings.tls_cert!r} with the key {settings.tls_key!r} cannot be used: {error}.",
            code="invalid_setting",
            next_step="Check OPENMAAS_TLS_CERT and OPENMAAS_TLS_KEY.",
        ) from None
    return context

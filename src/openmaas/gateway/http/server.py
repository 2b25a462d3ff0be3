"""All connections of a gateway, and the clock that bounds them."""

from __future__ import annotations

import asyncio
import math
from email.utils import formatdate
from typing import Any, Final

from openmaas.core.errors import Unavailable
from openmaas.core.log import get_logger
from openmaas.gateway.http.connection import HttpConnection
from openmaas.gateway.http.request import Application

_GRACE = 0.5  # seconds of draining in which a request may still come over an idle connection


class HttpServer:
    """All connections of one gateway, and the clock that bounds them.

    body_timeout: seconds that a head has to arrive, that a body may drip, and that an answer may lie unread.
    """

    TICK: Final = 0.025
    """Seconds between two looks at deadlines: how late one may be noticed."""

    def __init__(self, application: Application, *, body_timeout: float) -> None:
        self.loop = asyncio.get_running_loop()
        self.application = application
        self.body_timeout = body_timeout
        self.connections: set[HttpConnection] = set()
        self.receiving: set[HttpConnection] = set()
        self.active: set[HttpConnection] = set()
        self.unread: set[HttpConnection] = set()
        self.draining = False
        self.leaving = math.inf  # when idle connections are closed
        self.now = self.loop.time()
        self.date = ""
        self._server: asyncio.Server | None = None
        self._ticks = 0
        self._ticker = self.loop.create_task(self._tick())

    async def listen(self, host: str, port: int, *, tls: Any = None, shared: bool = False) -> None:
        """Accept connections; `shared` lets other gateways listen at the same port."""
        self._server = await self.loop.create_server(
            lambda: HttpConnection(self),
            host,
            port,
            ssl=tls,
            ssl_handshake_timeout=self.body_timeout if tls else None,
            backlog=4096,
            reuse_port=shared or None,
        )

    def forget(self, connection: HttpConnection) -> None:
        for group in (self.connections, self.receiving, self.active, self.unread):
            group.discard(connection)

    async def drain(self, timeout: float) -> bool:
        """Accept nothing new, answer what was asked, close each connection after its answer, and wait until all of them have
        been read. False after `timeout` seconds."""
        if self._server is not None:
            self._server.close()
        # What is on its way over idle connections may still come in; it is answered, and told to come back elsewhere.
        self.draining = True
        until = self.loop.time() + timeout
        self.leaving = self.loop.time() + _GRACE
        while self.connections:
            now = self.loop.time()
            if now >= until:
                return False
            for connection in tuple(self.connections):
                connection.check_idle(now)
            await asyncio.sleep(self.TICK)
        return True

    def close(self) -> None:
        """Break off what is not answered yet, and say so."""
        self._ticker.cancel()
        for connection in tuple(self.connections):
            connection.break_off(
                Unavailable("The gateway stopped before the answer was whole.", code="stopping", next_step="Send it again.")
            )
            connection.close()

    async def _tick(self) -> None:
        while True:
            try:
                self._look()
            except Exception:
                get_logger("http").exception("clock_failed")  # one connection's trouble; the clock goes on
            await asyncio.sleep(self.TICK)

    def _look(self) -> None:
        self.now = now = self.loop.time()
        self._ticks += 1
        if self._ticks % 20 == 1:
            self.date = f"date: {formatdate(usegmt=True)}\r\n"
            for connection in tuple(self.receiving):
                connection.check_receiving(now)
            for connection in tuple(self.unread):
                connection.check_unread(now)
            for connection in tuple(self.connections):
                connection.check_idle(now)
        for connection in tuple(self.active):
            connection.check_deadline(now)

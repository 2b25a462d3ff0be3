"""A whole door in this process: real HTTP connections, real links, replicas that write what a test tells them to."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import msgspec

from openmaas.core.contracts import Answer, Call, Key, Snapshot, encode
from openmaas.core.keys import digest_key, make_key
from openmaas.core.link import IncomingCall
from openmaas.core.settings import Settings
from openmaas.gateway.door import Door
from openmaas.gateway.gate import Gate
from openmaas.gateway.http import HttpServer
from openmaas.gateway.metrics import Metrics
from openmaas.gateway.pages import Pages
from openmaas.gateway.router import Router
from tests.unit.gateway.replicas import FakeReplica, deployment, until

STREAM_HEAD = encode(Answer(content_type="text/event-stream"))


class WritingReplica(FakeReplica):
    """Hands each call to `work` (by default: written down, for the test to answer)."""

    work: Callable[[IncomingCall], None] | None = None

    def _handle(self, call: IncomingCall) -> None:
        self.calls.append(call)
        if self.work is not None:
            self.work(call)

    def asked(self, index: int = -1) -> Call:
        return msgspec.msgpack.decode(self.calls[index].header, type=Call)


class OpenDoor:
    def __init__(self, folder: str, **settings: Any) -> None:
        self.settings = Settings(hold_timeout=0.3, hang_timeout=0.5, **settings)
        self.gate = Gate(max_body=100_000, max_in_flight=1000, max_in_flight_bytes=1_000_000)
        self.router = Router(self.settings)
        self.metrics = Metrics()
        self.pages = Pages(self.gate, self.router, self.metrics)
        self.server = HttpServer(Door(self.settings, self.gate, self.router, self.metrics, self.pages), body_timeout=0.5)
        self.folder = folder
        self.replicas: list[WritingReplica] = []
        self.keys = {"admin": make_key(), "letters": make_key()}
        self.port = 0
        self.clients: list[asyncio.StreamWriter] = []

    async def open(self) -> None:
        await self.server.listen("127.0.0.1", 0)
        assert self.server._server is not None
        self.port = self.server._server.sockets[0].getsockname()[1]

    async def replica(self, name: str, version: int = 1) -> WritingReplica:
        one = WritingReplica(self.folder, name, version)
        self.replicas.append(one)
        await one.start()
        return one

    async def follow(self, *replicas: FakeReplica, name: str = "writer", **fields: Any) -> None:
        """Deploy these replicas, as project letters', and wait for them."""
        keys = (
            Key(id="a", digest=digest_key(self.keys["admin"]), role="admin", project="default"),
            Key(id="l", digest=digest_key(self.keys["letters"]), role="user", project="letters"),
        )
        told = deployment(*replicas, name=name, **({"project": "letters"} | fields))
        self.gate.update(keys)
        self.router.update(Snapshot(version=1, deployments=(told,), keys=keys))
        running = sum(replica.links is not None for replica in replicas)
        await until(lambda: sum(len(t.links(n)) for t in self.router.targets for n in t.endpoints) == running)

    def http(self, key: str = "letters") -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {self.keys[key]}"}
        return httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", headers=headers, timeout=60, trust_env=False)

    def request(
        self, path: str = "/v1/chat/completions", body: bytes = b'{"model":"writer"}', *fields: str, version: str = "1.1"
    ) -> bytes:
        """A POST by hand."""
        head = [f"POST {path} HTTP/{version}", "Host: a", f"Authorization: Bearer {self.keys['letters']}", *fields]
        return "\r\n".join([*head, f"Content-Length: {len(body)}", "", ""]).encode() + body

    async def connect(self, data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.clients.append(writer)
        writer.write(data)
        return reader, writer

    async def ask(self, data: bytes) -> bytes:
        """All that comes back until the server closes."""
        reader, writer = await self.connect(data)
        try:
            return await asyncio.wait_for(reader.read(), 60)
        finally:
            writer.close()

    def counted(self) -> dict[tuple[str, str, int], int]:
        return dict(self.metrics._requests)


@contextlib.asynccontextmanager
async def opened(**settings: Any) -> AsyncIterator[OpenDoor]:
    with tempfile.TemporaryDirectory(prefix="omp-") as folder:
        door = OpenDoor(folder, **settings)
        await door.open()
        yield door
        for client in door.clients:
            client.close()
        await until(lambda: not door.server.active)
        assert (door.gate.in_flight, door.gate.in_flight_bytes) == (0, 0)
        door.server._server.close()  # type: ignore[union-attr]
        door.server.close()
        door.router.update(Snapshot(version=2))
        await door.router.close()
        for replica in door.replicas:
            replica.kill()
        await until(lambda: not [task for task in asyncio.all_tasks() if task.get_name().startswith("endpoint")])
        await until(lambda: not door.server.connections)
        await asyncio.sleep(0.02)

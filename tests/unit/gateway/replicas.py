"""Replicas for the gateway's tests: real links in this process, answered by the test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from openmaas.core.contracts import Deployment, Health, Replica, Snapshot, encode
from openmaas.core.link import IncomingCall, LinkServer


class FakeReplica:
    """Answers with its own name, or holds calls where `hold` is set. `healthy` False answers pings with not ready."""

    def __init__(self, folder: Any, name: str, version: int = 1) -> None:
        self.name = name
        self.place = Replica(id=name, version=version, address=f"unix:{folder}/{name}.sock")
        self.calls: list[IncomingCall] = []
        self.hold = False
        self.error: Exception | None = None
        self.health = Health(True)
        self.links: LinkServer | None = None

    async def start(self) -> FakeReplica:
        self.links = LinkServer(self._handle, health=lambda: encode(self.health))
        await self.links.listen(self.place.address)
        return self

    def kill(self) -> None:
        """As if by kill -9: connections break, nothing is answered."""
        if self.links is not None:
            for connection in tuple(self.links.connections):
                connection.abort()
            self.links.close()
            self.links = None

    @property
    def connections(self) -> int:
        return len(self.links.connections) if self.links is not None else 0

    def _handle(self, call: IncomingCall) -> None:
        self.calls.append(call)
        if self.error is not None:
            raise self.error
        if not self.hold:
            call.answer(self.name.encode(), call.payload)


def deployment(*replicas: FakeReplica, name: str = "m", **fields: Any) -> Deployment:
    return Deployment(
        **(
            {
                "name": name,
                "project": "default",
                "model": name,
                "traffic": {replica.place.version: 1.0 for replica in replicas},
                "replicas": tuple(replica.place for replica in replicas),
            }
            | fields
        )
    )


def snapshot(*deployments: Deployment, version: int = 1) -> Snapshot:
    return Snapshot(version=version, deployments=deployments)


async def until(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)

"""From a deployment's name to a replica: version by alias, number or split, the less loaded of two, one retry elsewhere."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Iterable
from typing import TypeAlias
from weakref import WeakValueDictionary

from openmaas.core.contracts import Deployment, Snapshot
from openmaas.core.errors import NotFound, Unavailable
from openmaas.core.link import Link
from openmaas.core.settings import Settings
from openmaas.gateway.endpoint import Endpoint

_NUMBER = re.compile(r"[0-9]{1,9}")


Asked: TypeAlias = tuple[str, str]
"""A deployment as a caller names it, perhaps with an alias or a number, and a version by number or alias, or neither."""


class Target:
    """A deployment with the endpoints of each of its versions."""

    def __init__(self, deployment: Deployment, endpoints: dict[int, list[Endpoint]]) -> None:
        self.deployment = deployment
        self.endpoints = endpoints
        self.versions = [number for number, weight in deployment.traffic.items() if weight > 0]
        self._weights = [deployment.traffic[number] for number in self.versions]

    def choose_version(self) -> int:
        if len(self.versions) == 1:
            return self.versions[0]
        return random.choices(self.versions, self._weights)[0]

    def links(self, version: int) -> list[Link]:
        """The connections of this version's replicas that are in the rotation."""
        return [endpoint.link for endpoint in self.endpoints.get(version, ()) if endpoint.link is not None]


class Router:
    """All that a gateway knows of deployments and replicas, taken from snapshots, and the choice for each request."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._targets: dict[str, Target] = {}
        self._endpoints: dict[str, Endpoint] = {}
        self._named: dict[tuple[str, str], tuple[Target, int | None]] = {}
        self._became_ready = asyncio.Event()
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    # snapshots

    def update(self, snapshot: Snapshot) -> None:
        """Follow a new snapshot: connect to what is new, let go of what is gone, route by it from now on."""
        wanted = {replica.id: replica for deployment in snapshot.deployments for replica in deployment.replicas}
        for identity, endpoint in tuple(self._endpoints.items()):
            if wanted.get(identity) != endpoint.replica:
                del self._endpoints[identity]
                endpoint.retire()
        for identity, replica in wanted.items():
            if identity not in self._endpoints:
                self._endpoints[identity] = Endpoint(
                    replica,
                    self._ready,
                    hang_timeout=self._settings.hang_timeout,
                    stall_timeout=self._settings.stall_timeout,
                )
        self._targets = {deployment.name: self._target(deployment) for deployment in snapshot.deployments}
        self._named = {}
        self._wake()

    def _target(self, deployment: Deployment) -> Target:
        endpoints: dict[int, list[Endpoint]] = {}
        for replica in deployment.replicas:
            endpoints.setdefault(replica.version, []).append(self._endpoints[replica.id])
        return Target(deployment, endpoints)

    def _ready(self, _: Endpoint) -> None:
        self._wake()

    def _wake(self) -> None:
        event, self._became_ready = self._became_ready, asyncio.Event()
        event.set()

    async def close(self) -> None:
        await asyncio.gather(*(endpoint.close() for endpoint in self._endpoints.values()))

    # looking

    @property
    def targets(self) -> Iterable[Target]:
        return self._targets.values()

    def resolve(self, name: str, version: str = "") -> tuple[Target, int | None]:
        """The deployment called `name` (or `name@alias`, `name:number`) and the version that is asked for, None for the split.

        Raises NotFound with what there is.
        """
        found = self._named.get((name, version))
        if found is None:
            found = self._resolve(name, version)
            if len(self._named) < 4096:
                self._named[name, version] = found
        return found

    def _resolve(self, name: str, version: str) -> tuple[Target, int | None]:
        plain, alias = name, ""
        if "@" in name:
            plain, _, alias = name.partition("@")
        elif ":" in name and not version:
            plain, _, version = name.partition(":")
        target = self._targets.get(plain)
        if target is None:
            raise NotFound(
                f"Nothing is deployed under the name {plain[:80]!r}.",
                code="deployment_not_found",
                next_step=f"openmaas deploy {plain[:80]}",
            )
        deployment = target.deployment
        if not target.versions:
            raise Unavailable(
                f"Deployment {plain!r} is starting: nothing serves yet.", code="deployment_starting", retry_after=1
            )
        asked = alias or version
        number = int(asked) if _NUMBER.fullmatch(asked) else deployment.aliases.get(asked)
        if asked and number not in target.versions:
            served = ", ".join(str(number) for number in target.versions)
            raise NotFound(
                f"Deployment {plain!r} does not serve {asked[:80]!r} now; it serves version {served}.",
                code="version_not_served",
                next_step=f"openmaas deploy {plain}{'@' if alias else ':'}{asked[:80]}",
            )
        return target, number

    # choosing

    def pick(self, target: Target, version: int, other_than: Link | None = None) -> Link | None:
        """Power of two choices (Mitzenmacher 2001): of two replicas drawn at random, the one with less in flight."""
        links = target.links(version)
        if len(links) == 1:
            return links[0] if links[0] is not other_than else None
        if other_than is not None:
            links = [link for link in links if link is not other_than]
        if len(links) > 2:
            links = random.sample(links, 2)
        return min(links, key=_load) if links else None

    def turn(self, target: Target) -> asyncio.Lock:
        """What calls of this deployment hold, one at a time, that were lost with a replica and are tried again."""
        return self._turns.setdefault(target.deployment.name, asyncio.Lock())

    async def hold(self, asked: Asked, deadline: float) -> Link:
        """Wait for a replica that is starting. What was asked for is looked up anew: it may have moved on in the meantime."""
        loop = asyncio.get_running_loop()
        until = min(deadline, loop.time() + self._settings.hold_timeout)
        while True:
            target, version = self.resolve(*asked)
            for number in target.versions if version is None else (version,):
                link = self.pick(target, number)
                if link is not None:
                    return link
            left = until - loop.time()
            if left <= 0:
                wanted = "" if version is None else f" version {version}"
                raise Unavailable(
                    f"No replica of {target.deployment.name!r}{wanted} is ready.",
                    code="no_replica",
                    retry_after=1.0,
                    next_step="openmaas ps",
                )
            try:
                await asyncio.wait_for(self._became_ready.wait(), left)
            except TimeoutError:
                continue


def _load(link: Link) -> int:
    return link.in_flight

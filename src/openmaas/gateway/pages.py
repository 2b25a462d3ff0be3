"""What the gateway answers besides predictions: health, metadata, statistics, the repository's index, metrics."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

import openmaas
from openmaas.core.contracts import Call, encode
from openmaas.core.errors import Conflict, OpenMaaSError
from openmaas.gateway.gate import Gate
from openmaas.gateway.metrics import Metrics
from openmaas.gateway.router import Router, Target
from openmaas.protocols.routes import Route

_JSON = "application/json"
_ASK_FOR = 2.0  # seconds that a replica has to tell its counts
_EXTENSIONS = ["binary_tensor_data", "model_repository", "model_configuration", "statistics"]

Page = tuple[int, str, bytes]


class Pages:
    """Answers of one gateway from what it knows, asking replicas for what only they know."""

    def __init__(self, gate: Gate, router: Router, metrics: Metrics) -> None:
        self._gate = gate
        self._router = router
        self._metrics = metrics
        self.draining = False
        self.informed = False

    async def answer(self, route: Route) -> Page:
        """Status, content type and body of a route."""
        match route.name:
            case "live":
                return _json({"live": True})
            case "ready":
                ready = self.informed and not self.draining
                return _json({"ready": ready}, 200 if ready else 503)
            case "version":
                return _json({"name": "openmaas", "version": openmaas.__version__})
            case "server_metadata":
                return _json({"name": "openmaas", "version": openmaas.__version__, "extensions": _EXTENSIONS})
            case "metrics":
                text = self._metrics.expose(self._gate.in_flight, await self._statistics(list(self._router.targets)))
                return 200, "text/plain; version=0.0.4; charset=utf-8", text
            case "statistics_all":
                return _json({"model_stats": await self._statistics(list(self._router.targets))})
            case "repository_index":
                return _json([entry for target in self._router.targets for entry in _index(target)])
            case "v1_list":
                return _json({"models": sorted(target.deployment.name for target in self._router.targets)})
            case _:
                return await self._of_deployment(route)

    async def _of_deployment(self, route: Route) -> Page:
        target, version = self._router.resolve(route.deployment, route.version)
        name = target.deployment.name
        match route.name:
            case "model_ready" | "v1_ready":
                ready = _ready(target, version)
                return _json({"name": name, "ready": ready}, 200 if ready else 503)
            case "model_statistics":
                return _json({"model_stats": await self._statistics([target], version)})
            case "repository_load":
                if _ready(target, version):
                    return _json({})
                raise Conflict(f"Deployment {name!r} is not ready.", next_step=f"openmaas deploy {name}")
            case "repository_unload":
                raise Conflict(
                    "Deployments are ended at control, not at the gateway.",
                    code="not_here",
                    next_step=f"openmaas undeploy {name}",
                )
        operation = "metadata" if route.name == "model_metadata" else "config"
        call = Call(operation, "", _ASK_FOR, deployment=name)  # type: ignore[arg-type]
        deadline = asyncio.get_running_loop().time() + _ASK_FOR
        _, body = await self._router.call(target, version, encode(call), b"", deadline)
        if operation == "metadata":
            described = msgspec.json.decode(body) | {"versions": [str(number) for number in target.versions]}
            body = msgspec.json.encode(described)
        return 200, _JSON, body

    async def _statistics(self, targets: list[Target], version: int | None = None) -> list[dict[str, Any]]:
        """The counts of all replicas in the rotation, each its own entry with the replica's id."""
        asked = [
            (
                endpoint.replica.id,
                endpoint.link.call(encode(Call("statistics", "", _ASK_FOR, deployment=target.deployment.name))),
            )
            for target in targets
            for number, endpoints in target.endpoints.items()
            if version in (None, number)
            for endpoint in endpoints
            if endpoint.link is not None
        ]
        answers = await asyncio.gather(*(_within(future) for _, future in asked))
        return [
            msgspec.json.decode(body) | {"replica": replica}
            for (replica, _), body in zip(asked, answers, strict=True)
            if body is not None
        ]


async def _within(future: asyncio.Future[tuple[bytes, bytes]]) -> bytes | None:
    try:
        return (await asyncio.wait_for(future, _ASK_FOR))[1]
    except (TimeoutError, OpenMaaSError):
        return None


def _ready(target: Target, version: int | None) -> bool:
    wanted = target.versions if version is None else [version]
    return bool(wanted) and all(target.links(number) for number in wanted)


def _index(target: Target) -> list[dict[str, str]]:
    """Entries of the repository index, one a version."""
    return [
        {
            "name": target.deployment.name,
            "version": str(number),
            "state": "READY" if target.links(number) else "LOADING",
            "reason": "",
        }
        for number in target.versions
    ]


def _json(value: Any, status: int = 200) -> Page:
    return status, _JSON, msgspec.json.encode(value)

"""What the gateway answers besides predictions: health, metadata, statistics, the repository's index, metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, Literal

import msgspec

import openmaas
from openmaas.core.contracts import Call, Key, encode
from openmaas.core.errors import Conflict, InvalidInput, OpenMaaSError, Unavailable
from openmaas.gateway.forward import ask
from openmaas.gateway.gate import Gate
from openmaas.gateway.metrics import Metrics
from openmaas.gateway.router import Router, Target
from openmaas.protocols.openai.models import ServedModel, model_body, models_body
from openmaas.protocols.routes import Route

_JSON = "application/json"
_ASK_FOR = 2.0  # seconds that a replica has to tell its counts
_EXTENSIONS = ["binary_tensor_data", "model_repository", "model_configuration", "statistics"]

Page = tuple[int, str, bytes]


class _IndexRequest(msgspec.Struct, forbid_unknown_fields=True):
    ready: bool = False


_decode_index_request = msgspec.json.Decoder(_IndexRequest).decode


class Pages:
    """Answers of one gateway from what it knows, asking replicas for what only they know."""

    def __init__(self, gate: Gate, router: Router, metrics: Metrics) -> None:
        self._gate = gate
        self._router = router
        self._metrics = metrics
        self.draining = False
        self.informed = False

    async def answer(self, route: Route, key: Key | None = None, request: bytes = b"") -> Page:
        """Status, content type and body of a route. key: the caller's, None where the route is open. request: the body.

        A key is told of what it may use, and of nothing else. Raises Forbidden where the route is about something else.
        """
        if key is None:
            return self._open_to_all(route)
        if route.deployment:
            return await self._of_deployment(route, key)
        if route.name == "metrics":
            self._gate.authorize_operator(key)
            text = self._metrics.expose(self._gate.in_flight, await self._statistics(self._router.targets))
            return 200, "text/plain; version=0.0.4; charset=utf-8", text
        targets = [target for target in self._router.targets if self._gate.may_use(key, target.deployment.project)]
        return _json(await self._of_all(route, targets, request))

    async def _of_all(self, route: Route, targets: Sequence[Target], request: bytes) -> Any:
        match route.name:
            case "repository_index":
                wanted = _index_request(request)
                entries = [entry for target in targets for entry in _index(target)]
                return [entry for entry in entries if entry["state"] == "READY" or not wanted.ready]
            case "server_metadata":
                return {"name": "openmaas", "version": openmaas.__version__, "extensions": _EXTENSIONS}
            case "statistics_all":
                return {"model_stats": await self._statistics(targets)}
            case _:
                return models_body(_served(target) for target in targets)

    def _open_to_all(self, route: Route) -> Page:
        if route.name == "ready":
            ready = self.informed and not self.draining
            return _json({"ready": ready}, 200 if ready else 503)
        if route.name == "live":
            return _json({"live": True})
        return _json({"name": "openmaas", "version": openmaas.__version__})

    async def _of_deployment(self, route: Route, key: Key) -> Page:
        target, version = self._router.resolve(route.deployment, route.version)
        self._gate.authorize(key, target.deployment.project)
        name = target.deployment.name
        match route.name:
            case "model_ready":
                ready = _ready(target, version)
                return _json({"name": name, "ready": ready}, 200 if ready else 503)
            case "v1_ready":
                served = _served(target, version)
                return _json(model_body(served), 200 if served.ready else 503)
            case "model_statistics":
                return _json({"model_stats": await self._statistics([target], version)})
            case "repository_load" if _ready(target, version):
                return _json({})
            case "repository_load" | "repository_unload":
                verb = "deploy" if route.name == "repository_load" else "undeploy"
                raise Conflict(
                    "What runs is decided at control, not here.", code="not_here", next_step=f"openmaas {verb} {name}"
                )
            case "model_metadata":
                described = await self._ask(route, "metadata")
                return _json(described | {"versions": [str(number) for number in target.versions]})
            case _:
                return _json(await self._ask(route, "config"))

    async def _ask(self, route: Route, operation: Literal["metadata", "config"]) -> dict[str, Any]:
        """What one replica says of its model."""
        asked = (route.deployment, route.version)
        target, _ = self._router.resolve(*asked)
        call = encode(Call(operation, "", _ASK_FOR, deployment=target.deployment.name))
        deadline = asyncio.get_running_loop().time() + _ASK_FOR
        try:
            body = await asyncio.wait_for(ask(self._router, asked, call, deadline), _ASK_FOR)
        except TimeoutError:
            raise Unavailable(
                f"No replica of {target.deployment.name!r} answered within {_ASK_FOR:g} s.", code="no_replica", retry_after=1.0
            ) from None
        described: dict[str, Any] = msgspec.json.decode(body)
        return described

    async def _statistics(self, targets: Iterable[Target], version: int | None = None) -> list[dict[str, Any]]:
        """The counts of all replicas in the rotation, each its own entry with the replica's id."""
        asked = {
            endpoint.replica.id: endpoint.link.call(_statistics_call(target.deployment.name))
            for target in targets
            for number, endpoints in target.endpoints.items()
            for endpoint in endpoints
            if endpoint.link is not None and version in (None, number)
        }
        answers = await asyncio.gather(*(_within(answer) for answer in asked.values()))
        return [
            msgspec.json.decode(body) | {"replica": replica}
            for replica, body in zip(asked, answers, strict=True)
            if body is not None
        ]


def _statistics_call(deployment: str) -> bytes:
    return encode(Call("statistics", "", _ASK_FOR, deployment=deployment))


async def _within(answer: Coroutine[Any, Any, tuple[bytes, bytes]]) -> bytes | None:
    try:
        return (await asyncio.wait_for(answer, _ASK_FOR))[1]
    except (TimeoutError, OpenMaaSError):
        return None


def _served(target: Target, version: int | None = None) -> ServedModel:
    deployment = target.deployment
    return ServedModel(
        name=deployment.name, owner=deployment.project, created=deployment.created, ready=_ready(target, version)
    )


def _ready(target: Target, version: int | None) -> bool:
    wanted = target.versions if version is None else [version]
    return bool(wanted) and all(target.links(number) for number in wanted)


def _index_request(body: bytes) -> _IndexRequest:
    try:
        return _decode_index_request(body) if body else _IndexRequest()
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"The body is not a request for the index: {str(error)[:200]}.", code="invalid_json") from None


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

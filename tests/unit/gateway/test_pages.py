"""What a gateway answers besides predictions, with replicas that are silent or away."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from openmaas.core.contracts import Answer, Deployment, Key, encode
from openmaas.core.errors import Conflict, Forbidden, InvalidInput, NotFound, Unavailable
from openmaas.core.settings import Settings
from openmaas.gateway import pages as module
from openmaas.gateway.gate import Gate
from openmaas.gateway.metrics import Metrics
from openmaas.gateway.pages import Pages
from openmaas.gateway.router import Router
from openmaas.protocols.routes import parse_path
from tests.unit.gateway.replicas import FakeReplica, deployment, snapshot, until

ADMIN = Key(id="admin", digest="", role="admin", project="default")


class House:
    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.router = Router(Settings(hold_timeout=0.1))
        self.pages = Pages(Gate(max_body=1, max_in_flight=1, max_in_flight_bytes=1), self.router, Metrics())
        self.replicas: list[FakeReplica] = []

    async def replica(self, name: str, version: int = 1, running: bool = True) -> FakeReplica:
        one = Describing(self.folder, name, version)
        self.replicas.append(one)
        return await one.start() if running else one

    async def follow(self, *deployments: Deployment) -> None:
        self.router.update(snapshot(*deployments))
        running = sum(replica.links is not None for replica in self.replicas)
        await until(lambda: sum(len(t.links(n)) for t in self.router.targets for n in t.endpoints) == running)

    async def get(self, path: str, body: bytes = b"", key: Key = ADMIN) -> tuple[int, Any]:
        route = parse_path(path)
        status, _, answer = await self.pages.answer(route, None if route.open else key, body)
        return status, msgspec.json.decode(answer)


class Describing(FakeReplica):
    """Answers questions with JSON that names it."""

    def _handle(self, call: Any) -> None:
        self.calls.append(call)
        if not self.hold:
            call.answer(encode(Answer()), b'{"name":"%s"}' % self.name.encode())


@pytest.fixture
async def house(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setattr(module, "_ASK_FOR", 0.2)
    with tempfile.TemporaryDirectory(prefix="omp-") as folder:
        one = House(folder)
        yield one
        one.router.update(snapshot())
        for replica in one.replicas:
            replica.kill()
        await until(lambda: not [task for task in asyncio.all_tasks() if task.get_name().startswith("endpoint")])
        await asyncio.sleep(0.02)


async def test_a_key_sees_the_deployments_of_its_own_project_alone(house: House) -> None:
    ours = await house.replica("ours")
    theirs = await house.replica("theirs")
    await house.follow(
        deployment(ours, name="ours"),
        deployment(theirs, name="theirs", project="other"),
    )
    job = Key(id="job-000001-1", digest="", role="job", project="default")
    assert (await house.get("/v1/models", key=job))[1]["models"] == ["ours"]
    assert [model["id"] for model in (await house.get("/v1/models", key=job))[1]["data"]] == ["ours"]
    assert [entry["name"] for entry in (await house.get("/v2/repository/index", key=job))[1]] == ["ours"]
    assert {entry["replica"] for entry in (await house.get("/v2/models/stats", key=job))[1]["model_stats"]} == {"ours"}
    assert (await house.get("/v1/models"))[1]["models"] == ["ours", "theirs"]
    for path in (
        "/v2/models/theirs", "/v2/models/theirs/ready", "/v2/models/theirs/stats", "/v2/models/theirs/config",
        "/v1/models/theirs", "/v2/repository/models/theirs/load",
    ):  # fmt: skip
        with pytest.raises(Forbidden) as refused:
            await house.get(path, key=job)
        assert refused.value.code == "wrong_project"
    with pytest.raises(Forbidden, match="role"):
        await house.get("/metrics", key=job)


async def test_ready_is_when_a_snapshot_has_come_and_nobody_said_stop(house: House) -> None:
    assert await house.get("/v2/health/ready") == (503, {"ready": False})
    house.pages.informed = True
    assert await house.get("/v2/health/ready") == (200, {"ready": True})
    house.pages.draining = True
    assert await house.get("/v2/health/ready") == (503, {"ready": False})
    assert await house.get("/v2/health/live") == (200, {"live": True})


async def test_a_deployment_is_ready_when_every_version_with_traffic_has_a_replica(house: House) -> None:
    one, two = await house.replica("a", 1), await house.replica("b", 2, running=False)
    await house.follow(deployment(one, two, traffic={1: 0.5, 2: 0.5}))
    assert (await house.get("/v2/models/m/ready"))[0] == 503
    assert (await house.get("/v2/models/m/versions/1/ready"))[0] == 200
    assert (await house.get("/v1/models/m"))[0] == 503
    await two.start()
    await until(lambda: len(next(iter(house.router.targets)).links(2)) == 1)
    assert await house.get("/v2/models/m/ready") == (200, {"name": "m", "ready": True})


async def test_models_are_listed_as_openai_s_and_kserve_s_clients_look_for_them(house: House) -> None:
    await house.follow(deployment(await house.replica("a"), created=1234.5, project="letters"))
    one = {"id": "m", "object": "model", "created": 1234, "owned_by": "letters"}
    assert await house.get("/v1/models") == (200, {"object": "list", "data": [one], "models": ["m"]})
    assert await house.get("/v1/models/m") == (200, one | {"name": "m", "ready": True})


async def test_metadata_comes_from_a_replica_and_lists_what_is_served(house: House) -> None:
    one, two = await house.replica("a", 1), await house.replica("b", 2)
    await house.follow(deployment(one, two))
    assert await house.get("/v2/models/m/versions/2") == (200, {"name": "b", "versions": ["1", "2"]})
    assert await house.get("/v2/models/m/versions/1/config") == (200, {"name": "a"})


async def test_a_silent_replica_keeps_nobody_waiting(house: House) -> None:
    one, two = await house.replica("a"), await house.replica("b")
    await house.follow(deployment(one, two))
    one.hold = two.hold = True
    with pytest.raises(Unavailable, match="answered within"):
        await house.get("/v2/models/m")
    assert all(call.cancelled for call in one.calls + two.calls) or await _later(one, two)
    two.hold = False
    assert await house.get("/v2/models/m/stats") == (200, {"model_stats": [{"name": "b", "replica": "b"}]})


async def _later(*replicas: FakeReplica) -> bool:
    await until(lambda: all(call.cancelled for replica in replicas for call in replica.calls))
    return True


async def test_nothing_runs(house: House) -> None:
    one = await house.replica("a", running=False)
    await house.follow(deployment(one), deployment(name="starting"))
    with pytest.raises(Unavailable):
        await house.get("/v2/models/m")
    assert await house.get("/v2/models/m/stats") == (200, {"model_stats": []})
    with pytest.raises(Unavailable, match="starting"):
        await house.get("/v2/models/starting/ready")
    status, listed = await house.get("/v1/models")
    assert (status, listed["models"], [one["id"] for one in listed["data"]]) == (200, ["m", "starting"], ["m", "starting"])


async def test_the_index(house: House) -> None:
    one, two = await house.replica("a", 1), await house.replica("b", 2, running=False)
    await house.follow(deployment(one, two))
    entries = [
        {"name": "m", "version": "1", "state": "READY", "reason": ""},
        {"name": "m", "version": "2", "state": "LOADING", "reason": ""},
    ]
    assert await house.get("/v2/repository/index") == (200, entries)
    assert await house.get("/v2/repository/index", b'{"ready":false}') == (200, entries)
    assert await house.get("/v2/repository/index", b'{"ready":true}') == (200, entries[:1])
    with pytest.raises(InvalidInput):
        await house.get("/v2/repository/index", b'{"raedy":true}')


async def test_load_and_unload_are_control_s_business(house: House) -> None:
    await house.follow(deployment(await house.replica("a")))
    assert await house.get("/v2/repository/models/m/load") == (200, {})
    with pytest.raises(Conflict, match="openmaas undeploy m"):
        await house.get("/v2/repository/models/m/unload")
    with pytest.raises(NotFound):
        await house.get("/v2/repository/models/x/load")

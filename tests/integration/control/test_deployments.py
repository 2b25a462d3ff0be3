"""Deployments on both databases, with a supervisor that is a list of what it would have told."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from openmaas.api.planes import Planes
from openmaas.control.deployments import DeploymentService
from openmaas.control.jobs import JobService
from openmaas.control.keys import KeyService
from openmaas.control.measurements import MeasurementService
from openmaas.control.observed import Fleet
from openmaas.control.rollout import Rollout
from openmaas.control.snapshots import Hub
from openmaas.core.contracts import (
    Cause,
    ControlCall,
    Desired,
    Observed,
    ProcessStatus,
    ReplicaState,
    ReplicaStatus,
    Snapshot,
    encode,
)
from openmaas.core.errors import Conflict, InvalidInput, NotFound
from openmaas.core.link import LinkServer, connect
from openmaas.core.manifest import Manifest
from openmaas.core.resources import DeploymentInfo, DeployRequest
from openmaas.core.settings import Settings
from openmaas.core.types import Signature
from openmaas.store.database import Database
from openmaas.store.tables import AliasMoveRow, AliasRow, KeyRow, ModelRow, VersionRow

FAILED = Cause(code="load_failed", message="No such file.", stderr=("trace",), next_step="openmaas logs digits")


def add_versions(database: Database, model: str, count: int) -> None:
    with database.write() as session:
        row = ModelRow(
            project="default", name=model, last_number=count, versions=count, latest=count, size=0, created_at=1, updated_at=1
        )
        session.add(row)
        session.flush()
        for number in range(1, count + 1):
            manifest = Manifest(
                format="dummy",
                engine="dummy",
                entry=f"{number}",
                signature=Signature(inputs=(), outputs=()),
                files=(),
            )
            session.add(
                VersionRow(
                    project="default", model_id=row.id, number=number, digest=manifest.digest, format="dummy", engine="dummy",
                    size=0, manifest=manifest.canonical().decode(), details="{}", card="", created_at=1, created_by="admin",
                )
            )  # fmt: skip


class World:
    """Control's part of a server, and the supervisor's reports written by hand."""

    def __init__(self, database: Database, logs: Path) -> None:
        self.database = database
        self.fleet = Fleet()
        self.hub = Hub(database, self.fleet, asyncio.get_running_loop())
        self.rollout = Rollout(database, self.fleet, self.hub)
        settings = Settings(home=str(logs.parent), measure="never")
        jobs = JobService(settings, database, self.fleet, KeyService(settings, database, self.hub.publish), self.hub.publish)
        engines = MeasurementService(settings, database, jobs, self.hub.publish)
        self.deployments = DeploymentService(database, self.fleet, self.hub.publish, logs, engines)
        self.told: dict[str, ReplicaStatus] = {}

    def deploy(self, version: str, **options: object) -> DeploymentInfo:
        return self.deployments.deploy(DeployRequest(version=version, **options), actor="admin")  # type: ignore[arg-type]

    def tell(self, *ids: str, state: ReplicaState = "ready", cause: Cause | None = None) -> None:
        """These replicas are in that state now."""
        for name in ids:
            self.told[name] = ReplicaStatus(id=name, state=state, address=f"unix:/s/{name}", pid=7, since=1.0, cause=cause)
        self.report()

    def gone(self, *ids: str) -> None:
        for name in ids:
            del self.told[name]
        self.report()

    def report(self) -> None:
        process = ProcessStatus(name="supervisor", state="ready", pid=1)
        self.rollout.observe(Observed(desired=1, replicas=tuple(self.told.values()), processes=(process,)))

    async def desired(self) -> Desired:
        return msgspec.msgpack.decode(await asyncio.wait_for(anext(self.hub.desired.follow()), 5), type=Desired)

    async def desired_ids(self) -> list[str]:
        await asyncio.sleep(0)
        return [spec.id for spec in (await self.desired()).replicas]

    async def snapshot(self) -> Snapshot:
        await asyncio.sleep(0)
        return msgspec.msgpack.decode(await asyncio.wait_for(anext(self.hub.snapshots.follow()), 5), type=Snapshot)

    def history(self, name: str = "digits") -> list[tuple[int, int, str, str]]:
        moves = self.deployments.history(name).items
        return [(move.revision, move.version, move.action, move.state) for move in reversed(moves)]


@pytest.fixture
async def world(database: Database, tmp_path: Path) -> World:
    add_versions(database, "digits", 3)
    add_versions(database, "other", 1)
    return World(database, tmp_path)


async def test_a_first_deploy_serves_when_all_its_replicas_are_ready(world: World) -> None:
    world.report()
    info = world.deploy("digits", replicas=2, memory=2**30, timeout=5)
    assert (info.state, info.version, info.serving, info.replicas, info.ready) == ("starting", 3, None, 2, 0)
    desired = await world.desired()
    assert [spec.id for spec in desired.replicas] == ["digits-1-0", "digits-1-1"]
    assert (desired.replicas[0].memory, desired.replicas[0].timeout, desired.replicas[0].manifest.entry) == (2**30, 5, "3")
    world.tell("digits-1-0")
    assert world.deployments.get("digits").state == "starting"
    assert (await world.snapshot()).deployments[0].traffic == {}
    world.tell("digits-1-1")
    info = world.deployments.get("digits")
    assert (info.state, info.serving, info.ready) == ("ready", 3, 2)
    deployment = (await world.snapshot()).deployments[0]
    assert (deployment.name, deployment.model, deployment.traffic, deployment.timeout) == ("digits", "digits", {3: 1.0}, 5)
    assert [(replica.id, replica.version, replica.address) for replica in deployment.replicas] == [
        ("digits-1-0", 3, "unix:/s/digits-1-0"),
        ("digits-1-1", 3, "unix:/s/digits-1-1"),
    ]
    assert world.history() == [(1, 3, "deploy", "ready")]


async def test_gateways_are_told_when_a_deployment_first_was(world: World) -> None:
    before = time.time()
    world.deploy("digits:1")
    world.tell("digits-1-0")
    created = (await world.snapshot()).deployments[0].created
    assert before <= created <= time.time()
    world.deploy("digits:2")
    world.tell("digits-2-0")
    assert [one.created for one in (await world.snapshot()).deployments] == [created]


async def test_another_version_takes_over_at_once_and_the_older_leaves(world: World) -> None:
    world.deploy("digits:1")
    world.tell("digits-1-0")
    info = world.deploy("digits:2")
    assert (info.state, info.version, info.serving) == ("updating", 2, 1)
    assert await world.desired_ids() == ["digits-1-0", "digits-2-0"]
    world.tell("digits-2-0", state="starting")
    deployment = (await world.snapshot()).deployments[0]
    assert deployment.traffic == {1: 1.0}
    assert [replica.id for replica in deployment.replicas] == ["digits-1-0", "digits-2-0"]
    world.tell("digits-2-0")
    assert await world.desired_ids() == ["digits-2-0"]
    deployment = (await world.snapshot()).deployments[0]
    assert (deployment.traffic, [replica.id for replica in deployment.replicas]) == ({2: 1.0}, ["digits-2-0"])
    assert world.history() == [(1, 1, "deploy", "superseded"), (2, 2, "deploy", "ready")]


async def test_a_version_that_does_not_come_up_leaves_the_old_one_serving(world: World) -> None:
    world.deploy("digits:1")
    world.tell("digits-1-0")
    world.deploy("digits:2", replicas=2)
    world.tell("digits-2-0")
    world.tell("digits-2-1", state="failed", cause=FAILED)
    info = world.deployments.get("digits")
    assert (info.state, info.version, info.serving, info.ready) == ("failed", 2, 1, 1)
    assert info.cause is not None
    assert (info.cause.code, info.cause.stderr, info.cause.next_step) == ("load_failed", ["trace"], "openmaas logs digits")
    assert await world.desired_ids() == ["digits-1-0"]
    assert (await world.snapshot()).deployments[0].traffic == {1: 1.0}
    assert world.history()[-1] == (2, 2, "deploy", "failed")
    world.deploy("digits:3")
    world.tell("digits-3-0")
    assert world.deployments.get("digits").state == "ready"
    assert world.deployments.get("digits").cause is None


async def test_a_failed_replica_that_is_not_the_new_revisions_says_nothing_about_it(world: World) -> None:
    world.deploy("digits:1")
    world.tell("digits-1-0")
    world.deploy("digits:2")
    world.tell("digits-1-0", state="failed", cause=FAILED)
    assert world.deployments.get("digits").state == "updating"
    world.tell("digits-2-0")
    assert (world.deployments.get("digits").state, world.deployments.get("digits").serving) == ("ready", 2)


async def test_a_deploy_while_another_starts_takes_its_place(world: World) -> None:
    world.deploy("digits:1")
    world.deploy("digits:2")
    assert await world.desired_ids() == ["digits-2-0"]
    world.tell("digits-1-0")
    assert world.deployments.get("digits").serving is None
    world.tell("digits-2-0")
    assert world.history() == [(1, 1, "deploy", "superseded"), (2, 2, "deploy", "ready")]


async def test_replicas_that_crash_later_fail_the_deployment_and_stay_desired(world: World) -> None:
    world.deploy("digits:1", replicas=2)
    world.tell("digits-1-0", "digits-1-1")
    world.tell("digits-1-0", state="failed", cause=FAILED)
    info = world.deployments.get("digits")
    assert (info.state, info.ready) == ("ready", 1)
    assert info.cause is not None
    world.tell("digits-1-1", state="backoff")
    assert world.deployments.get("digits").state == "failed"
    assert await world.desired_ids() == ["digits-1-0", "digits-1-1"]
    world.tell("digits-1-0", "digits-1-1")
    assert world.deployments.get("digits").state == "ready"


async def test_rollback_walks_back_and_says_when_nothing_is_before(world: World) -> None:
    for number in (1, 2, 3):
        world.deploy(f"digits:{number}", max_batch=number)
        world.tell(f"digits-{number}-0")
    for revision, number in ((4, 2), (5, 1)):
        info = world.deployments.rollback("digits", actor="admin")
        assert (info.state, info.version, info.options["max_batch"]) == ("updating", number, number)
        world.tell(f"digits-{revision}-0")
        assert world.deployments.get("digits").serving == number
    with pytest.raises(Conflict) as refused:
        world.deployments.rollback("digits", actor="admin")
    assert refused.value.code == "nothing_before"
    assert world.history()[3:] == [(4, 2, "rollback", "superseded"), (5, 1, "rollback", "ready")]
    world.deploy("digits:3")
    world.tell("digits-6-0")
    world.deployments.rollback("digits", actor="admin")
    world.tell("digits-7-0")
    assert world.deployments.get("digits").serving == 1


async def test_rollback_undoes_a_deploy_that_failed_or_still_starts(world: World) -> None:
    world.deploy("digits:1")
    world.tell("digits-1-0")
    world.deploy("digits:2")
    world.tell("digits-2-0", state="failed", cause=FAILED)
    assert world.deployments.rollback("digits", actor="admin").version == 1
    world.tell("digits-3-0")
    assert world.deployments.get("digits").state == "ready"
    world.deploy("digits:3")
    assert world.deployments.rollback("digits", actor="admin").version == 1
    assert world.history()[-2:] == [(4, 3, "deploy", "superseded"), (5, 1, "rollback", "starting")]


async def test_undeploy_stops_all_and_rollback_brings_it_back(world: World) -> None:
    world.deploy("digits:1")
    world.tell("digits-1-0")
    world.deploy("digits:2")
    info = world.deployments.undeploy("digits", actor="admin")
    assert (info.state, info.serving, info.replicas) == ("stopped", None, 0)
    assert await world.desired_ids() == []
    assert (await world.snapshot()).deployments == ()
    assert world.deployments.list().items == []
    assert world.history() == [(1, 1, "deploy", "stopped"), (2, 2, "deploy", "superseded"), (3, 1, "undeploy", "stopped")]
    with pytest.raises(NotFound):
        world.deployments.undeploy("digits", actor="admin")
    world.deployments.rollback("digits", actor="admin")
    world.tell("digits-4-0")
    assert (world.deployments.get("digits").state, world.deployments.get("digits").serving) == ("ready", 1)


async def test_it_is_ready_when_gateways_were_told_and_not_before(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.deploy("digits:1")
    world.report()
    with monkeypatch.context() as late:
        late.setattr(world.hub, "publish", lambda: None)
        world.tell("digits-1-0")
        assert world.deployments.get("digits").state == "starting"
    world.hub.publish()
    assert world.deployments.get("digits").state == "ready"
    world.deploy("digits:2")
    with monkeypatch.context() as late:
        late.setattr(world.hub, "publish", lambda: None)
        world.tell("digits-2-0")
        assert world.deployments.get("digits").state == "updating"
    world.hub.publish()
    assert (world.deployments.get("digits").state, world.deployments.get("digits").serving) == ("ready", 2)


async def test_a_name_stands_for_one_model_while_it_serves(world: World) -> None:
    world.deploy("digits")
    world.tell("digits-1-0")
    with pytest.raises(Conflict, match="--as") as refused:
        world.deploy("other", name="digits")
    assert refused.value.code == "other_model"
    world.deployments.undeploy("digits", actor="admin")
    world.deploy("other", name="digits")
    world.tell("digits-3-0")
    assert world.deployments.get("digits").model == "other"
    with pytest.raises(Conflict):
        world.deployments.rollback("digits", actor="admin")


async def test_the_same_version_again_gets_no_requests_before_it_serves(world: World) -> None:
    world.deploy("digits:1")
    world.tell("digits-1-0")
    world.deploy("digits:1", max_batch=1)
    world.tell("digits-2-0", state="starting")
    assert [replica.id for replica in (await world.snapshot()).deployments[0].replicas] == ["digits-1-0"]
    world.tell("digits-2-0")
    assert [replica.id for replica in (await world.snapshot()).deployments[0].replicas] == ["digits-2-0"]


@pytest.mark.parametrize(
    ("option", "value"),
    [("replicas", 0), ("replicas", 65), ("memory", 1), ("max_batch", 0), ("max_queue", 0), ("max_wait", -1.0), ("timeout", 0.0),
     ("threads", -1), ("max_tokens", -1), ("timeout", float("nan")), ("max_wait", float("inf"))],
)  # fmt: skip
async def test_an_option_out_of_bounds_is_named(world: World, option: str, value: float) -> None:
    with pytest.raises(InvalidInput, match=option) as refused:
        world.deploy("digits", **{option: value})
    assert refused.value.code == "invalid_option"
    with pytest.raises(NotFound):
        world.deployments.get("digits")


async def test_what_does_not_exist_is_not_found(world: World) -> None:
    for call in (world.deployments.get, world.deployments.history, world.deployments.logs):
        with pytest.raises(NotFound):
            call("digits")
    for change in (world.deployments.rollback, world.deployments.undeploy):
        with pytest.raises(NotFound):
            change("digits", actor="admin")
    for reference in ("nothing", "digits:9", "digits@champion"):
        with pytest.raises(NotFound):
            world.deploy(reference)
    with pytest.raises(InvalidInput):
        world.deploy("digits", name="../x")


async def test_listings_are_paged(world: World) -> None:
    for name in ("c", "a", "b"):
        world.deploy("digits:1", name=name)
    first = world.deployments.list(limit=2)
    assert ([item.name for item in first.items], first.total, first.next) == (["a", "b"], 3, "b")
    second = world.deployments.list(limit=2, after=first.next)
    assert ([item.name for item in second.items], second.next) == (["c"], None)
    for number in (2, 3):
        world.deploy(f"digits:{number}", name="a")
    moves = world.deployments.history("a", limit=2)
    assert ([move.revision for move in moves.items], moves.total, moves.next) == ([3, 2], 3, "2")
    assert [move.revision for move in world.deployments.history("a", limit=2, after=moves.next).items] == [1]


async def test_replicas_are_told_with_the_version_that_they_hold(world: World) -> None:
    world.deploy("digits:2", name="a-1")
    world.deploy("digits:3", name="b")
    world.tell("a-1-1-0", "b-1-0", "unknown-1-0")
    world.tell("b-1-0", state="hung", cause=FAILED)
    replicas = {replica.id: replica for replica in world.deployments.replicas()}
    assert set(replicas) == {"a-1-1-0", "b-1-0"}
    assert (replicas["a-1-1-0"].deployment, replicas["a-1-1-0"].version, replicas["a-1-1-0"].state) == ("a-1", 2, "ready")
    assert replicas["b-1-0"].cause is not None


async def test_the_log_is_read_from_its_end_and_then_on(world: World, tmp_path: Path) -> None:
    world.deploy("digits", replicas=2)
    assert world.deployments.logs("digits").lines == []
    log = tmp_path / "digits.log"
    log.write_text("".join(f"digits-1-{number % 2} | line {number}\n" for number in range(100)) + "digits-1-0 | half")
    told = world.deployments.logs("digits", lines=2)
    assert told.lines == ["digits-1-0 | line 98", "digits-1-1 | line 99"]
    assert world.deployments.logs("digits", lines=1, replica="digits-1-0").lines == ["digits-1-0 | line 98"]
    with log.open("a") as file:
        file.write(" done\n")
    assert world.deployments.logs("digits", offset=told.offset).lines == ["digits-1-0 | half done"]
    log.write_text("anew\n")
    assert world.deployments.logs("digits", offset=told.offset).lines == ["anew"]


async def test_gateways_are_told_keys_and_the_aliases_of_what_serves(world: World) -> None:
    world.deploy("digits:2")
    world.tell("digits-1-0")
    with world.database.write() as session:
        session.add(KeyRow(id="admin", digest="d1", role="admin", project="default", created_at=1))
        session.add(KeyRow(id="old", digest="d2", role="admin", project="default", created_at=1, revoked_at=2))
        model = session.query(ModelRow).filter_by(name="digits").one()
        versions = {row.number: row.id for row in session.query(VersionRow).filter_by(model_id=model.id)}
        for alias, number in (("champion", 2), ("candidate", 3)):
            move = AliasMoveRow(
                project="default", model_id=model.id, alias=alias, number=number, action="set", actor="admin", at=1
            )
            session.add(move)
            session.flush()
            session.add(
                AliasRow(
                    model_id=model.id,
                    alias=alias,
                    project="default",
                    number=number,
                    version_id=versions[number],
                    move_id=move.id,
                )
            )
    world.hub.publish()
    snapshot = await world.snapshot()
    assert snapshot.deployments[0].aliases == {"champion": 2}
    assert [(key.id, key.digest) for key in snapshot.keys] == [("admin", "d1")]


async def test_versions_only_grow_also_when_control_starts_again(world: World, tmp_path: Path) -> None:
    world.deploy("digits:1")
    world.tell("digits-1-0")
    before = await world.snapshot(), await world.desired()
    world.report()
    assert (await world.snapshot(), await world.desired()) == before, "nothing changed: nothing is told anew"
    again = World(world.database, tmp_path)
    again.hub.publish()
    assert (await again.desired()).version > before[1].version
    assert (await again.desired()).replicas == before[1].replicas
    again.told = world.told
    again.report()
    snapshot = await again.snapshot()
    assert snapshot.version > before[0].version
    assert snapshot.deployments == before[0].deployments


async def test_no_snapshot_is_told_before_the_supervisor_was_heard(world: World) -> None:
    world.deploy("digits:1")
    await asyncio.sleep(0.01)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(world.snapshot(), 0.05)
    assert world.deployments.get("digits").state == "starting"
    world.report()
    assert (await world.snapshot()).deployments[0].name == "digits"


async def test_what_could_not_be_published_is_published_with_the_next_report(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.report()
    with monkeypatch.context() as broken:
        broken.setattr("openmaas.control.snapshots.next_value", lambda *_: 1 / 0)
        world.deploy("digits:1")
        assert world.hub.outdated
    world.report()
    assert await world.desired_ids() == ["digits-1-0"]
    assert not world.hub.outdated


@pytest.fixture
def sockets() -> Iterator[Path]:
    """A socket's path has about 100 bytes; tmp_path may be longer."""
    with tempfile.TemporaryDirectory(prefix="omc-") as folder:
        yield Path(folder)


async def test_the_link_door_pushes_at_once(world: World, sockets: Path) -> None:
    planes = Planes(world.hub, world.rollout.observe)
    server = LinkServer(planes.handle)
    address = f"unix:{sockets / 'control.sock'}"
    await server.listen(address)
    link = await connect(address)
    try:
        await asyncio.to_thread(world.hub.publish)
        watching = link.stream(encode(ControlCall("watch_desired", peer="supervisor")))
        assert msgspec.msgpack.decode(await anext(watching), type=Desired).replicas == ()
        await asyncio.to_thread(world.deploy, "digits:1")
        committed = time.monotonic()
        desired = msgspec.msgpack.decode(await anext(watching), type=Desired)
        assert time.monotonic() - committed < 5
        status = ReplicaStatus(id=desired.replicas[0].id, state="ready", address="unix:/a")
        await link.call(encode(ControlCall("observe")), encode(Observed(desired=desired.version, replicas=(status,))))
        assert world.deployments.get("digits").state == "ready"
        snapshots = link.stream(encode(ControlCall("watch_snapshot", peer="gateway-0")))
        assert msgspec.msgpack.decode(await anext(snapshots), type=Snapshot).deployments[0].traffic == {1: 1.0}
        with pytest.raises(InvalidInput):
            await link.call(b"\x80")
        await watching.aclose()
        await snapshots.aclose()
    finally:
        link.abort()
        await planes.close()
        server.close()

"""Measurements on both databases: begun, waited for, followed; jobs' ends are written by hand."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from openmaas.control.deployments import DeploymentService
from openmaas.control.jobs import JobService
from openmaas.control.keys import KeyService
from openmaas.control.measurements import MeasurementService
from openmaas.control.observed import Fleet
from openmaas.control.references import find_version
from openmaas.control.snapshots import Hub
from openmaas.core.contracts import Desired, JobSpec, Observed, ReplicaSpec
from openmaas.core.errors import Conflict, InvalidInput
from openmaas.core.hardware import Processor
from openmaas.core.manifest import Artifact, EngineChoice, Manifest
from openmaas.core.measurement import Measurement, Tried, TriedState
from openmaas.core.resources import CauseInfo, DeploymentInfo, DeployRequest, JobReport
from openmaas.core.settings import Settings
from openmaas.store.database import Database
from openmaas.store.tables import MeasurementRow, VersionRow
from tests.integration.control.test_deployments import add_versions

HERE = Processor(model="This one", cores=4)
MADE_UP = ("dummy", "fast", "first", "second", "there", "here", "a", "bad")
ELSEWHERE = Processor(model="Another", cores=4)


def tried(name: str, threads: int, rate: float, state: TriedState = "fit") -> Tried:
    choice = EngineChoice(engine=name, artifact=Artifact(kind="dummy", entry="1"), threads=threads)
    return Tried(
        choice=choice, state=state, rates={1: rate} if state == "fit" else {}, cause="" if state == "fit" else "It broke."
    )


def measured(*all_: Tried, processor: Processor = HERE) -> Measurement:
    return Measurement(processor=processor, sample="given", reference="r", tried=all_)


class World:
    """Control's part: deployments, jobs and measurements over one database."""

    def __init__(self, database: Database, home: Path, when: str = "push") -> None:
        self.database = database
        self._settings = Settings(home=str(home), measure=when, jobs=2)
        self.here = HERE
        self.gone: set[str] = set()
        self.started_again()

    def ways(self, manifest: Manifest) -> list[EngineChoice]:
        """Every engine that a test makes up is installed, but for those that are gone."""
        found = {name: tried(name, 0, 1).choice for name in MADE_UP if name not in self.gone}
        return [manifest.choice, *(choice for choice in found.values() if choice != manifest.choice)]

    def started_again(self) -> None:
        """As control is after a restart."""
        self.fleet = Fleet()
        self.hub = Hub(self.database, self.fleet, asyncio.get_running_loop())
        changed = self.hub.publish
        self.keys = KeyService(self._settings, self.database, changed)
        self.jobs = JobService(self._settings, self.database, self.fleet, self.keys, changed)
        self.engines = MeasurementService(self._settings, self.database, self.jobs, changed, lambda: self.here, self.ways)
        logs = Path(self._settings.home) / "logs"
        self.deployments = DeploymentService(self.database, self.fleet, changed, logs, self.engines)
        changed()

    def deploy(self, version: str = "digits:1", **options: object) -> DeploymentInfo:
        return self.deployments.deploy(DeployRequest(version=version, **options), actor="admin")  # type: ignore[arg-type]

    async def desired(self) -> Desired:
        await asyncio.sleep(0)
        return msgspec.msgpack.decode(await asyncio.wait_for(anext(self.hub.desired.follow()), 5), type=Desired)

    async def replicas(self) -> list[ReplicaSpec]:
        return list((await self.desired()).replicas)

    async def job(self) -> JobSpec:
        (spec,) = (await self.desired()).jobs
        return spec

    async def end(self, measurement: Measurement | None = None) -> str:
        """The only job that runs ends: with a measurement, or with a failure. Its id."""
        spec = await self.job()
        cause = CauseInfo(code="broken", message="It broke.", stderr=[], next_step="")
        report = JobReport(cause=cause) if measurement is None else JobReport(result=measurement.to_json())
        self.jobs.report(spec.id, report, key=self.keys.authenticate(spec.key).id)
        return spec.id

    async def measure(self, measurement: Measurement, version: str = "digits:1") -> str:
        self.jobs.submit("measure", {"version": version}, actor="admin")
        return await self.end(measurement)


@pytest.fixture
async def world(database: Database, tmp_path: Path) -> World:
    add_versions(database, "digits", 2)
    return World(database, tmp_path)


async def test_a_deployment_waits_for_the_measurement_and_follows_it(world: World) -> None:
    info = world.deploy(replicas=2)
    spec = await world.job()
    assert (spec.kind, spec.arguments["version"]) == ("measure", "digits:1")
    assert (info.state, info.measuring, info.engine) == ("starting", spec.id, None)
    assert await world.replicas() == []
    await world.end(measured(tried("dummy", 4, 50), tried("fast", 2, 100), tried("dummy", 1, 10)))
    first, second = await world.replicas()
    assert first.choice is not None
    assert (first.choice.engine, first.choice.threads) == ("fast", 0)
    assert first.choice == second.choice
    now = world.deployments.get("digits")
    assert now.measuring is None
    assert now.engine is not None
    assert now.engine.why == "measured: 100 rows/s with 2 of 2 threads, the fastest on This one"


@pytest.mark.parametrize("end", ["fails", "cancelled"])
async def test_it_goes_on_with_its_own_engine_when_that_ends_otherwise(world: World, end: str) -> None:
    world.deploy()
    job = (await world.job()).id
    if end == "fails":
        await world.end()
    else:
        world.jobs.cancel(job)
        world.jobs.observe(Observed(desired=world.fleet.desired))
    (spec,) = await world.replicas()
    assert spec.choice == spec.manifest.choice
    engine = world.deployments.get("digits").engine
    assert engine is not None
    assert engine.why == f"not measured: the job {job} {'has failed' if end == 'fails' else 'was cancelled'}"
    world.deploy()
    assert (await world.desired()).jobs == (), "it is not begun again by itself"


async def test_the_end_of_a_job_that_control_did_not_live_to_follow(world: World) -> None:
    """Killed right after the commit, before what follows it."""
    world.deploy()
    world.engines.settle = lambda: None  # type: ignore[method-assign]
    await world.end(measured(tried("fast", 4, 100)))
    assert await world.replicas() == []
    world.started_again()
    world.engines.observe(Observed(desired=1))
    (spec,) = await world.replicas()
    assert spec.choice is not None
    assert spec.choice.engine == "fast"


async def test_what_was_chosen_stays_through_restarts_and_new_measurements(world: World) -> None:
    await world.measure(measured(tried("first", 4, 100)))
    world.deploy()
    await world.measure(measured(tried("second", 4, 200)))
    world.started_again()
    assert [one.choice.engine for one in await world.replicas() if one.choice] == ["first"]
    world.deploy()
    assert {one.choice.engine for one in await world.replicas() if one.choice} == {"second"}


async def test_a_rollback_brings_the_engine_back_that_served(world: World) -> None:
    await world.measure(measured(tried("first", 4, 100)))
    world.deploy()
    with world.database.write() as session:  # it serves
        from openmaas.control.deployments import find_deployment, find_revision

        row = find_deployment(session, "default", "digits")
        row.serving, row.state = 1, "ready"
        find_revision(session, row, 1).state = "ready"
    await world.measure(measured(tried("second", 4, 200)))
    world.deploy()
    world.deployments.rollback("digits", actor="admin")
    newest = max(await world.replicas(), key=lambda spec: spec.revision)
    assert (newest.revision, newest.choice and newest.choice.engine) == (3, "first")


async def test_a_deployment_that_waits_may_be_replaced_and_stopped(world: World) -> None:
    world.deploy()
    world.deploy(engine="dummy")
    (spec,) = await world.replicas()
    assert (spec.revision, world.deployments.get("digits").measuring) == (2, None)
    world.deploy("digits:1", name="other")
    world.deployments.undeploy("other", actor="admin")
    await world.end(measured(tried("fast", 4, 100)))
    assert [one.id for one in await world.replicas()] == [spec.id]


async def test_figures_of_another_processor_do_not_count(world: World) -> None:
    world.here = ELSEWHERE
    await world.measure(measured(tried("there", 4, 100), processor=ELSEWHERE))
    world.here = HERE
    assert world.deploy().measuring is not None, "it is measured anew"
    await world.end(measured(tried("here", 4, 1)))
    (spec,) = await world.replicas()
    assert spec.choice is not None
    assert spec.choice.engine == "here"


async def test_rows_are_only_added_and_the_newest_is_shown(world: World) -> None:
    jobs = [await world.measure(measured(tried("a", 4, rate))) for rate in (1, 2)]
    with world.database.read() as session:
        _, version = find_version(session, "default", "digits:1")
        shown, running = world.engines.known(session, version)
        assert [row.job for row in session.query(MeasurementRow).order_by(MeasurementRow.id)] == jobs
    assert shown is not None
    assert (shown["job"], running) == (jobs[1], None)
    assert shown["tried"][0]["rates"] == {"1": 2.0}


async def test_forced_engines_need_no_measurement_and_heed_one(world: World) -> None:
    assert world.deploy(engine="dummy").measuring is None
    assert (await world.desired()).jobs == ()
    await world.measure(measured(tried("dummy", 4, 1), tried("bad", 4, 0, "crashed")))
    with pytest.raises(InvalidInput, match="bad cannot run this version: crashed: It broke") as caught:
        world.deploy(engine="bad")
    assert caught.value.next_step == "These can: dummy."
    with pytest.raises(InvalidInput, match="No engine here is called 'nobody'"):
        world.deploy(engine="nobody")
    assert world.deployments.get("digits").revision == 1


async def test_an_engine_that_is_gone_is_neither_followed_nor_forced(world: World) -> None:
    await world.measure(measured(tried("dummy", 4, 1), tried("fast", 4, 100)))
    world.gone.add("fast")
    info = world.deploy()
    assert info.engine is not None and info.engine.name == "dummy"
    with pytest.raises(InvalidInput, match="No engine here is called 'fast'"):
        world.deploy(engine="fast")


async def test_what_nothing_runs_must_be_converted_first(world: World) -> None:
    with world.database.write() as session:
        row = session.query(VersionRow).filter(VersionRow.number == 2).one()
        manifest = msgspec.json.decode(row.manifest, type=Manifest)
        row.manifest = msgspec.structs.replace(manifest, engine="", format="saved-model").canonical().decode()
    with pytest.raises(Conflict, match=r"No engine here runs digits:2 as it is \(format saved-model\)") as caught:
        world.deploy("digits:2")
    assert caught.value.next_step == "openmaas convert digits:2 --to onnx"
    assert (await world.desired()).jobs == ()


async def test_never(database: Database, tmp_path: Path) -> None:
    add_versions(database, "digits", 1)
    world = World(database, tmp_path, when="never")
    info = world.deploy()
    assert info.engine is not None
    assert info.engine.why == "not measured: OPENMAAS_MEASURE is never"
    assert len(await world.replicas()) == 1
    assert (await world.desired()).jobs == ()


@pytest.mark.parametrize("result", [{}, {"processor": "no"}, {"tried": [], "processor": {}}])
async def test_a_result_that_is_no_measurement_fails_the_job(world: World, result: dict[str, object]) -> None:
    world.jobs.submit("measure", {"version": "digits:1"}, actor="admin")
    spec = await world.job()
    with pytest.raises(InvalidInput, match="not a measurement"):
        world.jobs.report(spec.id, JobReport(result=result), key=world.keys.authenticate(spec.key).id)
    assert world.jobs.get(spec.id).state == "running"


@pytest.mark.parametrize("rate", ["12", 0.0, -1.0])
async def test_figures_that_could_not_be_followed_are_not_kept(world: World, rate: object) -> None:
    """Else every report of the supervisor, and every deployment of the version, would stumble over them."""
    world.deploy()
    spec = await world.job()
    result = measured(tried("fast", 4, 100)).to_json()
    result["tried"][0]["rates"] = {"1": rate}
    with pytest.raises(InvalidInput, match="not a measurement"):
        world.jobs.report(spec.id, JobReport(result=result), key=world.keys.authenticate(spec.key).id)
    assert world.jobs.get(spec.id).state == "running"
    await world.end()
    world.engines.observe(Observed(desired=world.fleet.desired))
    (replica,) = await world.replicas()
    assert replica.choice == replica.manifest.choice

"""Weights of generators on both databases: converted first, waited for, served; jobs' ends are written by hand."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import select

from openmaas.control.deployments import DeploymentService, find_deployment, find_revision
from openmaas.control.follow_up import FollowUpService
from openmaas.control.jobs import JobService
from openmaas.control.keys import KeyService
from openmaas.control.measurements import MeasurementService
from openmaas.control.observed import Fleet
from openmaas.control.snapshots import Hub
from openmaas.control.versions import version_info
from openmaas.core.contracts import Desired, JobSpec, Observed, ReplicaSpec
from openmaas.core.errors import InvalidInput
from openmaas.core.generation import Generator
from openmaas.core.hardware import Processor
from openmaas.core.jobs import recipe_of
from openmaas.core.manifest import Artifact, EngineChoice, Manifest
from openmaas.core.measurement import Measurement, Tried
from openmaas.core.resources import CauseInfo, DeploymentInfo, DeployRequest, JobReport
from openmaas.core.settings import Settings
from openmaas.core.types import Signature
from openmaas.formats import Examined
from openmaas.store.database import Database
from openmaas.store.tables import JobRow, ModelRow, VersionRow

HERE = Processor(model="This one", cores=4)
SOURCE, VARIANT = Artifact(kind="causal", entry="config.json"), Artifact(kind="openvino-genai", entry="openvino_model.xml")
GPU = EngineChoice(engine="vllm", artifact=SOURCE)


def manifest(artifact: Artifact, engine: str, weights: str) -> Manifest:
    generator = Generator(context=64, vocabulary=10, end=(1,), tokenizer="tokenizer.json", weights=weights)
    return Manifest(
        format=artifact.kind, engine=engine, entry=artifact.entry, artifacts=(artifact,), generator=generator,
        signature=Signature(inputs=(), outputs=()), files=(),
    )  # fmt: skip


class World:
    """Control's part, with one model: writer:1, as Hugging Face has it."""

    def __init__(self, database: Database, home: Path, when: str = "push") -> None:
        self.database = database
        self._settings = Settings(home=str(home), measure=when, jobs=2)
        self.extra: list[EngineChoice] = []
        self.fleet = Fleet()
        self.hub = Hub(database, self.fleet, asyncio.get_running_loop())
        changed = self.hub.publish
        self.keys = KeyService(self._settings, database, changed)
        self.jobs = JobService(self._settings, database, self.fleet, self.keys, changed)
        self.engines = MeasurementService(self._settings, database, self.jobs, changed, lambda: HERE, self._ways)
        self.deployments = DeploymentService(database, self.fleet, changed, home / "logs", self.engines)
        with database.write() as session:
            model = ModelRow(project="default", name="writer", last_number=0, versions=0, size=0, created_at=1, updated_at=1)
            session.add(model)
        self.add(manifest(SOURCE, "transformers", "bf16"))
        changed()

    def _ways(self, manifest: Manifest) -> list[EngineChoice]:
        own = [manifest.choice] if manifest.engine else []
        return [*own, *(one for one in self.extra if one.artifact.kind == manifest.choice.artifact.kind)]

    def add(self, one: Manifest, *, parent: str | None = None, recipe: str | None = None) -> str:
        """A version as a push registers it."""
        with self.database.write() as session:
            model = session.scalars(select(ModelRow)).one()
            model.last_number += 1
            model.versions += 1
            model.latest = model.last_number
            session.add(
                VersionRow(
                    project="default", model_id=model.id, number=model.last_number, digest=f"{model.last_number:064}",
                    format=one.format, engine=one.engine, size=0, manifest=one.canonical().decode(), details="{}", card="",
                    parent=parent, recipe=recipe, created_at=1, created_by="admin",
                )
            )  # fmt: skip
            return f"writer:{model.last_number}"

    def convert(self, weights: str) -> str:
        """What a job registers."""
        return self.add(
            manifest(VARIANT, "openvino-genai", weights), parent="writer:1", recipe=recipe_of(VARIANT.kind, weights)
        )

    def deploy(self, version: str = "writer:1", **options: Any) -> DeploymentInfo:
        return self.deployments.deploy(DeployRequest(version=version, **options), actor="admin")

    def now(self) -> DeploymentInfo:
        return self.deployments.get("writer")

    async def desired(self) -> Desired:
        await asyncio.sleep(0)
        return msgspec.msgpack.decode(await asyncio.wait_for(anext(self.hub.desired.follow()), 5), type=Desired)

    async def replicas(self) -> list[ReplicaSpec]:
        return list((await self.desired()).replicas)

    async def job(self) -> JobSpec:
        (spec,) = (await self.desired()).jobs
        return spec

    async def end(self, result: dict[str, Any] | None = None) -> str:
        """The only job that runs ends: with a result, or with a failure. Its id."""
        spec = await self.job()
        cause = CauseInfo(code="parity_failed", message="It answers otherwise.", stderr=[], next_step="")
        report = JobReport(cause=cause) if result is None else JobReport(result=result)
        self.jobs.report(spec.id, report, key=self.keys.authenticate(spec.key).id)
        return spec.id

    async def measured(self, **rates: float) -> str:
        """The job ends with the fastest of these weights registered."""
        tried = tuple(
            Tried(
                choice=EngineChoice(engine="openvino-genai", artifact=VARIANT, precision=weights, threads=4),
                state="fit",
                rates={1: rate, 8: rate * 4},
                perplexity=9.0,
                size=1,
            )
            for weights, rate in rates.items()
        )
        version = self.convert(max(rates, key=lambda name: rates[name]))
        measurement = Measurement(processor=HERE, sample="built-in", reference="r", tried=tried)
        return await self.end({"version": version, "created": True, "measurement": measurement.to_json()})

    def serves(self, revision: int) -> None:
        """The supervisor has told that its replicas are ready."""
        with self.database.write() as session:
            row = find_deployment(session, "default", "writer")
            row.serving, row.state = revision, "ready"
            find_revision(session, row, revision).state = "ready"


@pytest.fixture
async def world(database: Database, tmp_path: Path) -> World:
    return World(database, tmp_path)


async def test_a_deployment_waits_for_its_weights_and_becomes_one_of_the_variant(world: World) -> None:
    info = world.deploy(weights="int8")
    spec = await world.job()
    assert (spec.kind, spec.arguments) == ("convert", {"version": "writer:1", "to": "openvino-genai", "weights": "int8"})
    assert (info.state, info.version, info.measuring, info.engine) == ("starting", 1, spec.id, None)
    assert await world.replicas() == []
    await world.end({"version": world.convert("int8"), "created": True})
    (replica,) = await world.replicas()
    assert (replica.version, replica.manifest.format) == (2, "openvino-genai")
    now = world.now()
    assert (now.version, now.measuring, now.options["weights"]) == (2, None, "int8")
    assert now.engine is not None
    assert (now.engine.name, now.engine.why) == ("openvino-genai", "int8 weights were asked for")
    assert [move.version for move in world.deployments.history("writer").items] == [2]


async def test_a_variant_that_is_there_serves_at_once(world: World) -> None:
    world.convert("int4")
    world.convert("int8")
    info = world.deploy(weights="int4")
    assert (info.version, info.measuring) == (2, None)
    assert (await world.desired()).jobs == ()


async def test_auto_follows_what_the_job_measured_and_asks_no_second_time(world: World) -> None:
    world.deploy()
    spec = await world.job()
    assert spec.arguments["weights"] == "auto"
    with world.database.read() as session:
        assert session.scalars(select(JobRow)).one().measures, "nothing else runs beside it"
    await world.measured(bf16=10, int8=40, int4=30)
    (replica,) = await world.replicas()
    assert replica.version == 2
    engine = world.now().engine
    assert engine is not None
    assert engine.why == (
        "int8 weights, measured: 40.0 tokens/s with one stream, 160.0 with 8, the fastest of bf16, int8, int4 on This one"
    )
    assert world.deploy("writer:1").version == 2
    assert world.deploy("writer").version == 2, "the newest is the variant itself"
    assert world.deploy("writer", weights="source").version == 1
    assert (await world.desired()).jobs == ()


async def test_the_figures_are_shown_with_the_source_and_with_the_variant(world: World) -> None:
    world.deploy()
    await world.measured(int8=40, int4=30)
    with world.database.read() as session:
        for version in session.scalars(select(VersionRow)):
            shown, job = world.engines.known(session, version)
            assert shown is not None
            assert (len(shown["tried"]), job) == (2, None)


async def test_a_variant_that_was_deleted_is_made_again_without_measuring(world: World) -> None:
    world.deploy()
    await world.measured(int8=40, int4=30)
    with world.database.write() as session:
        session.scalars(select(VersionRow).where(VersionRow.number == 2)).one().deleted_at = 1.0
    world.deploy("writer:1")
    assert (await world.job()).arguments["weights"] == "int8"


@pytest.mark.parametrize("end", ["fails", "cancelled"])
async def test_weights_that_were_asked_for_and_cannot_be_made_fail_the_deployment(world: World, end: str) -> None:
    world.convert("int8")
    world.deploy(weights="int8")
    world.serves(1)
    job = world.deploy(weights="int4").measuring
    assert job is not None
    if end == "fails":
        await world.end()
    else:
        world.jobs.cancel(job)
        world.jobs.observe(Observed(desired=world.fleet.desired))
    now = world.now()
    assert (now.state, now.serving) == ("failed", 2)
    assert now.cause is not None
    assert (now.cause.code, now.cause.message) == {
        "fails": ("parity_failed", f"Its conversion to int4 weights ({job}) has failed: It answers otherwise."),
        "cancelled": ("conversion_cancelled", f"Its conversion to int4 weights ({job}) was cancelled."),
    }[end]
    assert [one.version for one in await world.replicas()] == [2], "what served goes on serving"
    assert world.deploy(weights="int4").measuring not in (None, job), "who asks again gets another try"


async def test_auto_serves_the_source_where_the_conversion_fails(world: World) -> None:
    world.deploy()
    job = await world.end()
    (replica,) = await world.replicas()
    assert (replica.version, replica.manifest.engine) == (1, "transformers")
    engine = world.now().engine
    assert engine is not None
    assert engine.why == (f"Its conversion ({job}) has failed: It answers otherwise; openmaas jobs show {job}")
    assert world.deploy().measuring is None, "it is not begun again by itself"


async def test_an_engine_that_was_asked_for_is_not_replaced_by_another(world: World) -> None:
    world.deploy(engine="openvino-genai")
    await world.end()
    now = world.now()
    assert (now.state, now.cause and now.cause.code) == ("failed", "parity_failed")


async def test_auto_fails_where_nothing_here_runs_the_source(world: World) -> None:
    world.add(manifest(SOURCE, "", "bf16"))
    world.deploy("writer:2")
    await world.end()
    now = world.now()
    assert (now.state, now.cause and now.cause.code) == ("failed", "parity_failed")


async def test_source_converts_nothing(world: World) -> None:
    info = world.deploy(weights="source")
    assert (info.version, info.engine and info.engine.name, info.measuring) == (1, "transformers", None)
    assert (await world.desired()).jobs == ()


async def test_a_gpu_with_vllm_takes_the_source(world: World) -> None:
    world.extra = [GPU]
    info = world.deploy()
    assert (info.version, info.engine and info.engine.name) == (1, "vllm")
    assert world.deploy(weights="int8").measuring is not None


async def test_an_engine_that_is_named_serves_the_source(world: World) -> None:
    info = world.deploy(engine="transformers")
    assert (info.version, info.engine and info.engine.name) == (1, "transformers")
    assert world.deploy(engine="openvino-genai", weights="int8").measuring is not None
    with pytest.raises(InvalidInput, match="not int8 weights"):
        world.deploy(engine="transformers", weights="int8")


async def test_weights_of_other_versions_are_as_they_are(world: World) -> None:
    gguf = world.add(manifest(Artifact(kind="gguf", entry="w.gguf"), "openvino-genai", "q8_0"))
    assert world.deploy(gguf).version == 2
    assert world.deploy(gguf, weights="source").version == 2
    with pytest.raises(InvalidInput, match=r"cannot be made of writer:2: it has q8_0 weights already"):
        world.deploy(gguf, weights="int8")


async def test_other_weights_of_a_variant_are_made_of_its_source(world: World) -> None:
    variant = world.convert("int8")
    assert world.deploy(variant, weights="int8").version == 2
    info = world.deploy(variant, weights="int4")
    assert (await world.job()).arguments == {"version": "writer:1", "to": "openvino-genai", "weights": "int4"}
    await world.end({"version": world.convert("int4"), "created": True})
    assert (info.version, world.now().version) == (2, 3)


async def test_a_rollback_brings_the_variant_back_and_waits_for_nothing(world: World) -> None:
    world.deploy(weights="int8")
    await world.end({"version": world.convert("int8"), "created": True})
    world.serves(1)
    world.deploy(weights="source")
    world.serves(2)
    info = world.deployments.rollback("writer", actor="admin")
    assert (info.version, info.measuring, info.options["weights"]) == (2, None, "int8")
    newest = max(await world.replicas(), key=lambda spec: spec.revision)
    assert (newest.revision, newest.version) == (3, 2)


async def test_a_deployment_that_waits_may_be_replaced(world: World) -> None:
    world.deploy(weights="int8")
    world.deploy(weights="source")
    await world.end()
    now = world.now()
    assert (now.state, now.version, now.revision) == ("starting", 1, 2)


async def test_nothing_is_measured_where_settings_say_never(database: Database, tmp_path: Path) -> None:
    world = World(database, tmp_path, when="never")
    engine = world.deploy().engine
    assert engine is not None
    assert (engine.name, engine.why) == ("transformers", "OPENMAAS_MEASURE is never, so that no weights were measured")
    assert world.deploy(weights="int8").measuring is not None


async def test_a_push_begins_no_measurement_of_engines(world: World) -> None:
    with world.database.read() as session:
        version = session.scalars(select(VersionRow)).one()
        info = version_info(session, session.get_one(ModelRow, version.model_id), version)
    examined = Examined(format="causal", engine="transformers", entry="config.json", signature=Signature(inputs=(), outputs=()))
    assert FollowUpService(world.jobs, world.engines).begin(info, examined, "admin", "default") == []


async def test_what_a_request_leaves_open_goes_by_what_the_version_does(world: World) -> None:
    options = world.deploy(weights="source").options
    assert (options["max_batch"], options["max_queue"], options["timeout"]) == (16, 128, 600.0)
    options = world.deploy(weights="source", max_batch=4, timeout=5.0).options
    assert (options["max_batch"], options["max_queue"], options["timeout"]) == (4, 128, 5.0)
    with pytest.raises(InvalidInput, match="'fp8'; it must be one of auto, source, bf16, int8, int4"):
        world.deploy(weights="fp8")

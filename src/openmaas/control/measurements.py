"""Measurements of engines: begun where one is missing, kept when one succeeds, and followed by deployments.

Of what generates text, weights are measured instead, by the job that converts it (control/weights.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from openmaas.control.decisions import Decision, ask_gate, enact
from openmaas.control.gates import GateService
from openmaas.control.job_rows import OPEN, find_job, job_id
from openmaas.control.jobs import JobService
from openmaas.control.references import find_version
from openmaas.control.resolution import AUTO, follow, force, require_runnable, still_possible, unmeasured
from openmaas.control.revisions import Options, decode_options
from openmaas.control.serving import newest_measurement, newest_measuring
from openmaas.control.weights import KIND as CONVERSION
from openmaas.control.weights import Weights
from openmaas.core.contracts import Cause, Observed
from openmaas.core.errors import InvalidInput, OpenMaaSError
from openmaas.core.hardware import Processor, processor
from openmaas.core.jobs import Arguments, MeasureArguments
from openmaas.core.log import get_logger
from openmaas.core.manifest import EngineChoice, Manifest
from openmaas.core.measurement import Measurement
from openmaas.core.names import DEFAULT_PROJECT
from openmaas.core.resources import JobInfo, VersionInfo
from openmaas.core.settings import Settings
from openmaas.formats.ways import ways_to_run
from openmaas.store.database import Database
from openmaas.store.tables import DeploymentRevisionRow, DeploymentRow, JobRow, MeasurementRow, VersionRow

KIND = MeasureArguments.kind

_log = get_logger("measurement")


class MeasurementService:
    """`changed` is called after each commit by which a revision got its engine."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        jobs: JobService,
        changed: Callable[[], None],
        here: Callable[[], Processor] = processor,
        ways: Callable[[Manifest], Sequence[EngineChoice]] = ways_to_run,
        clock: Callable[[], float] = time.time,
        gates: GateService | None = None,
    ) -> None:
        self._gates = gates or GateService(database, here, clock)
        self._when = settings.measure
        self._database = database
        self._jobs = jobs
        self._changed = changed
        self._here = here
        self._ways = ways
        self._clock = clock
        self._weights = Weights(self._newest, ways, here, begins=self._when != "never")
        jobs.on_success(KIND, self._record)
        jobs.on_success(CONVERSION, self._record_weights)
        for kind in (KIND, CONVERSION):
            jobs.on_end(kind, lambda _: self.settle())

    # beginning

    def after_push(self, version: VersionInfo, actor: str, project: str = DEFAULT_PROJECT) -> list[str]:
        """Begin to measure a version that is new, where settings say so. The ids of the jobs; a push never fails by this."""
        generates = version.manifest.get("generator") is not None
        if self._when != "push" or not version.engine or generates:
            return []
        try:
            return [self._submit(f"{version.model}:{version.number}", actor, project)]
        except OpenMaaSError as error:
            _log.warning("not begun", version=f"{version.model}:{version.number}", cause=error.message)
            return []

    def prepare(self, reference: str, options: Options, *, actor: str, project: str = DEFAULT_PROJECT) -> None:
        """Before a deployment: begin to measure where `auto` has nothing to follow on this processor, or to convert a version
        that generates text to the weights that are asked for.

        Not again after one that failed or was cancelled: people decide whether that is worth it. Raises NotFound, and what
        `choose` raises.
        """
        with self._database.read() as session:
            model, version = find_version(session, project, reference)
            manifest, exact = _manifest(version), f"{model.name}:{version.number}"
            arguments: Arguments | None = None
            if manifest.generator is not None:
                arguments = self._weights.missing(session, version, options)
            else:
                require_runnable(exact, manifest)
                wanted = options.engine == AUTO and self._when != "never"
                if wanted and self._never_measured(session, version):
                    arguments = MeasureArguments(version=exact)
        if arguments is not None:
            self._jobs.submit(arguments.kind, msgspec.to_builtins(arguments), actor=actor, project=project)

    def _never_measured(self, session: Session, version: VersionRow) -> bool:
        job = newest_measuring(session, version)
        elsewhere = job is None or job.state == "succeeded"  # on another processor
        return elsewhere and self._newest(session, version) is None

    def _submit(self, reference: str, actor: str, project: str) -> str:
        return self._jobs.submit(KIND, {"version": reference}, actor=actor, project=project).id

    # keeping

    def _record(self, session: Session, job: JobInfo) -> None:
        """In the transaction that ends the job. Raises InvalidInput for a result that is not what the task gives."""
        self._keep(session, job, job.subject, job.result)

    def _record_weights(self, session: Session, job: JobInfo) -> None:
        """Those that were measured are kept with the source, which deployments follow, and with the version that was made."""
        result = job.result or {}
        if (measurement := result.get("measurement")) is not None:
            for reference in (job.subject, str(result.get("version"))):
                self._keep(session, job, reference, measurement)

    def _keep(self, session: Session, job: JobInfo, reference: str, told: Any) -> None:
        result = msgspec.json.encode(told)
        try:
            measurement = msgspec.json.decode(result, type=Measurement)  # as it will be read again
        except msgspec.ValidationError as error:
            raise InvalidInput(f"The result is not a measurement: {error}.", code="invalid_result") from None
        if any(rate <= 0 for one in measurement.tried for rate in one.rates.values()):
            raise InvalidInput("The result is not a measurement: it has a rate that is not above 0.", code="invalid_result")
        _, version = find_version(session, job.project, reference)
        session.add(
            MeasurementRow(
                project=job.project,
                digest=version.digest,
                processor=measurement.processor.label,
                result=result.decode(),
                job=job.id,
                at=self._clock(),
            )
        )

    def known(self, session: Session, version: VersionRow) -> tuple[dict[str, Any] | None, str | None]:
        """The newest measurement on this processor, as its job left it, with the job's id and when it was; and the id of a job
        that is measuring the version, or converting it where it generates text, or waits for its turn."""
        row, job = self._newest_row(session, version), newest_measuring(session, version)
        shown = None if row is None else {**msgspec.json.decode(row.result), "job": row.job, "at": row.at}
        if _manifest(version).generator is not None:
            return shown, self._weights.converting(session, version)
        return shown, job_id(job.number) if job is not None and job.state in OPEN else None

    def _newest(self, session: Session, version: VersionRow) -> Measurement | None:
        row = self._newest_row(session, version)
        return None if row is None else msgspec.json.decode(row.result, type=Measurement)

    def _newest_row(self, session: Session, version: VersionRow) -> MeasurementRow | None:
        return newest_measurement(session, version, self._here())

    # choosing

    def choose(self, session: Session, version: VersionRow, options: Options) -> Decision:
        """The version and the engine for a revision, or the id of the job that it has to wait for.

        Raises InvalidInput where an engine or weights are asked for that the version cannot have.
        """
        manifest, cores = _manifest(version), self._here().cores
        if manifest.generator is not None:
            return self._weights.choose(session, version, options)
        ways = self._ways(manifest)
        measurement = still_possible(self._newest(session, version), ways)
        if options.engine != AUTO:
            return Decision(version, force(options.engine, ways, measurement, options, cores))
        if measurement is not None:
            return Decision(version, follow(measurement, manifest, options, cores))
        job = newest_measuring(session, version)
        if job is not None and job.state in OPEN:
            return Decision(version, job=job_id(job.number))
        return Decision(version, unmeasured(manifest, _why_not(job, self._when)))

    def observe(self, _: Observed) -> None:
        """At each report of the supervisor, since control may have been killed between the end of a job and what follows."""
        self.settle()

    def settle(self) -> None:
        """Give their engines, or the cause of their failure, to revisions whose job is over, whichever way it ended."""
        with self._database.read() as session:
            if not any(_is_over(session, row) for row in _waiting(session)):
                return
        with self._database.write() as session:
            for row in [row for row in _waiting(session) if _is_over(session, row)]:
                self._settle(session, row)
        self._changed()

    def _settle(self, session: Session, row: DeploymentRevisionRow) -> None:
        version, options = session.get_one(VersionRow, row.version_id), decode_options(row.options)
        try:
            decision = self.choose(session, version, options)
            if (refusal := self._refusal(session, row, decision, options)) is not None:
                raise refusal
        except OpenMaaSError as error:  # the gate refuses it, or what could serve it is not installed any more
            decision = Decision(version, cause=Cause(code=error.code, message=error.message, next_step=error.next_step or ""))
        enact(session, row, decision, self._clock())

    def _refusal(
        self, session: Session, row: DeploymentRevisionRow, decision: Decision, options: Options
    ) -> OpenMaaSError | None:
        """What the deployment's gate says of what will serve, once that is known."""
        if decision.engine is None:
            return None
        deployment = session.get_one(DeploymentRow, row.deployment_id)
        serving = select(DeploymentRevisionRow.number).where(
            DeploymentRevisionRow.deployment_id == deployment.id, DeploymentRevisionRow.revision == deployment.serving
        )
        previous = session.scalar(serving)
        return ask_gate(session, self._gates, decision, options, name=deployment.name, previous=previous, actor=row.actor)


def _manifest(version: VersionRow) -> Manifest:
    return msgspec.json.decode(version.manifest, type=Manifest)


def _waiting(session: Session) -> list[DeploymentRevisionRow]:
    query = select(DeploymentRevisionRow).where(
        DeploymentRevisionRow.state == "starting", DeploymentRevisionRow.measuring.is_not(None)
    )
    return list(session.scalars(query.order_by(DeploymentRevisionRow.id)))


def _is_over(session: Session, row: DeploymentRevisionRow) -> bool:
    return find_job(session, row.project, row.measuring or "").state not in OPEN


def _why_not(job: JobRow | None, when: str) -> str:
    if job is None:
        return "OPENMAAS_MEASURE is never" if when == "never" else "there is no measurement"
    became = {"succeeded": "ran on another processor", "cancelled": "was cancelled"}.get(job.state, "has failed")
    return f"the job {job_id(job.number)} {became}"

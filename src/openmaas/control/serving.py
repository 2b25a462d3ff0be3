"""By which engine a version serves, or would where nobody asks for another: what proves anything of it runs by this one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import and_, or_, select
from sqlalchemy.orm import Session

from openmaas.control.job_rows import OPEN, job_id
from openmaas.control.resolution import decode_resolution, follow, still_possible
from openmaas.control.revisions import Options
from openmaas.core.hardware import Processor, processor
from openmaas.core.jobs import MeasureArguments
from openmaas.core.manifest import EngineChoice, Manifest
from openmaas.core.measurement import Measurement
from openmaas.formats.ways import ways_to_run
from openmaas.store.tables import DeploymentRevisionRow, DeploymentRow, JobRow, MeasurementRow, VersionRow

Ways = Callable[[Manifest], Sequence[EngineChoice]]


@dataclass(frozen=True, kw_only=True)
class Serving:
    """engines: labels, each once; several where deployments serve the version by different ones. measuring: id of the job that
    is finding out which would serve, while there is no other answer; then there are no engines."""

    engines: tuple[str, ...] = ()
    measuring: str = ""


def serving(
    session: Session, version: VersionRow, here: Callable[[], Processor] = processor, ways: Ways = ways_to_run
) -> Serving:
    """Of a version: the engines of the deployments that serve it or are starting to, else the one that `deploy` would choose.

    Of what generates text, whose weights a deployment may choose too, the latter is the version's own as it is.
    """
    if named := deployed_choices(session, version):
        return Serving(engines=tuple(sorted({choice.label for _, choice in named})))
    manifest = msgspec.json.decode(version.manifest, type=Manifest)
    possible = ways(manifest)
    if manifest.generator is None:
        found = newest_measurement(session, version, here())
        told = None if found is None else msgspec.json.decode(found.result, type=Measurement)
        measurement = still_possible(told, possible)
        if measurement is not None:
            return Serving(engines=(follow(measurement, manifest, Options(), here().cores).choice.label,))
        job = newest_measuring(session, version)
        if job is not None and job.state in OPEN:
            return Serving(measuring=job_id(job.number))
    own = [manifest.choice] if manifest.engine else list(possible)
    return Serving(engines=tuple(one.label for one in own[:1]))


def served_by(session: Session, version: VersionRow) -> list[dict[str, Any]]:
    """For each engine by which deployments serve the version or are starting to, in the order of `Serving.engines`: its label
    (`engine`), the name of one `deployment`, and the `choice`, an openmaas.core.manifest.EngineChoice as JSON."""
    labels = {choice.label: (name, choice) for name, choice in reversed(deployed_choices(session, version))}
    return [
        {"engine": label, "deployment": labels[label][0], "choice": msgspec.to_builtins(labels[label][1])}
        for label in sorted(labels)
    ]


def deployed_choices(session: Session, version: VersionRow) -> list[tuple[str, EngineChoice]]:
    """Names of the deployments that serve the version or are starting to, and by what, in the order of their names."""
    revision = DeploymentRevisionRow
    starts = and_(revision.revision == DeploymentRow.revision, revision.state == "starting")
    query = (
        select(DeploymentRow.name, revision.engine)
        .join(revision, revision.deployment_id == DeploymentRow.id)
        .where(revision.version_id == version.id, DeploymentRow.state != "stopped", revision.engine.is_not(None))
        .where(or_(revision.revision == DeploymentRow.serving, starts))
        .order_by(DeploymentRow.name, revision.revision)
    )
    found = ((name, decode_resolution(text)) for name, text in session.execute(query))
    return [(name, resolution.choice) for name, resolution in found if resolution is not None]


def newest_measurement(session: Session, version: VersionRow, here: Processor) -> MeasurementRow | None:
    """Of the version's engines on this processor."""
    query = select(MeasurementRow).where(
        MeasurementRow.project == version.project,
        MeasurementRow.digest == version.digest,
        MeasurementRow.processor == here.label,
    )
    return session.scalar(query.order_by(MeasurementRow.id.desc()).limit(1))


def newest_measuring(session: Session, version: VersionRow) -> JobRow | None:
    """The newest job that measures the version or measured it."""
    query = select(JobRow).where(JobRow.kind == MeasureArguments.kind, JobRow.version_id == version.id)
    return session.scalar(query.order_by(JobRow.number.desc()).limit(1))

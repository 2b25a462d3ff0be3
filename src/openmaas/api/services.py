"""What the doors call: every service of control."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from openmaas.control.aliases import AliasService
from openmaas.control.approvals import ApprovalService
from openmaas.control.datasets import DatasetService
from openmaas.control.deployments import DeploymentService
from openmaas.control.doctor import DoctorService
from openmaas.control.evaluations import EvaluationService
from openmaas.control.follow_up import FollowUpService
from openmaas.control.garbage import GarbageService
from openmaas.control.gates import GateService
from openmaas.control.jobs import JobService
from openmaas.control.keys import KeyService, Principal
from openmaas.control.lineage import LineageService
from openmaas.control.measurements import MeasurementService
from openmaas.control.models import ModelService
from openmaas.control.observed import Fleet
from openmaas.control.parts import Parts
from openmaas.control.pushes import PushService
from openmaas.control.status import StatusService
from openmaas.control.uploads import UploadService
from openmaas.control.variants import VariantService
from openmaas.control.versions import VersionService
from openmaas.core.settings import Settings
from openmaas.store.blobs import open_blobs
from openmaas.store.database import Database


@dataclass(frozen=True, kw_only=True)
class Services:
    """One of each."""

    settings: Settings
    models: ModelService
    versions: VersionService
    datasets: DatasetService
    aliases: AliasService
    gates: GateService
    lineage: LineageService
    uploads: UploadService
    pushes: PushService
    approvals: ApprovalService
    garbage: GarbageService
    keys: KeyService
    deployments: DeploymentService
    jobs: JobService
    measurements: MeasurementService
    evaluations: EvaluationService
    variants: VariantService
    status: StatusService
    doctor: DoctorService


async def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


async def _caller(request: Request) -> Principal:
    """Set by the door (api/door.py), without which no route is reached."""
    principal: Principal = request.scope["principal"]
    return principal


With = Annotated[Services, Depends(_services)]
Caller = Annotated[Principal, Depends(_caller)]


def build_services(settings: Settings, database: Database, fleet: Fleet, changed: Callable[[], None]) -> Services:
    """All of them, by hand. `changed` is called after each commit that gateways or replicas must hear of, from any thread."""
    blobs, parts = open_blobs(settings), Parts(settings)
    approvals = ApprovalService(database)
    uploads = UploadService(settings, database, blobs, parts)
    keys = KeyService(settings, database, changed)
    jobs = JobService(settings, database, fleet, keys, changed)
    gates = GateService(database)
    measurements = MeasurementService(settings, database, jobs, changed, gates=gates)
    logs = settings.home_path / "logs" / "deployments"
    deployments = DeploymentService(database, fleet, changed, logs, measurements, gates=gates)
    follow_up = FollowUpService(jobs, measurements)
    return Services(
        settings=settings,
        models=ModelService(database, changed),
        versions=VersionService(database, blobs, measured=measurements.known),
        datasets=DatasetService(database, blobs),
        aliases=AliasService(database, changed, gates=gates),
        gates=gates,
        lineage=LineageService(database),
        uploads=uploads,
        pushes=PushService(settings, database, blobs, parts, uploads, approvals, follow_up=follow_up.begin),
        approvals=approvals,
        garbage=GarbageService(settings, database, blobs, parts),
        keys=keys,
        deployments=deployments,
        jobs=jobs,
        measurements=measurements,
        evaluations=EvaluationService(database, jobs),
        variants=VariantService(jobs),
        status=StatusService(settings, database, fleet, deployments, jobs),
        doctor=DoctorService(settings, database, blobs, fleet, deployments),
    )

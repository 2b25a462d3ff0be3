"""/deployments and /replicas: what should run, and what does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import Query

from openmaas.api.bodies import router
from openmaas.api.services import Caller, With
from openmaas.control.deployment_logs import LogLines
from openmaas.control.paging import DEFAULT_LIMIT
from openmaas.core.resources import DeploymentInfo, DeploymentMove, DeployRequest, Page, ReplicaInfo

routes = router()
_OFFSET = Annotated[int | None, Query(le=2**62)]


@routes.get("/deployments")
def list_deployments(
    services: With, caller: Caller, after: str | None = None, limit: int = DEFAULT_LIMIT
) -> Page[DeploymentInfo]:
    return services.deployments.list(project=caller.project, after=after, limit=limit)


@routes.post("/deployments", status_code=202)
def deploy(services: With, caller: Caller, deployment: DeployRequest) -> DeploymentInfo:
    return services.deployments.deploy(deployment, actor=caller.id, project=caller.project)


@routes.get("/deployments/{name}")
def get_deployment(services: With, caller: Caller, name: str) -> DeploymentInfo:
    return services.deployments.get(name, project=caller.project)


@routes.delete("/deployments/{name}")
def undeploy(services: With, caller: Caller, name: str) -> DeploymentInfo:
    return services.deployments.undeploy(name, actor=caller.id, project=caller.project)


@routes.post("/deployments/{name}/rollback")
def rollback_deployment(services: With, caller: Caller, name: str) -> DeploymentInfo:
    return services.deployments.rollback(name, actor=caller.id, project=caller.project)


@routes.get("/deployments/{name}/history")
def deployment_history(
    services: With, caller: Caller, name: str, after: str | None = None, limit: int = DEFAULT_LIMIT
) -> Page[DeploymentMove]:
    return services.deployments.history(name, project=caller.project, after=after, limit=limit)


@routes.get("/deployments/{name}/logs")
def deployment_logs(
    services: With, caller: Caller, name: str, lines: int = 200, replica: str | None = None, offset: _OFFSET = None
) -> LogLines:
    return services.deployments.logs(name, lines=lines, replica=replica, offset=offset, project=caller.project)


@routes.get("/replicas")
def list_replicas(services: With, caller: Caller) -> Sequence[ReplicaInfo]:
    return services.deployments.replicas(project=caller.project)

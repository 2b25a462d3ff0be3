"""/models: registered names, their versions, aliases and history."""

from __future__ import annotations

from openmaas.api.bodies import open_to, router
from openmaas.api.services import Caller, With
from openmaas.control.keys import JOB
from openmaas.control.paging import DEFAULT_LIMIT
from openmaas.core.resources import AliasChange, AliasMove, ModelSummary, Page, VersionInfo

routes = router()


@routes.get("/models")
def list_models(
    services: With, caller: Caller, after: str | None = None, limit: int = DEFAULT_LIMIT, prefix: str = ""
) -> Page[ModelSummary]:
    return services.models.list(project=caller.project, after=after, limit=limit, prefix=prefix)


@routes.get("/models/{name}")
@open_to(JOB)
def get_model(services: With, caller: Caller, name: str) -> ModelSummary:
    return services.models.get(name, project=caller.project)


@routes.delete("/models/{name}", status_code=204)
def delete_model(services: With, caller: Caller, name: str) -> None:
    services.models.delete(name, actor=caller.id, project=caller.project)


@routes.get("/models/{name}/versions")
@open_to(JOB)
def list_versions(
    services: With, caller: Caller, name: str, after: str | None = None, limit: int = DEFAULT_LIMIT
) -> Page[VersionInfo]:
    return services.versions.list(name, project=caller.project, after=after, limit=limit)


@routes.get("/models/{name}/history")
def alias_history(
    services: With, caller: Caller, name: str, after: str | None = None, limit: int = DEFAULT_LIMIT
) -> Page[AliasMove]:
    return services.aliases.history(name, project=caller.project, after=after, limit=limit)


@routes.put("/models/{name}/aliases/{alias}")
def set_alias(services: With, caller: Caller, name: str, alias: str, change: AliasChange) -> AliasMove:
    return services.aliases.set(
        name, alias, change.number, actor=caller.id, force=change.force, reason=change.reason, project=caller.project
    )


@routes.delete("/models/{name}/aliases/{alias}")
def remove_alias(services: With, caller: Caller, name: str, alias: str) -> AliasMove:
    return services.aliases.remove(name, alias, actor=caller.id, project=caller.project)


@routes.post("/models/{name}/aliases/{alias}/rollback")
def rollback_alias(services: With, caller: Caller, name: str, alias: str) -> AliasMove:
    return services.aliases.rollback(name, alias, actor=caller.id, project=caller.project)

"""/datasets: names and their versions. /dataset-versions: one version by its reference, and its files."""

from __future__ import annotations

from fastapi.responses import StreamingResponse

from openmaas.api.bodies import open_to, router
from openmaas.api.services import Caller, With
from openmaas.api.versions import file_answer
from openmaas.control.keys import JOB
from openmaas.control.paging import DEFAULT_LIMIT
from openmaas.core.resources import DatasetInfo, DatasetSummary, Page

routes = router()


@routes.get("/datasets")
def list_datasets(services: With, caller: Caller, after: str | None = None, limit: int = DEFAULT_LIMIT) -> Page[DatasetSummary]:
    return services.datasets.list(project=caller.project, after=after, limit=limit)


@routes.delete("/datasets/{name}", status_code=204)
def delete_dataset(services: With, caller: Caller, name: str, force: bool = False, reason: str = "") -> None:
    services.datasets.delete(name, actor=caller.id, force=force, reason=reason, project=caller.project)


@routes.get("/datasets/{name}/versions")
@open_to(JOB)
def list_dataset_versions(
    services: With, caller: Caller, name: str, after: str | None = None, limit: int = DEFAULT_LIMIT
) -> Page[DatasetInfo]:
    return services.datasets.versions(name, project=caller.project, after=after, limit=limit)


@routes.get("/dataset-versions/{reference}")
@open_to(JOB)
def get_dataset_version(services: With, caller: Caller, reference: str) -> DatasetInfo:
    return services.datasets.get(reference, project=caller.project)


@routes.delete("/dataset-versions/{reference}", status_code=204)
def delete_dataset_version(services: With, caller: Caller, reference: str, force: bool = False, reason: str = "") -> None:
    services.datasets.delete_version(reference, actor=caller.id, force=force, reason=reason, project=caller.project)


@routes.get("/dataset-versions/{reference}/files/{path:path}", response_class=StreamingResponse)
@open_to(JOB)
def read_dataset_file(services: With, caller: Caller, reference: str, path: str) -> StreamingResponse:
    return file_answer(*services.datasets.read_file(reference, path, project=caller.project))

"""/versions: one version by its reference, and its files."""

from __future__ import annotations

from collections.abc import Iterator

from fastapi.responses import StreamingResponse

from openmaas.api.bodies import open_to, router
from openmaas.api.services import Caller, With
from openmaas.control.keys import JOB
from openmaas.control.paging import DEFAULT_LIMIT
from openmaas.core.manifest import FileEntry
from openmaas.core.resources import EvaluationInfo, Lineage, Page, VersionChange, VersionInfo

routes = router()


@routes.get("/versions/{reference}")
@open_to(JOB)
def get_version(services: With, caller: Caller, reference: str) -> VersionInfo:
    return services.versions.get(reference, project=caller.project)


@routes.get("/versions/{reference}/lineage")
@open_to(JOB)
def get_lineage(services: With, caller: Caller, reference: str) -> Lineage:
    return services.lineage.get(reference, project=caller.project)


@routes.patch("/versions/{reference}")
def change_version(services: With, caller: Caller, reference: str, change: VersionChange) -> VersionInfo:
    return services.versions.change(reference, change, project=caller.project)


@routes.delete("/versions/{reference}", status_code=204)
def delete_version(services: With, caller: Caller, reference: str) -> None:
    services.versions.delete(reference, project=caller.project)


@routes.get("/versions/{reference}/evaluations")
@open_to(JOB)
def list_evaluations(
    services: With, caller: Caller, reference: str, dataset: str = "", after: str | None = None, limit: int = DEFAULT_LIMIT
) -> Page[EvaluationInfo]:
    return services.evaluations.list(reference, dataset=dataset, project=caller.project, after=after, limit=limit)


@routes.get("/versions/{reference}/files/{path:path}", response_class=StreamingResponse)
@open_to(JOB)
def read_file(services: With, caller: Caller, reference: str, path: str) -> StreamingResponse:
    return file_answer(*services.versions.read_file(reference, path, project=caller.project))


def file_answer(entry: FileEntry, chunks: Iterator[bytes]) -> StreamingResponse:
    """A stored file's bytes."""
    headers = {
        "content-length": str(entry.size),
        "etag": f'"{entry.sha256}"',
        "content-disposition": "attachment",  # whatever is in it, a browser must not show it as a page of ours
    }
    return StreamingResponse(chunks, headers=headers, media_type="application/octet-stream")

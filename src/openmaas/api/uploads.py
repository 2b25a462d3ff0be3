"""/uploads: files in chunks, and what becomes of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated

from anyio import CapacityLimiter, to_thread
from fastapi import Query, Request

from openmaas.api.bodies import StrictRequest, allow_body, open_to, router
from openmaas.api.services import Caller, With
from openmaas.control.keys import JOB
from openmaas.core.errors import Forbidden, Unavailable
from openmaas.core.resources import DatasetPushResult, PushResult, UploadInfo, UploadRequest

routes = router()
CHUNKS = 16  # in memory at once
COMPLETING = 2  # examined at once; others wait, without holding a thread that quick requests need
_MOST_FILES_BODY = 16 * 2**20  # bytes of JSON that 20,000 files take
_OFFSET = Annotated[int, Query(ge=0, le=2**62)]


@routes.post("/uploads")
@open_to(JOB)
@allow_body(_MOST_FILES_BODY)
def begin_upload(services: With, caller: Caller, upload: UploadRequest) -> UploadInfo:
    if upload.project != caller.project:
        raise Forbidden(f"This key is of the project {caller.project!r}, not of {upload.project[:80]!r}.", code="other_project")
    if upload.kind == "dataset" and caller.role == JOB:  # the newest is what people evaluate on
        raise Forbidden(f"A key with the role {JOB!r} may not push a dataset.", code="role_forbidden")
    return services.uploads.begin(upload, actor=caller.id, project=caller.project)


@routes.get("/uploads/{upload}")
@open_to(JOB)
def get_upload(services: With, caller: Caller, upload: str) -> UploadInfo:
    return services.uploads.get(upload, project=caller.project)


@routes.delete("/uploads/{upload}", status_code=204)
def delete_upload(services: With, caller: Caller, upload: str) -> None:
    services.uploads.delete(upload, project=caller.project)


@routes.put("/uploads/{upload}/files/{sha256}")
@open_to(JOB)
async def write_chunk(
    request: Request, services: With, caller: Caller, upload: str, sha256: str, offset: _OFFSET
) -> UploadInfo:
    def write(data: bytes) -> UploadInfo:
        return services.uploads.write(upload, sha256, offset, data, project=caller.project)

    return await _write(request, services, write)


@routes.put("/uploads/{upload}/files")
@open_to(JOB)
async def write_files(request: Request, services: With, caller: Caller, upload: str) -> UploadInfo:
    """Small files whole, many in one body (core/packs.py)."""
    return await _write(request, services, lambda data: services.uploads.write_whole(upload, data, project=caller.project))


async def _write(request: Request, services: With, write: Callable[[bytes], UploadInfo]) -> UploadInfo:
    assert isinstance(request, StrictRequest)
    room: asyncio.Semaphore = request.app.state.chunks
    if room.locked():
        raise Unavailable(f"{CHUNKS} chunks are arriving already.", code="too_many_chunks", retry_after=1)
    async with room:
        data = await request.read(services.settings.chunk_size)
        return await to_thread.run_sync(write, data)


@routes.post("/uploads/{upload}/complete")
@open_to(JOB)
async def complete_upload(request: Request, services: With, caller: Caller, upload: str) -> PushResult | DatasetPushResult:
    limiter: CapacityLimiter = request.app.state.completing

    def complete() -> PushResult | DatasetPushResult:
        dataset = services.uploads.kind(upload, project=caller.project) == "dataset"
        service = services.pushes.complete_dataset if dataset else services.pushes.complete
        return service(upload, actor=caller.id, project=caller.project)

    return await to_thread.run_sync(complete, limiter=limiter)

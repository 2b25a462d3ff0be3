"""/jobs: what takes long, and the door through which a job's own process tells how it goes."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from openmaas.api.bodies import open_to, router
from openmaas.api.services import Caller, With
from openmaas.control.deployment_logs import LogLines
from openmaas.control.keys import JOB
from openmaas.control.paging import DEFAULT_LIMIT
from openmaas.core.resources import JobInfo, JobReport, JobRequest, JobState, Page

routes = router()
_OFFSET = Annotated[int | None, Query(le=2**62)]


@routes.get("/jobs")
def list_jobs(
    services: With,
    caller: Caller,
    after: str | None = None,
    limit: int = DEFAULT_LIMIT,
    state: JobState | None = None,
    kind: str | None = None,
) -> Page[JobInfo]:
    return services.jobs.list(project=caller.project, after=after, limit=limit, state=state, kind=kind)


@routes.post("/jobs", status_code=202)
def submit_job(services: With, caller: Caller, job: JobRequest) -> JobInfo:
    return services.jobs.submit(job.kind, job.arguments, actor=caller.id, project=caller.project)


@routes.get("/jobs/{job}")
def get_job(services: With, caller: Caller, job: str) -> JobInfo:
    return services.jobs.get(job, project=caller.project)


@routes.post("/jobs/{job}/cancel")
def cancel_job(services: With, caller: Caller, job: str) -> JobInfo:
    return services.jobs.cancel(job, project=caller.project)


@routes.post("/jobs/{job}/retry", status_code=202)
def retry_job(services: With, caller: Caller, job: str) -> JobInfo:
    return services.jobs.retry(job, project=caller.project)


@routes.get("/jobs/{job}/logs")
def job_logs(services: With, caller: Caller, job: str, lines: int = 200, offset: _OFFSET = None) -> LogLines:
    return services.jobs.logs(job, lines=lines, offset=offset, project=caller.project)


@routes.post("/jobs/{job}/report")
@open_to(JOB)
def report_job(services: With, caller: Caller, job: str, report: JobReport) -> JobInfo:
    return services.jobs.report(job, report, key=caller.id, project=caller.project)

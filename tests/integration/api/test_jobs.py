"""/jobs as a client sees it, and what the key of a job's process opens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute

from openmaas.api.door import Door
from openmaas.api.services import Services
from openmaas.core.resources import JobInfo, Page
from openmaas.store.tables import KeyRow
from tests.integration.api.conftest import client_of
from tests.integration.api.test_routes import begin_body, code_of, decode
from tests.integration.registry import digest

OPEN_TO_JOBS = {
    ("GET", "/api/v1/models/{name}"),
    ("GET", "/api/v1/models/{name}/versions"),
    ("GET", "/api/v1/versions/{reference}"),
    ("GET", "/api/v1/versions/{reference}/files/{path:path}"),
    ("GET", "/api/v1/versions/{reference}/lineage"),
    ("GET", "/api/v1/versions/{reference}/evaluations"),
    ("GET", "/api/v1/datasets/{name}/versions"),
    ("GET", "/api/v1/dataset-versions/{reference}"),
    ("GET", "/api/v1/dataset-versions/{reference}/files/{path:path}"),
    ("POST", "/api/v1/uploads"),
    ("GET", "/api/v1/uploads/{upload}"),
    ("PUT", "/api/v1/uploads/{upload}/files"),
    ("PUT", "/api/v1/uploads/{upload}/files/{sha256}"),
    ("POST", "/api/v1/uploads/{upload}/complete"),
    ("POST", "/api/v1/jobs/{job}/report"),
}


def routes_of(app: Door) -> list[tuple[str, str]]:
    def all_routes(router: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
        for route in router.routes:
            inner = getattr(route, "original_router", None)
            if inner is not None:
                yield from all_routes(inner, "/api/v1")
            elif isinstance(route, APIRoute):
                path = route.path if route.path.startswith(prefix) else prefix + route.path
                yield from ((method, path) for method in route.methods)

    return sorted(all_routes(app._inside))


def filled(path: str) -> str:
    values = {
        "{name}": "digits",
        "{reference}": "digits:1",
        "{path:path}": "model.bin",
        "{upload}": "0" * 64,
        "{job}": "job-000001",
    }
    values |= {"{sha256}": "a" * 64, "{alias}": "champion"}
    for name, value in values.items():
        path = path.replace(name, value)
    return path.replace("{", "x").replace("}", "x")


@pytest.fixture
def job_key(services: Services, key: str) -> str:
    """The key of the process of job-000001, which runs."""
    services.jobs.submit("dummy", {}, actor="admin")
    return services.jobs._fleet.job_keys["job-000001", 1]


async def test_a_jobs_key_opens_what_it_needs_and_nothing_else(app: Door, job_key: str) -> None:
    routes = routes_of(app)
    assert len(routes) > 30
    assert set(routes) >= OPEN_TO_JOBS
    opened = set()
    async with client_of(app, authorization=f"Bearer {job_key}") as client:
        for method, path in routes:
            answer = await client.request(method, filled(path))
            if answer.status_code != 403:
                opened.add((method, path))
            else:
                assert answer.json()["code"] == "role_forbidden", (method, path, answer.text)
    assert opened == OPEN_TO_JOBS


async def test_a_role_that_nobody_knows_opens_nothing(app: Door, services: Services, key: str) -> None:
    from openmaas.core.keys import digest_key, make_key

    made = make_key()
    with services.jobs._database.write() as session:
        session.add(KeyRow(id="x", digest=digest_key(made), role="guest", project="default", created_at=1.0))
    services.keys.refresh()
    async with client_of(app, authorization=f"Bearer {made}") as client:
        statuses = {(await client.request(method, filled(path))).status_code for method, path in routes_of(app)}
    assert statuses == {403}


async def test_a_job_pushes_in_its_own_project_alone(app: Door, job_key: str) -> None:
    files = {"model.bin": b"weights"}
    async with client_of(app, authorization=f"Bearer {job_key}") as client:
        assert (
            code_of(await client.post("/api/v1/uploads", json=begin_body("m", files, project="other")), 403) == "other_project"
        )
        upload = (await client.post("/api/v1/uploads", json=begin_body("m", files))).json()
        await client.put(f"/api/v1/uploads/{upload['id']}/files/{digest(b'weights')}?offset=0", content=b"weights")
        pushed = await client.post(f"/api/v1/uploads/{upload['id']}/complete")
        assert pushed.json()["version"]["created_by"] == "job-000001-1"
        read = await client.get("/api/v1/versions/m/files/model.bin")
        assert read.content == b"weights"


async def test_a_job_reports_for_itself_alone(app: Door, services: Services, job_key: str, api: httpx.AsyncClient) -> None:
    services.jobs.submit("dummy", {"note": "another"}, actor="admin")
    async with client_of(app, authorization=f"Bearer {job_key}") as client:
        assert code_of(await client.post("/api/v1/jobs/job-000002/report", json={}), 403) == "other_job"
        told = decode(await client.post("/api/v1/jobs/job-000001/report", json={"stage": "on"}), JobInfo)
        assert (told.stage, told.state) == ("on", "running")
        services.jobs.cancel("job-000001")
        assert code_of(await client.post("/api/v1/jobs/job-000001/report", json={"stage": "on"}), 499) == "job_cancelled"
    assert code_of(await api.post("jobs/job-000001/report", json={}), 403) == "other_job"


async def test_the_life_of_a_job_over_the_routes(api: httpx.AsyncClient, app: Door, services: Services) -> None:
    made = decode(await api.post("jobs", json={"kind": "dummy", "arguments": {"fail": "x"}}), JobInfo, 202)
    assert (made.id, made.state, made.actor) == ("job-000001", "running", "admin")
    assert decode(await api.get("jobs/job-000001"), JobInfo) == made
    assert decode(await api.get("jobs?state=running&kind=dummy"), Page[JobInfo]).items == [made]
    assert decode(await api.get("jobs?state=failed"), Page[JobInfo]).items == []
    assert (await api.get("jobs/job-000001/logs?lines=5")).json() == {"lines": [], "offset": 0}
    assert (await api.get("status")).json()["jobs"] == {"running": 1}
    key = services.jobs._fleet.job_keys["job-000001", 1]
    cause = {"code": "x", "message": "It broke.", "stderr": [], "next_step": ""}
    async with client_of(app, authorization=f"Bearer {key}") as client:
        failed = decode(await client.post("/api/v1/jobs/job-000001/report", json={"cause": cause}), JobInfo)
        assert (await client.post("/api/v1/jobs/job-000001/report", json={})).status_code == 401
    assert failed.state == "failed"
    assert decode(await api.post("jobs/job-000001/retry"), JobInfo, 202).attempt == 2
    assert decode(await api.post("jobs/job-000001/cancel"), JobInfo).state == "cancelling"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "invalid_request"),
        ({"kind": "none"}, "unknown_kind"),
        ({"kind": "dummy", "arguments": []}, "invalid_request"),
        ({"kind": "dummy", "arguments": {"seconds": "x"}}, "invalid_arguments"),
        ({"kind": "dummy", "more": 1}, "invalid_request"),
        ({"kind": "dummy", "arguments": {"note": "\u0000" * 10}}, None),
    ],
)
async def test_what_is_sent_is_checked(api: httpx.AsyncClient, body: Any, code: str | None) -> None:
    answer = await api.post("jobs", json=body)
    if code is None:
        assert decode(answer, JobInfo, 202).arguments["note"] == "\0" * 10
    else:
        assert code_of(answer, 400) == code


@pytest.mark.parametrize("query", ["state=lost", "limit=0", "after=x", "unknown=1"])
async def test_what_is_asked_is_checked(api: httpx.AsyncClient, query: str) -> None:
    assert (await api.get(f"jobs?{query}")).status_code == 400


async def test_a_job_that_there_is_not(api: httpx.AsyncClient) -> None:
    for method, path in (("GET", ""), ("POST", "/cancel"), ("POST", "/retry"), ("GET", "/logs")):
        assert code_of(await api.request(method, f"jobs/job-000009{path}"), 404) == "job_not_found"
        assert code_of(await api.request(method, f"jobs/nine{path}"), 400) == "invalid_name"

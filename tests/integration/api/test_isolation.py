"""Every route of the table with the keys of others: another project's admin, and a job's process of this one and of another."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute
from sqlalchemy import select

from openmaas.api.door import Door
from openmaas.api.services import Services
from openmaas.control.keys import JOB
from openmaas.core.keys import digest_key, make_key
from openmaas.store.database import Database
from openmaas.store.tables import Base, KeyRow
from tests.integration.api.conftest import client_of
from tests.integration.api.test_datasets import push as push_dataset
from tests.integration.api.test_routes import begin_body, code_of, push
from tests.integration.control.gated import evaluate
from tests.integration.registry import Registry

NAMES = {
    "name": "digits", "reference": "digits:1", "alias": "champion", "target": "alias", "which": "champion", "path": "model.bin",
    "job": "job-000001", "deployment": "shop", "approval": "a" * 64, "sha256": "a" * 64, "upload": "0" * 32,
}  # fmt: skip
BODIES: dict[str, Any] = {
    "PUT aliases": {"number": 1}, "PUT gates": {"max_size": 1}, "POST check": {"number": 1}, "PATCH versions": {"card": "x"},
    "POST deployments": {"version": "digits:1"},
    "POST jobs": {"kind": "evaluate", "arguments": {"version": "digits:1", "data": "t:1"}}, "POST report": {"stage": "x"},
}  # fmt: skip
"""By method and a word of the path; the last that fits."""

FOR_JOBS = {
    "GET /models/{name}", "GET /models/{name}/versions", "GET /versions/{reference}", "GET /versions/{reference}/lineage",
    "GET /versions/{reference}/evaluations", "GET /versions/{reference}/files/{path:path}", "GET /datasets/{name}/versions",
    "GET /dataset-versions/{reference}", "GET /dataset-versions/{reference}/files/{path:path}", "POST /uploads",
    "GET /uploads/{upload}", "PUT /uploads/{upload}/files", "PUT /uploads/{upload}/files/{sha256}",
    "POST /uploads/{upload}/complete", "POST /jobs/{job}/report",
}  # fmt: skip
"""The whole list of what the process of a job may do. A line more here is a decision."""


def table(app: Door) -> Iterator[tuple[str, str, frozenset[str]]]:
    """Method, path below the prefix and roles of every route."""

    def below(router: Any) -> Iterator[Any]:
        for route in router.routes:
            inner = getattr(route, "original_router", None)
            yield from below(inner) if inner is not None else [route]

    for route in below(app._inside):
        if isinstance(route, APIRoute):
            for method in route.methods or ():
                yield method, route.path.removeprefix("/api/v1"), getattr(route.endpoint, "roles", frozenset())


def told(database: Database) -> dict[str, list[Any]]:
    """All that is kept."""
    tables = {name: one for name, one in Base.metadata.tables.items() if name not in ("keys", "counters")}
    with database.read() as session:
        return {name: sorted(map(repr, session.execute(select(one)))) for name, one in tables.items()}


def key_of(services: Services, database: Database, name: str, role: str, project: str) -> str:
    made = make_key()
    with database.write() as session:
        session.add(KeyRow(id=name, digest=digest_key(made), role=role, project=project, created_at=1.0))
    services.keys.refresh()
    return made


@pytest.fixture
async def full(api: httpx.AsyncClient, registry: Registry) -> None:
    """A model with an alias, a gate, an evaluation and a deployment, a dataset, and a job."""
    await push(api, "digits")
    await push_dataset(api, "t")
    evaluate(registry.database, "digits:1", data="t:1")
    for method, path, body in (
        ("PUT", "models/digits/aliases/champion", {"number": 1}),
        ("PUT", "models/digits/gates/alias/champion", {"max_size": 10**9}),
        ("POST", "deployments", {"version": "digits:1", "name": "shop"}),
        ("POST", "jobs", {"kind": "dummy", "arguments": {}}),
    ):
        answer = await api.request(method, path, json=body)
        assert answer.status_code < 300, answer.text


async def test_only_these_routes_are_open_to_a_job(app: Door) -> None:
    assert {f"{method} {path}" for method, path, roles in table(app) if JOB in roles} == FOR_JOBS


@pytest.mark.parametrize("role", ["admin", "job"])
async def test_another_project_sees_and_changes_nothing(
    app: Door, services: Services, registry: Registry, full: None, role: str
) -> None:
    made, before = key_of(services, registry.database, f"{role}-9", role, "other"), told(registry.database)
    async with client_of(app, authorization=f"Bearer {made}") as client:
        client.base_url = httpx.URL("http://control/api/v1")
        for method, path, _ in table(app):
            if path.startswith(("/status", "/doctor", "/gc", "/planes", "/replicas", "/approvals", "/uploads")):
                continue  # of the server, or made anew
            target = path
            for noun in ("datasets", "dataset-versions", "deployments"):
                if path.startswith(f"/{noun}"):
                    other = {"datasets": "t", "dataset-versions": "t:1", "deployments": "shop"}[noun]
                    target = re.sub(r"\{(name|reference)\}", other, target)
            target = re.sub(r"\{(\w+)(:path)?\}", lambda found: NAMES[found[1]], target)
            words = [word for word in BODIES if word.split()[0] == method and f"/{word.split()[1]}" in path]
            answer = await client.request(method, target, json=BODIES[words[-1]] if words else None)
            if answer.status_code == 200:
                assert answer.json() in ([], {"items": [], "total": 0, "next": None}), (method, target, answer.text)
            else:
                assert answer.status_code in ((403, 404) if role == "job" else (404,)), (method, target, answer.text)
    assert told(registry.database) == before


async def test_a_job_pushes_no_dataset(app: Door, services: Services, registry: Registry, full: None) -> None:
    """The newest would be what people evaluate on."""
    made = key_of(services, registry.database, "job-000001-9", "job", "default")
    async with client_of(app, authorization=f"Bearer {made}") as client:
        client.base_url = httpx.URL("http://control/api/v1/")
        wanted = begin_body("t", {"t.csv": b"a,y\n1,x\n"}, kind="dataset")
        assert code_of(await client.post("uploads", json=wanted), 403) == "role_forbidden"

import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.routing import Route
from structlog.testing import capture_logs

from openmaas.api import app as module
from openmaas.api.bodies import StrictRoute
from openmaas.api.door import Door
from openmaas.api.services import Services
from openmaas.core.errors import Unavailable
from openmaas.core.keys import make_key
from openmaas.core.settings import Settings
from tests.integration.api.conftest import client_of


@pytest.fixture
def settings(sqlite_settings: Settings) -> Settings:
    """The door does not depend on the database."""
    return sqlite_settings


OPEN = {("GET", "/health/live"), ("GET", "/health/ready"), ("GET", "/version")}
"""The whole list of what answers without a key. A line more here is a decision."""


def routes(app: Door) -> Iterator[tuple[str, str]]:
    """(method, path) of every route, from the application's own description and from its table of open ones."""
    inside = app._inside
    assert isinstance(inside, FastAPI)
    for path, methods in inside.openapi()["paths"].items():
        for method in methods:
            yield method.upper(), re.sub(r"\{\w+\}", "x", path)
    for route in inside.routes:
        if isinstance(route, Route):
            for method in route.methods or ():
                yield method, route.path
    for path in app.open:
        yield "GET", path


async def test_every_route_but_three_needs_a_key(app: Door, nobody: httpx.AsyncClient) -> None:
    found = set(routes(app))
    assert len(found) > 25
    answers = {(method, path): (await nobody.request(method, path)).status_code for method, path in found}
    assert {route for route, status in answers.items() if status != 401} == OPEN


@pytest.mark.parametrize(
    "path",
    [
        "/", "/nope", "/api/v1", "/api/v2/models", "//health/live", "/health/live/", "/health/live/../../api/v1/models",
        "/health/LIVE",
        "/health/live%2F..%2F..%2Fapi/v1/models", "/health", "/version/x", "/docs", "/redoc", "/openapi.json", "/health/live;x",
    ],
)  # fmt: skip
async def test_what_is_not_a_route_needs_a_key_too(nobody: httpx.AsyncClient, path: str) -> None:
    answer = await nobody.get(path)
    assert answer.status_code == 401
    assert answer.json()["code"] == "unauthenticated"
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("path", ["/health/live", "/version"])
async def test_open_routes_are_open_for_looking_only(nobody: httpx.AsyncClient, method: str, path: str) -> None:
    assert (await nobody.request(method, path)).status_code == 401


@pytest.mark.parametrize(
    "header",
    [
        {"authorization": "Bearer "},
        {"authorization": "Bearer omk_wrong"},
        {"authorization": f"Bearer {make_key()}"},
        {"authorization": "Basic YWRtaW46YWRtaW4="},
        {"authorization": ""},
        {"x-api-key": make_key()},
        {"x-api-key": ""},
    ],
    ids=repr,
)
async def test_a_bad_key_is_no_key(nobody: httpx.AsyncClient, header: dict[str, str]) -> None:
    assert (await nobody.get("/api/v1/models", headers=header)).status_code == 401


async def test_both_headers_carry_the_key(app: Door, key: str) -> None:
    for headers in ({"authorization": f"Bearer {key}"}, {"authorization": f"bearer  {key} "}, {"x-api-key": key}):
        async with client_of(app, **headers) as client:
            assert (await client.get("/api/v1/models")).status_code == 200


async def test_a_bad_body_without_a_key_is_not_even_read(nobody: httpx.AsyncClient) -> None:
    async def body() -> AsyncIterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    answer = await nobody.post("/api/v1/uploads", content=body())
    assert answer.status_code == 401


async def test_every_route_reads_its_body_within_bounds(app: Door) -> None:
    def all_routes(router: Any) -> Iterator[Any]:
        for route in router.routes:
            inner = getattr(route, "original_router", None)
            yield from all_routes(inner) if inner is not None else [route]

    closed = [route for route in all_routes(app._inside) if isinstance(route, APIRoute)]
    assert len(closed) > 20
    assert all(isinstance(route, StrictRoute) for route in closed)


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_answer_has_a_request_id_and_takes_the_clients(nobody: httpx.AsyncClient, api: httpx.AsyncClient) -> None:
    for client, path in ((nobody, "/version"), (nobody, "/nope"), (api, "models"), (api, "models/none")):
        made = await client.get(path)
        assert len(made.headers["x-request-id"]) == 32
        given = await client.get(path, headers={"x-request-id": "my-request/1"})
        assert given.headers["x-request-id"] == "my-request/1"
        if given.status_code >= 400:
            assert given.json()["request_id"] == "my-request/1"


@pytest.mark.parametrize("bad", ["", "x" * 129, "two words", "tab\there"])
async def test_a_request_id_that_cannot_be_shown_is_replaced(nobody: httpx.AsyncClient, bad: str) -> None:
    answer = await nobody.get("/version", headers={"x-request-id": bad})
    assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["x-request-id"])


async def test_an_unexpected_failure_tells_a_code_and_nothing_else(
    app: Door, services: Services, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **more: object) -> None:
        raise RuntimeError(f"secret {key} in /root/place")

    monkeypatch.setattr(type(services.models), "list", fail)
    with capture_logs() as logs:
        async with client_of(app, **{"x-api-key": key, "x-request-id": "r-1"}) as client:
            answer = await client.get("/api/v1/models")
    assert [(log["event"], log["request_id"], log["exc_info"]) for log in logs] == [("request failed", "r-1", True)]
    assert answer.status_code == 500
    assert answer.json() == {
        "error": "Something went wrong inside control; its log says more.", "code": "internal", "request_id": "r-1",
    }  # fmt: skip


async def test_overload_says_when_to_come_back(
    app: Door, services: Services, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*args: object, **more: object) -> None:
        raise Unavailable("Busy.", retry_after=1.2)

    monkeypatch.setattr(type(services.models), "list", busy)
    async with client_of(app, **{"x-api-key": key}) as client:
        answer = await client.get("/api/v1/models")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")


async def test_a_database_that_is_gone_is_not_ready(
    app: Door, services: Services, nobody: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await nobody.get("/health/ready")).json() == {"ready": True}

    def gone(*args: object) -> None:
        raise Unavailable("The database does not answer.")

    monkeypatch.setattr(type(services.status), "check", gone)
    assert (await nobody.get("/health/ready")).status_code == 503
    assert (await nobody.get("/health/live")).json() == {"live": True}


async def test_the_description_of_the_api_is_there_with_a_key(app: Door, key: str) -> None:
    async with client_of(app, **{"x-api-key": key}) as client:
        described = (await client.get("/openapi.json")).json()
        assert f"{module.PREFIX}/uploads/{{upload}}/files/{{sha256}}" in described["paths"]
        assert (await client.get("/docs")).status_code == 404

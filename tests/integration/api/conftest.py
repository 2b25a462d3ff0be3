"""The REST application in this process, over a real database, with a fake in place of the examination."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator

import httpx
import pytest

from openmaas.api.app import create_app
from openmaas.api.door import Door
from openmaas.api.services import Services, build_services
from openmaas.control.observed import Fleet
from tests.integration.registry import Registry


@pytest.fixture
def services(registry: Registry) -> Services:
    built = build_services(registry.settings, registry.database, Fleet(), lambda: None)
    return dataclasses.replace(built, uploads=registry.uploads, pushes=registry.pushes, garbage=registry.garbage)


@pytest.fixture
def key(services: Services) -> str:
    made = services.keys.ensure_admin()
    assert made is not None
    return made


@pytest.fixture
async def app(services: Services, key: str) -> Door:
    return create_app(services)


def client_of(app: Door, **headers: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://control", headers=headers)


@pytest.fixture
async def nobody(app: Door) -> AsyncIterator[httpx.AsyncClient]:
    """A client without a key."""
    async with client_of(app) as client:
        yield client


@pytest.fixture
async def api(app: Door, key: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client with the admin's key, whose paths begin with /api/v1."""
    async with client_of(app, authorization=f"Bearer {key}") as client:
        client.base_url = httpx.URL("http://control/api/v1/")
        yield client

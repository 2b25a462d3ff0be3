"""The REST application: every noun's routes behind one door."""

from __future__ import annotations

import asyncio

from anyio import CapacityLimiter
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from openmaas import __version__
from openmaas.api import approvals, datasets, deployments, gates, jobs, models, server, uploads, versions
from openmaas.api.answers import on_error, on_failure, on_http_error, on_invalid_request
from openmaas.api.door import Door
from openmaas.api.services import Services
from openmaas.core.errors import OpenMaaSError

PREFIX = "/api/v1"


def create_app(services: Services) -> Door:
    """An ASGI application. Call it on the event loop that serves it."""
    app = FastAPI(title="OpenMaaS", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.services = services
    app.state.chunks = asyncio.Semaphore(uploads.CHUNKS)
    app.state.completing = CapacityLimiter(uploads.COMPLETING)
    for noun in (models, versions, datasets, uploads, approvals, deployments, gates, jobs, server):
        app.include_router(noun.routes, prefix=PREFIX)
    app.add_exception_handler(OpenMaaSError, on_error)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(RequestValidationError, on_invalid_request)
    app.add_exception_handler(Exception, on_failure)
    return Door(app, services)

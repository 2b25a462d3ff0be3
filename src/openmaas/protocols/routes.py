"""Paths of the public door and what they mean. Whether a route is open is part of the route, never of the text of a URL."""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import unquote

import msgspec

from openmaas.core.errors import NotFound

RouteName = Literal[
    "live", "ready", "version", "metrics", "server_metadata", "statistics_all", "repository_index", "repository_load",
    "repository_unload", "model_ready", "model_metadata", "model_config", "model_statistics", "infer", "v1_list", "v1_ready",
    "v1_predict",
]  # fmt: skip


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One route as asked for. `open` routes need no key; every other one does. `version` is a number's text or an alias.

    predicts: its body goes to a replica.
    """

    name: RouteName
    method: Literal["GET", "POST"] = "GET"
    open: bool = False
    deployment: str = ""
    version: str = ""
    predicts: bool = False


_FIXED: dict[str, Route] = {
    "/v2/health/live": Route(name="live", open=True),
    "/v2/health/ready": Route(name="ready", open=True),
    "/version": Route(name="version", open=True),
    "/v2": Route(name="server_metadata"),
    "/metrics": Route(name="metrics"),
    "/v2/models/stats": Route(name="statistics_all"),
    "/v2/repository/index": Route(name="repository_index", method="POST"),
    "/v1/models": Route(name="v1_list"),
}
_MODEL = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?(?:/(infer|ready|stats|config))?")
_REPOSITORY = re.compile(r"/v2/repository/models/([^/]+)/(load|unload)")
_V1 = re.compile(r"/v1/models/([^/:]+)(:predict)?")
_MODEL_ACTIONS: dict[str | None, tuple[RouteName, Literal["GET", "POST"]]] = {
    "infer": ("infer", "POST"),
    "ready": ("model_ready", "GET"),
    "stats": ("model_statistics", "GET"),
    "config": ("model_config", "GET"),
    None: ("model_metadata", "GET"),
}


def parse_path(path: str) -> Route:
    """The route of a path (without its query). Raises NotFound for any other."""
    route = _FIXED.get(path) or _FIXED.get(path.rstrip("/"))
    if route is not None:
        return route
    if match := _MODEL.fullmatch(path):
        name, method = _MODEL_ACTIONS[match[3]]
        return Route(
            name=name,
            method=method,
            deployment=unquote(match[1]),
            version=unquote(match[2] or ""),
            predicts=name == "infer",
        )
    if match := _V1.fullmatch(path):
        predict = match[2] is not None
        return Route(
            name="v1_predict" if predict else "v1_ready",
            method="POST" if predict else "GET",
            deployment=unquote(match[1]),
            predicts=predict,
        )
    if match := _REPOSITORY.fullmatch(path):
        return Route(
            name="repository_load" if match[2] == "load" else "repository_unload", method="POST", deployment=unquote(match[1])
        )
    raise NotFound(
        f"There is no route {path[:120]!r}.",
        code="route_not_found",
        next_step="Predictions go to POST /v2/models/NAME/infer or /v1/models/NAME:predict.",
    )

"""Paths of the public door and what they mean. Whether a route is open is part of the route, never of the text of a URL."""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import parse_qsl, unquote

import msgspec

from openmaas.core.errors import InvalidInput, NotFound

RouteName = Literal[
    "live", "ready", "version", "metrics", "server_metadata", "statistics_all", "repository_index", "repository_load",
    "repository_unload", "model_ready", "model_metadata", "model_config", "model_statistics", "infer", "v1_list", "v1_ready",
    "v1_predict", "predict", "chat", "completions", "responses", "embeddings", "tokenize", "detokenize", "generate",
    "generate_stream",
]  # fmt: skip


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One route as asked for. `open` routes need no key; every other one does. `version` is a number's text or an alias.

    predicts: its body goes to a replica. top: how many classes the caller wants named, 0 where they did not say. named_in_body:
    the deployment is the body's `model`. streams: its answer may come in parts. openai: its errors are told in OpenAI's form.
    """

    name: RouteName
    method: Literal["GET", "POST"] = "GET"
    open: bool = False
    deployment: str = ""
    version: str = ""
    predicts: bool = False
    top: int = 0
    named_in_body: bool = False
    streams: bool = False
    openai: bool = False


def _openai(name: RouteName, *, streams: bool = False) -> Route:
    return Route(name=name, method="POST", predicts=True, named_in_body=True, streams=streams, openai=True)


_FIXED: dict[str, Route] = {
    "/v2/health/live": Route(name="live", open=True),
    "/v2/health/ready": Route(name="ready", open=True),
    "/version": Route(name="version", open=True),
    "/v2": Route(name="server_metadata"),
    "/metrics": Route(name="metrics"),
    "/v2/models/stats": Route(name="statistics_all"),
    "/v2/repository/index": Route(name="repository_index", method="POST"),
    "/v1/models": Route(name="v1_list", openai=True),
    "/v1/chat/completions": _openai("chat", streams=True),
    "/v1/completions": _openai("completions", streams=True),
    "/v1/responses": _openai("responses", streams=True),
    "/v1/embeddings": _openai("embeddings"),
    "/v1/tokenize": _openai("tokenize"),
    "/v1/detokenize": _openai("detokenize"),
}
_MODEL = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?(?:/(infer|ready|stats|config|generate|generate_stream))?")
_REPOSITORY = re.compile(r"/v2/repository/models/([^/]+)/(load|unload)")
_PREDICT = re.compile(r"/predict/([^/]+)")
_MAX_TOP = 100_000
_V1 = re.compile(r"/v1/models/([^/:]+)(:predict)?")
_MODEL_ACTIONS: dict[str | None, tuple[RouteName, Literal["GET", "POST"]]] = {
    "infer": ("infer", "POST"),
    "generate": ("generate", "POST"),
    "generate_stream": ("generate_stream", "POST"),
    "ready": ("model_ready", "GET"),
    "stats": ("model_statistics", "GET"),
    "config": ("model_config", "GET"),
    None: ("model_metadata", "GET"),
}


def parse_path(path: str, query: str = "") -> Route:
    """The route of a path. Raises NotFound for any other, InvalidInput for a query that is not understood.

    query: what follows the question mark; only plain predictions read it.
    """
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
            predicts=name in ("infer", "generate", "generate_stream"),
            streams=name == "generate_stream",
        )
    if match := _PREDICT.fullmatch(path):
        asked = _query(query)
        return Route(
            name="predict",
            method="POST",
            deployment=unquote(match[1]),
            version=asked.get("version", ""),
            predicts=True,
            top=_top(asked.get("top")),
        )
    if match := _V1.fullmatch(path):
        predict = match[2] is not None
        return Route(
            name="v1_predict" if predict else "v1_ready",
            method="POST" if predict else "GET",
            deployment=unquote(match[1]),
            predicts=predict,
            openai=not predict,
        )
    if match := _REPOSITORY.fullmatch(path):
        return Route(
            name="repository_load" if match[2] == "load" else "repository_unload", method="POST", deployment=unquote(match[1])
        )
    raise NotFound(
        f"There is no route {path[:120]!r}.",
        code="route_not_found",
        next_step=(
            "Predictions go to POST /predict/NAME, /v2/models/NAME/infer or /v1/models/NAME:predict; the base URL of OpenAI's "
            "clients ends in /v1."
        ),
    )


def _query(query: str) -> dict[str, str]:
    """What follows the question mark. Unknown names are refused rather than ignored."""
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), max_num_fields=16, errors="strict")
    except (ValueError, UnicodeDecodeError):
        raise InvalidInput(f"The query {query[:80]!r} is not like version=2&top=5.", code="invalid_parameter") from None
    found = dict(pairs)
    if (unknown := next((name for name in found if name not in ("version", "top")), None)) is not None:
        raise InvalidInput(
            f"The query parameter {unknown[:40]!r} is unknown; 'version' and 'top' are known.", code="unknown_parameter"
        )
    if len(found) != len(pairs):
        raise InvalidInput("A query parameter is given twice.", code="invalid_parameter")
    return found


def _top(text: str | None) -> int:
    if text is None:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) <= 6 and 1 <= int(text) <= _MAX_TOP):
        raise InvalidInput(f"top is {text[:40]!r}; it must be a whole number from 1 to {_MAX_TOP}.", code="invalid_parameter")
    return int(text)

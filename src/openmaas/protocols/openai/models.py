"""GET /v1/models and /v1/models/{m}: what OpenAI's and KServe's clients look for, in one object."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec


class ServedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A deployment as a list of models shows it. created: Unix time. owner: its project. ready: it answers now."""

    name: str
    owner: str
    created: float = 0.0
    ready: bool = True


def models_body(models: Iterable[ServedModel]) -> dict[str, Any]:
    """In the order of their names."""
    ordered = sorted(models, key=lambda model: model.name)
    return {"object": "list", "data": [_openai(model) for model in ordered], "models": [model.name for model in ordered]}


def model_body(model: ServedModel) -> dict[str, Any]:
    return _openai(model) | {"name": model.name, "ready": model.ready}


def _openai(model: ServedModel) -> dict[str, Any]:
    return {"id": model.name, "object": "model", "created": int(model.created), "owned_by": model.owner}

"""Engines run formats: one file each, chosen by the name in a version's manifest, found through the entry point group."""

from __future__ import annotations

from importlib.metadata import entry_points

from openmaas.core.errors import NotFound
from openmaas.engines.base import Engine, EngineSpec, Tensor, Tensors

__all__ = ["Engine", "EngineSpec", "Tensor", "Tensors", "create_engine"]


def create_engine(name: str) -> Engine:
    """A new engine that has loaded nothing yet. Raises NotFound with the names that are installed."""
    found = entry_points(group="openmaas.engines", name=name)
    for entry in found:
        engine = entry.load()()
        assert isinstance(engine, Engine)
        return engine
    installed = sorted({entry.name for entry in entry_points(group="openmaas.engines")})
    raise NotFound(
        f"No engine is called {name!r}; installed are {', '.join(installed)}.",
        code="engine_not_found",
        next_step="Install the package that brings it.",
    )

"""Engines run formats: one file each, chosen by the name in a version's manifest, found through the entry point group."""

from __future__ import annotations

from importlib.metadata import entry_points

from openmaas.core.errors import NotFound
from openmaas.core.manifest import EngineChoice, Manifest
from openmaas.engines.base import Engine, EngineSpec, GenerationEngine, Tensor, Tensors

__all__ = ["Engine", "EngineSpec", "GenerationEngine", "Tensor", "Tensors", "create_engine", "engine_choices"]


def engine_choices(manifest: Manifest) -> list[EngineChoice]:
    """Every way in which an installed engine could run a version here; the manifest's own choice first."""
    own = manifest.choice
    engines = sorted(entry_points(group="openmaas.engines"), key=lambda entry: entry.name)
    found = [
        choice
        for artifact in manifest.artifacts or (own.artifact,)
        for entry in engines
        for choice in entry.load().choices(artifact, manifest)
    ]
    return [own, *(choice for choice in found if choice != own)] if own.engine else found


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

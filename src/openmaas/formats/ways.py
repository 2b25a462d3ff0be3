"""Every way in which an installed engine could run a version."""

from __future__ import annotations

from openmaas.core.manifest import EngineChoice, Manifest


def ways_to_run(manifest: Manifest) -> list[EngineChoice]:
    """The version's own way first. Loads no library that runs models."""
    from openmaas.engines import engine_choices

    return engine_choices(manifest)

"""What both tools tell of their results."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from openmaas.core.manifest import Artifact

POOR: Final = 0.9
"""Cosine to the answers before, below which a person is told."""


def size_of(folder: Path, artifact: Artifact) -> int:
    """Bytes of an artifact's files: the one that is loaded, and the weights beside it."""
    entry = folder / artifact.entry
    files = {*entry.parent.glob(f"{entry.name}*"), *([entry.with_suffix(".bin")] if entry.suffix == ".xml" else [])}
    return sum(path.stat().st_size for path in files)

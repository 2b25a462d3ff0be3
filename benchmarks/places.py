"""Where the benchmarks keep what they make."""

from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent

CACHE = HERE / ".cache"
"""Exported models and converted archives; git ignores it, and deleting it costs only time."""

ENVIRONMENTS = HERE / ".environments"
"""One virtual environment per peer; git ignores it."""

RESULTS = HERE / "results"
"""What a run leaves: a JSON file with every reading and a plot."""

PAGE = REPOSITORY / "docs" / "benchmarks.md"
"""The page whose marked sections a run rewrites."""

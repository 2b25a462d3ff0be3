from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from openmaas.formats import Examined, examine

Examine = Callable[..., Examined]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a test puts the pushed files."""
    path = tmp_path / "files"
    path.mkdir()
    return path


@pytest.fixture
def output(tmp_path: Path) -> Path:
    path = tmp_path / "output"
    path.mkdir()
    return path


@pytest.fixture
def look(folder: Path, output: Path, warm: None) -> Examine:
    """`examine` on the folder."""

    def run(**more: Any) -> Examined:
        options: dict[str, Any] = {"output": output, "timeout": 60.0, "memory": 2 << 30} | more
        return examine(folder, **options)

    return run

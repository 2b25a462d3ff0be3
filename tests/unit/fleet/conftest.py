"""What the tests of the fleet share: a short folder for sockets, settings, and children that are scripts."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from openmaas.core.settings import Settings
from openmaas.fleet.process import Launch

CHILD = Path(__file__).parent / "child.py"


@pytest.fixture
def sockets() -> Iterator[Path]:
    """A socket's path has about 100 bytes; tmp_path may be longer."""
    with tempfile.TemporaryDirectory(prefix="omf") as folder:
        yield Path(folder)


@pytest.fixture
def settings(tmp_path: Path, sockets: Path) -> Settings:
    return Settings(home=str(tmp_path), runtime_dir=str(sockets), hang_timeout=1.5, start_timeout=60.0, drain_timeout=2.0)


def python(code: str) -> Launch:
    return Launch((sys.executable, "-c", code), dict(os.environ))


def child(address: str, *behaviours: str) -> Launch:
    return Launch((sys.executable, str(CHILD), address, *behaviours), dict(os.environ))


async def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait for a condition; the test fails when it does not come true in time."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)

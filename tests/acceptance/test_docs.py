"""The documentation is true: pages made from the code are fresh, links lead somewhere, and every snippet runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Server, make_server

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(#[^)\s]*)?\)")
_RUN = {"bash", "python"}
_SHOWN = {"console", "text", "mermaid", "json", "yaml", "make"}


def _blocks(page: Path) -> Iterator[tuple[str, str]]:
    yield from _BLOCK.findall(page.read_text())


RUNNABLE = [page for page in PAGES if any(language in _RUN for language, _ in _blocks(page))]


def test_pages_made_from_the_code_are_fresh() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "docs.generate", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    targets = [target for target, _ in _LINK.findall(page.read_text()) if "://" not in target]
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_says_whether_it_runs(page: Path) -> None:
    assert {language for language, _ in _blocks(page)} <= _RUN | _SHOWN
    assert page.read_text().count("```") == 2 * len(list(_blocks(page))), "a block without a language"


def test_something_runs() -> None:
    assert {ROOT / "README.md", ROOT / "docs" / "quickstart.md"} <= set(RUNNABLE)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_snippet_runs(page: Path, tmp_path: Path) -> None:
    """In their order, in one folder, against one home, as a reader would."""
    server = make_server(tmp_path / "home")
    try:
        for language, code in _blocks(page):
            if language in _RUN:
                _run(language, code, server, tmp_path)
    finally:
        server.down()
    assert _left(server.home) == [], "a page must leave nothing running"


def _left(home: Path) -> list[str]:
    """Command lines of processes whose environment names this home."""
    left = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"OPENMAAS_HOME={home}".encode() in (process / "environ").read_bytes().split(b"\0"):
                left.append((process / "cmdline").read_text())
        except OSError:
            continue  # it ended, or is not ours to read
    return left


def _run(language: str, code: str, server: Server, folder: Path) -> None:
    command = ["bash", "-euo", "pipefail", "-c", code] if language == "bash" else [sys.executable, "-c", code]
    environment = {**server.environment, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"


def test_every_file_that_the_architecture_names_exists() -> None:
    named = re.findall(r"`([a-z_]+/[a-z_/]*[a-z_]+\.py)`", (ROOT / "docs" / "architecture.md").read_text())
    assert len(named) > 20
    assert [path for path in named if not (ROOT / "src" / "openmaas" / path).is_file()] == []

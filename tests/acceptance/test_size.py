"""The core install, without extras, has no torch and stays small."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIMIT = 400 * 10**6
_MANY_MINUTES = 900


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


@pytest.mark.slow
@pytest.mark.timeout(_MANY_MINUTES)
def test_the_core_install_is_small_and_has_no_torch(tmp_path: Path) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    before = _size(tmp_path / "venv")
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", "constraints.txt", "."]
    subprocess.run(command, check=True, cwd=ROOT)
    listed = subprocess.run([str(python), "-m", "pip", "list"], check=True, capture_output=True, text=True).stdout.lower()
    assert not [line for line in listed.splitlines() if line.startswith(("torch", "nvidia", "tensorflow"))]
    added = _size(tmp_path / "venv") - before
    assert added < LIMIT, f"the core install takes {added / 10**6:.0f} MB"
    print(f"core install: {added / 10**6:.0f} MB")
    subprocess.run([str(python), "-c", "import openmaas; openmaas.Client"], check=True, cwd=tmp_path)

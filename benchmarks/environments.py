"""Virtual environments, one per peer, so that no server bends to another's pins."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.places import ENVIRONMENTS


@dataclass(frozen=True)
class Environment:
    """A virtual environment named after a peer and filled from its requirements file."""

    name: str
    requirements: Path

    @property
    def folder(self) -> Path:
        return ENVIRONMENTS / self.name

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def packages(self) -> Path:
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        return self.folder / "lib" / version / "site-packages"

    @property
    def _stamp(self) -> Path:
        return self.folder / "requirements.sha256"

    def _digest(self) -> str:
        return hashlib.sha256(self.requirements.read_bytes()).hexdigest()

    def ready(self) -> bool:
        """Whether the environment holds exactly what its requirements file asks for now."""
        return self._stamp.is_file() and self._stamp.read_text() == self._digest()

    def version(self, package: str) -> str:
        """The version that a distribution is pinned to.

        Raises:
            KeyError: the requirements do not pin it.
        """
        for line in self.requirements.read_text().splitlines():
            name, _, version = line.partition("==")
            if name.lower() == package:
                return version
        raise KeyError(package)

    def prepare(self) -> None:
        """Make the environment anew unless it is ready; takes up to a few minutes.

        Raises:
            subprocess.CalledProcessError: pip could not install the requirements.
        """
        if self.ready():
            return
        # A half-filled folder from a broken install would hide missing pins.
        shutil.rmtree(self.folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", self.folder], check=True)
        pip: list[str | Path] = [self.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--requirement", self.requirements], check=True, timeout=1800)
        self._stamp.write_text(self._digest())

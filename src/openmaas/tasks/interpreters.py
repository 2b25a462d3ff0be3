"""Environments of their own, for tools that do not live with the rest: made once, kept by the digest of their requirements.

A folder without the marker `ready`, which is written last, is half-made: it is removed and made anew.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from openmaas.core.errors import NotFound, Unavailable
from openmaas.tasks.locks import file_lock

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}", re.ASCII)
_READY = "ready"

Tell = Callable[[str], object]
Run = Callable[[Sequence[str]], int]


def run_command(command: Sequence[str]) -> int:
    """Run it to its end, its output where this process's own goes; the exit status. An exception here ends it too."""
    return subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode


class Interpreters:
    """folder: where environments are kept. sources: the folder of NAME.txt, each a requirements file."""

    def __init__(self, folder: Path, sources: Path, run: Run = run_command) -> None:
        self._folder = folder
        self._sources = sources
        self._run = run

    def get(self, name: str, tell: Tell) -> Path:
        """The interpreter of an environment, made now where it is not there; `tell` is told the stage, and may raise.

        Raises NotFound for an unknown name, and Unavailable when it cannot be made.
        """
        source, folder = self._source(name), self.folder(name)
        python = folder / "bin" / "python"
        if (folder / _READY).exists():
            return python
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        waiting = partial(tell, f"waiting for the environment {name}, which another job makes")
        with file_lock(self._folder / f"{folder.name}.lock", waiting):
            if not (folder / _READY).exists():
                self._make(name, source, folder, tell)
        return python

    def folder(self, name: str) -> Path:
        """Where an environment is, or will be. Raises NotFound for an unknown name."""
        made_from = self._source(name).read_bytes() + f"\n# {sys.version}\n".encode()
        return self._folder / hashlib.sha256(made_from).hexdigest()[:32]

    def _source(self, name: str) -> Path:
        source = self._sources / f"{name}.txt"
        if not _NAME.fullmatch(name) or not source.is_file():
            known = ", ".join(sorted(path.stem for path in self._sources.glob("*.txt"))) or "none"
            raise NotFound(f"There is no environment {name[:80]!r}; known are: {known}.", code="environment_not_found")
        return source

    def _make(self, name: str, source: Path, folder: Path, tell: Tell) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        try:
            tell(f"making the environment {name}")
            self._do(name, [sys.executable, "-m", "venv", str(folder)])
            tell(f"installing the environment {name}")
            pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
            self._do(name, [*pip, "--requirement", str(source)])
            (folder / _READY).touch()
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def _do(self, name: str, command: Sequence[str]) -> None:
        status = self._run(command)
        if status:
            raise Unavailable(
                f"The environment {name!r} could not be made: {' '.join(command[1:4])} ended with exit status {status}.",
                code="environment_failed",
                next_step="The job's log says why; once it can reach a package index, retry the job.",
            )

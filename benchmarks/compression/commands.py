"""The server that compresses, and the commands that a person would type."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.environments import Environment
from benchmarks.processes import Server
from benchmarks.serving.peers.openmaas.peer import interpreter, program, variables_of, wait_for

PATIENCE = 3600
"""Seconds that one command may take."""


class CommandFailed(RuntimeError):
    """A command ended with another exit code than 0; the message is what it said."""


class Commands:
    """`openmaas …` against one server."""

    def __init__(self, variables: dict[str, str]) -> None:
        self._variables = variables

    def run(self, *arguments: str | Path) -> str:
        """What the command wrote. Raises CommandFailed."""
        command = [str(program()), *map(str, arguments)]
        done = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, **self._variables}, timeout=PATIENCE, check=False
        )
        if done.returncode:
            raise CommandFailed(" ".join((done.stderr or done.stdout).split())[:600])
        return done.stdout

    def json(self, *arguments: str | Path) -> Any:
        return json.loads(self.run(*arguments, "--json"))

    def wait_for_jobs(self) -> None:
        """Until nothing waits and nothing runs: a measurement beside another one is none."""
        while any(job["state"] in ("queued", "running", "cancelling") for job in self.json("jobs", "ls")["items"]):
            time.sleep(0.5)


@contextmanager
def serving(environment: Environment | None = None) -> Iterator[Commands]:
    """A server in a folder of its own, gone afterwards. environment: one that its jobs need and do not have to make again."""
    with tempfile.TemporaryDirectory(prefix="compression-") as folder:
        work = Path(folder)
        variables = variables_of(work)
        if environment is not None:
            _lend(environment, work / "home" / "environments")
        server = Server([program(), "up"], log=work / "log", environment=variables, folder=work)
        try:
            wait_for(work / "home" / "admin.key", server)
            yield Commands(variables)
        finally:
            server.stop()


_FOLDER = (
    "import sys; from pathlib import Path; from openmaas.tasks.interpreters import Interpreters; "
    "from openmaas.tasks.process import ENVIRONMENTS; print(Interpreters(Path(sys.argv[1]), ENVIRONMENTS).folder(sys.argv[2]))"
)


def _lend(environment: Environment, environments: Path) -> None:
    """The environment where a server looks for the one of that name."""
    environment.prepare()
    (environment.folder / "ready").touch()
    environments.mkdir(mode=0o700, parents=True)
    command = [interpreter(), "-c", _FOLDER, environments, environment.name]
    place = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    Path(place).symlink_to(environment.folder, target_is_directory=True)

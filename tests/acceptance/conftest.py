"""The real program, started as a user starts it: `openmaas up --detach` in a home of its own on free ports."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import openmaas
from tests.ports import free_port

BIN = Path(sys.executable).parent / "openmaas"


@dataclass
class Server:
    """One running OpenMaaS with its own home and ports."""

    home: Path
    environment: dict[str, str]
    http_port: int
    control_port: int
    _clients: list[openmaas.Client] = field(default_factory=list)

    @property
    def key(self) -> str:
        return (self.home / "admin.key").read_text().strip()

    @property
    def gateway(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    def run(self, *words: str, check: bool = True, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        """One command of the real program, from the same interpreter."""
        done = subprocess.run(
            [str(BIN), *words], env=self.environment, capture_output=True, text=True, timeout=timeout, check=False
        )
        if check and done.returncode:
            raise AssertionError(f"openmaas {' '.join(words)} exited with {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def json(self, *words: str) -> Any:
        return json.loads(self.run(*words, "--json").stdout)

    def client(self) -> openmaas.Client:
        client = openmaas.Client(home=self.home)
        self._clients.append(client)
        return client

    def up(self) -> None:
        try:
            self.run("up", "--detach")
        except BaseException:
            self.run("down", check=False)  # a start that was given up may still come about
            raise

    def down(self) -> None:
        for client in self._clients:
            client.close()
        self.run("down", check=False)

    def processes(self) -> dict[str, int]:
        """Process ids of supervisor, control and gateways, by name."""
        return {process["name"]: process["pid"] for process in self.json("status")["processes"] if process["pid"]}

    def control_is_back(self, killed: int) -> bool:
        """Whether another control than the killed one answers, and the supervisor has told it so."""
        return not self.run("status", check=False).returncode and self.processes().get("control", killed) != killed

    def replicas(self, deployment: str) -> list[dict[str, Any]]:
        return [replica for replica in self.json("ps") if replica["deployment"] == deployment]

    def pids(self) -> list[int]:
        """Of everything that runs for this home; none where it is down already."""
        if self.run("status", check=False).returncode:
            return []
        return [*self.processes().values(), *(replica["pid"] for replica in self.json("ps") if replica["pid"])]


def make_server(home: Path, **settings: object) -> Server:
    http_port, control_port = free_port(), free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENMAAS_")}
    environment |= {
        "OPENMAAS_HOME": str(home),
        "OPENMAAS_HTTP_PORT": str(http_port),
        "OPENMAAS_CONTROL_PORT": str(control_port),
        "OPENMAAS_MEASURE": "never",  # except where a test is about it: a measurement takes seconds and both cores
        **{f"OPENMAAS_{name.upper()}": str(value) for name, value in settings.items()},
    }
    return Server(home, environment, http_port, control_port)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def stop_all(server: Server) -> None:
    """`openmaas down`, and proof that nothing of it is left."""
    running = server.run("status", check=False).returncode == 0
    pids = server.pids() if running else []
    server.down()
    until = time.monotonic() + 60
    while (left := [pid for pid in pids if alive(pid)]) and time.monotonic() < until:
        time.sleep(0.1)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, f"still running after `openmaas down`: {left}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that the tests of a module share."""
    server = make_server(tmp_path_factory.mktemp("home"), hold_timeout=45)
    server.up()
    yield server
    stop_all(server)


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Makes servers that one test has to itself."""
    started: list[Server] = []

    def start(**settings: object) -> Server:
        server = make_server(tmp_path / f"home-{len(started)}", **settings)
        server.up()
        started.append(server)
        return server

    yield start
    for server in started:
        stop_all(server)


@pytest.fixture
def dummy(tmp_path: Path) -> Callable[..., Path]:
    """Makes model folders for the dummy engine: one FP32 input X and output Y of shape [-1, 2]."""

    def make(folder: str = "dummy", *, batchable: bool = True, **options: Any) -> Path:
        path = tmp_path / folder
        path.mkdir(exist_ok=True)
        tensor = {"datatype": "FP32", "shape": [-1, 2]}
        (path / "openmaas.yaml").write_text(
            json.dumps(
                {
                    "format": "dummy",
                    "batchable": batchable,
                    "signature": {"inputs": [{"name": "X", **tensor}], "outputs": [{"name": "Y", **tensor}]},
                    "options": options,
                }
            )
        )
        return path

    return make

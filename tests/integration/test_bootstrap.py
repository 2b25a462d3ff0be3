"""The program's processes as the command line starts them, with the real control and gateway."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from openmaas.bootstrap import running_server, start_detached, stop_server
from openmaas.core.errors import Conflict, OpenMaaSError
from openmaas.core.settings import Settings
from tests.ports import free_port


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    settings = Settings(home=str(tmp_path / "home"), http_port=free_port(), control_port=free_port())
    yield settings
    stop_server(settings)
    shutil.rmtree(settings.runtime_path, ignore_errors=True)  # that of one that was killed


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_detached_it_is_ready_on_return_and_gone_after_the_stop(settings: Settings) -> None:
    running = start_detached(settings)
    assert running.ready
    assert running_server(settings) == running
    for url in (f"{running.control_url}/health/ready", f"{running.gateway_url}/v2/health/ready"):
        with urllib.request.urlopen(url) as answer:
            assert answer.status == 200
    assert len(children(running.pid)) == 2
    with pytest.raises(Conflict, match=f"pid {running.pid}") as refused:
        start_detached(settings)
    assert refused.value.code == "already_running"
    assert stop_server(settings) == running
    assert running_server(settings) is None
    assert stop_server(settings) is None


def test_children_do_not_outlive_a_supervisor_that_is_killed(settings: Settings) -> None:
    running = start_detached(settings)
    left = children(running.pid)
    os.kill(running.pid, signal.SIGKILL)
    until = time.monotonic() + 60
    while any(Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes() for pid in left):
        assert time.monotonic() < until
        time.sleep(0.02)
    assert running_server(settings) is None


def test_a_port_in_use_is_told_to_the_one_that_waits(settings: Settings) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = msgspec.structs.replace(settings, control_port=other.getsockname()[1])
        with pytest.raises(Conflict, match="OPENMAAS_CONTROL_PORT") as refused:
            start_detached(taken)
    assert refused.value.code == "port_in_use"


def test_what_control_says_when_it_cannot_start_is_told(settings: Settings, tmp_path: Path) -> None:
    broken = msgspec.structs.replace(settings, database_url="mysql://u:secret@h/d")
    with pytest.raises(OpenMaaSError, match="OPENMAAS_DATABASE_URL") as refused:
        start_detached(broken)
    assert refused.value.code == "invalid_setting"
    assert "secret" not in str(refused.value)
    assert running_server(settings) is None


def test_a_bad_setting_ends_a_process_with_its_cause() -> None:
    environment = {"PATH": os.environ["PATH"], "OPENMAAS_HTTP_PORT": "seventy"}
    for process in ("supervisor", "control", "gateway", "replica", "job"):
        done = subprocess.run(
            [sys.executable, "-m", "openmaas.bootstrap", process], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        told = msgspec.json.decode(done.stderr.splitlines()[-1])["openmaas_cause"]
        assert (told["code"], "OPENMAAS_HTTP_PORT" in told["message"]) == ("invalid_setting", True)
        assert "Traceback" not in done.stderr


def test_no_process_is_open_to_others_by_accident(tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "OPENMAAS_HOST": "0.0.0.0", "OPENMAAS_HOME": str(tmp_path)}
    for process in ("supervisor", "control", "gateway"):
        done = subprocess.run(
            [sys.executable, "-m", "openmaas.bootstrap", process], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert '"code":"exposed"' in done.stderr

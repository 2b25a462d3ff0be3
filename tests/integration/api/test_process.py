"""Control as a process of its own: bodies that drip, lie or break off, and how quickly it is there."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.integration.api.test_routes import begin_body
from tests.integration.registry import digest
from tests.ports import free_port


class Control:
    def __init__(self, home: Path, port: int, process: subprocess.Popen[bytes]) -> None:
        self.home = home
        self.port = port
        self.process = process

    @property
    def key(self) -> str:
        return (self.home / "admin.key").read_text().strip()

    def client(self) -> httpx.Client:
        return httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}/api/v1", headers={"x-api-key": self.key}, timeout=60, trust_env=False
        )

    @contextlib.contextmanager
    def raw(self, head: str) -> Iterator[socket.socket]:
        """A connection on which the head of a request was sent."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            connection.sendall(f"{head}\r\nhost: x\r\nx-api-key: {self.key}\r\n\r\n".encode())
            yield connection


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Control]:
    home, port = tmp_path / "home", free_port()
    home.mkdir(mode=0o700)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENMAAS_")} | {
        "OPENMAAS_HOME": str(home),
        "OPENMAAS_CONTROL_PORT": str(port),
        "OPENMAAS_RUNTIME_DIR": str(tmp_path / "run"),
        "OPENMAAS_BODY_TIMEOUT": "1",
    }
    (tmp_path / "run").mkdir(mode=0o700)
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "openmaas.bootstrap", "control"], env=environment, stdout=log, stderr=log
        )
    try:
        _wait(port, process, tmp_path / "log")
        yield Control(home, port, process)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(60)


def _wait(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(1200):
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"http://127.0.0.1:{port}/health/ready", trust_env=False).status_code == 200:
                return
        time.sleep(0.05)
    raise AssertionError(log.read_text())


def answer_of(connection: socket.socket) -> bytes:
    received = b""
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(65536):
            received += piece
            if b"}" in received:
                break
    return received


def test_bodies_that_do_not_come_as_they_should(control: Control) -> None:
    data = os.urandom(100_000)
    with control.client() as client:
        upload = client.post("/uploads", json=begin_body("digits", {"m": data})).json()
        target = f"/api/v1/uploads/{upload['id']}/files/{digest(data)}?offset=0"
        stands = lambda: client.get(f"/uploads/{upload['id']}").json()["offsets"][digest(data)]  # noqa: E731

        began = time.monotonic()
        with control.raw(f"PUT {target} HTTP/1.1\r\ncontent-length: 100000") as connection:
            with contextlib.suppress(ConnectionError):
                for _ in range(40):  # a byte now and then is no progress
                    connection.sendall(b"x")
                    time.sleep(0.05)
            answer = answer_of(connection)
        assert b" 408 " in answer.partition(b"\r\n")[0]
        assert b'"code":"request_timeout"' in answer
        assert time.monotonic() - began < 10, "the default of body_timeout is longer"

        with control.raw(f"PUT {target} HTTP/1.1\r\ncontent-length: 99999999999") as connection:
            assert b" 413 " in answer_of(connection).partition(b"\r\n")[0]

        with control.raw(f"PUT {target} HTTP/1.1\r\ntransfer-encoding: chunked") as connection:
            with contextlib.suppress(ConnectionError):
                for _ in range(20):
                    connection.sendall(b"100000\r\n" + bytes(2**20) + b"\r\n")
            assert b" 413 " in answer_of(connection).partition(b"\r\n")[0]

        with control.raw(f"PUT {target} HTTP/1.1\r\ncontent-length: 100000") as connection:
            connection.sendall(data[:50_000])  # and gone
        assert stands() == 0

        with control.raw(
            "POST /api/v1/approvals HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: 50"
        ) as connection:
            assert b" 408 " in answer_of(connection).partition(b"\r\n")[0]

        assert client.put(target.removeprefix("/api/v1"), content=data).json()["offsets"] == {}
    log = (control.home.parent / "log").read_text()
    assert "Traceback" not in log
    assert control.key not in log


def test_a_slow_but_honest_sender_is_served(control: Control) -> None:
    """At more than 64 KiB in each second that it is given, it may take as long as it needs."""
    data = os.urandom(500_000)
    with control.client() as client:
        upload = client.post("/uploads", json=begin_body("digits", {"m": data})).json()
        target = f"/api/v1/uploads/{upload['id']}/files/{digest(data)}?offset=0"
        with control.raw(f"PUT {target} HTTP/1.1\r\ncontent-length: {len(data)}") as connection:
            for start in range(0, len(data), 50_000):
                connection.sendall(data[start : start + 50_000])
                time.sleep(0.2)
            assert b" 200 " in answer_of(connection).partition(b"\r\n")[0]


def test_a_download_is_streamed(control: Control) -> None:
    data = os.urandom(300_000)
    files = {"m": data, "openmaas.yaml": DESCRIPTION.encode()}
    with control.client() as client:
        upload = client.post("/uploads", json=begin_body("digits", files)).json()
        for content in files.values():
            assert client.put(f"/uploads/{upload['id']}/files/{digest(content)}?offset=0", content=content).status_code == 200
        pushed = client.post(f"/uploads/{upload['id']}/complete", timeout=60)
        assert pushed.status_code == 200, pushed.text
        assert pushed.json()["version"]["format"] == "dummy"
        assert client.get("/versions/digits/files/m").content == data


DESCRIPTION = """
format: dummy
signature:
  inputs: [{name: x, datatype: FP32, shape: [-1, 2]}]
  outputs: [{name: y, datatype: FP32, shape: [-1, 2]}]
"""


def test_it_stops_when_it_is_asked_to(control: Control) -> None:
    control.process.send_signal(signal.SIGTERM)
    assert control.process.wait(60) == 0

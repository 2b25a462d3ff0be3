"""Pushes that are killed, cut off or find no room: nothing half done, nothing lost."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .conftest import BIN, Server, make_server, stop_all


def _big(folder: Path, megabytes: int) -> Path:
    """The dummy's folder with a weight file that cannot be compressed or shared."""
    with (folder / "weights.bin").open("wb") as file:
        for _ in range(megabytes):
            file.write(os.urandom(2**20))
    return folder


def _uploaded(server: Server) -> int:
    """Bytes of unfinished uploads."""
    return sum(path.stat().st_size for path in (server.home / "uploads").rglob("*") if path.is_file())


def test_a_killed_push_goes_on_where_it_stopped(own_server: Callable[..., Server], dummy: Callable[..., Path]) -> None:
    server = own_server(chunk_size=2**20)
    folder = _big(dummy("big"), 96)
    push = subprocess.Popen(
        [str(BIN), "push", str(folder), "--name", "big"],
        env=server.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until = time.monotonic() + 90
    while _uploaded(server) < 8 * 2**20:
        assert time.monotonic() < until and push.poll() is None, "the push ended before it could be killed"
        time.sleep(0.005)
    push.send_signal(signal.SIGKILL)
    push.wait(60)
    kept = _uploaded(server)
    assert 8 * 2**20 <= kept < 96 * 2**20
    assert server.json("ls")["items"] == [], "a part of an upload must not be visible"
    seen: list[int] = []
    client = server.client()
    result = client.push(folder, name="big", progress=lambda told: told.stage == "sending" and seen.append(told.done))
    assert result.version.number == 1
    assert seen and min(seen) >= kept, "it began again instead of going on"
    client.deploy("big")
    assert _uploaded(server) == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB; skipped where none can be mounted."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(path)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system of limited size can be mounted here: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", str(path)], check=False)


def test_a_full_disk_refuses_the_push_and_reads_go_on(small_disk: Path, dummy: Callable[..., Path]) -> None:
    server = make_server(small_disk / "home")
    server.up()
    try:
        client = server.client()
        client.push(dummy("small"), name="small")
        client.deploy("small")
        done = server.run("push", str(_big(dummy("big"), 40)), "--name", "big", check=False)
        said = done.stdout + done.stderr
        assert done.returncode == 1 and ("disk" in said.lower() or "space" in said.lower()), said
        assert [row["name"] for row in server.json("ls")["items"]] == ["small"]
        assert client.predict("small", [[1.0, 2.0]])["Y"].tolist() == [[1.0, 2.0]]
        server.run("gc", "--yes")
        shutil.rmtree(server.home / "uploads", ignore_errors=True)
        client.push(dummy("third", note=3), name="third")
    finally:
        stop_all(server)


def test_rubbish_is_refused_with_a_reason(server: Server, tmp_path: Path) -> None:
    (tmp_path / "noise.onnx").write_bytes(os.urandom(5000))
    (tmp_path / "empty").mkdir()
    (tmp_path / "evil.onnx").write_bytes(
        b"\x80\x04\x95\x1d\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94."
    )
    for name, word in (("noise.onnx", ""), ("empty", ""), ("evil.onnx", "approve"), ("missing.onnx", "")):
        done = server.run("push", str(tmp_path / name), "--name", "rubbish", check=False)
        said = done.stdout + done.stderr
        assert done.returncode in (1, 2) and "Traceback" not in said and word in said, said
    assert "rubbish" not in [row["name"] for row in server.json("ls")["items"]]

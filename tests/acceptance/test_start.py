"""Starting, stopping and what stands open."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from .conftest import BIN, Server, alive, make_server, stop_all


def test_first_start_makes_a_key_that_only_the_owner_reads_and_stores_its_digest(own_server: Callable[..., Server]) -> None:
    server = own_server()
    assert stat.S_IMODE((server.home / "admin.key").stat().st_mode) == 0o600
    key = server.key
    found = [
        path
        for path in server.home.rglob("*")
        if path.is_file() and path.name != "admin.key" and key.encode() in path.read_bytes()
    ]
    assert found == [], "the key itself is stored elsewhere too"


def test_every_route_but_liveness_readiness_and_version_is_closed(server: Server) -> None:
    control = f"http://127.0.0.1:{server.control_port}"
    for path in ("/health/live", "/health/ready", "/version"):
        assert httpx.get(control + path, timeout=60, trust_env=False).status_code == 200
    for path in ("/v2/health/live", "/v2/health/ready", "/version"):
        assert httpx.get(server.gateway + path, timeout=60, trust_env=False).status_code == 200
    for url in (
        f"{control}/api/v1/models", f"{control}/api/v1/status", f"{control}/openapi.json", f"{control}/docs", f"{control}/",
        f"{server.gateway}/v2", f"{server.gateway}/metrics", f"{server.gateway}/v2/models/x", f"{server.gateway}/v1/models",
    ):  # fmt: skip
        for headers in ({}, {"authorization": "Bearer omk_wrong"}, {"authorization": f"Basic {server.key}"}):
            answer = httpx.get(url, headers=headers, timeout=60, trust_env=False)
            assert answer.status_code == 401, (url, headers, answer.status_code)
            assert "Traceback" not in answer.text and str(server.home) not in answer.text


def test_up_in_the_foreground_stops_on_ctrl_c_and_leaves_nothing(tmp_path: Path) -> None:
    server = make_server(tmp_path / "home")
    process = subprocess.Popen(
        [str(BIN), "up"], env=server.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        until = time.monotonic() + 90
        while True:
            try:
                if httpx.get(f"{server.gateway}/v2/health/ready", trust_env=False).status_code == 200:
                    break
            except httpx.HTTPError:
                pass
            assert time.monotonic() < until and process.poll() is None
            time.sleep(0.05)
        pids = server.pids()
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=90)
    finally:
        process.kill()  # where it has not ended, its children end with it
    assert process.returncode == 0, output
    assert output.count("omk_") == 1, "the admin key is printed once"
    assert not [pid for pid in pids if alive(pid)]


def test_a_killed_supervisor_takes_its_children_along_and_up_starts_again(tmp_path: Path, dummy: Callable[..., Path]) -> None:
    server = make_server(tmp_path / "home")
    server.up()
    try:
        client = server.client()
        client.push(dummy(), name="kept")
        client.deploy("kept")
        pids = server.pids()
        os.kill(server.processes()["supervisor"], signal.SIGKILL)
        until = time.monotonic() + 60
        while any(alive(pid) for pid in pids):
            assert time.monotonic() < until, [pid for pid in pids if alive(pid)]
            time.sleep(0.1)
        server.up()
        until = time.monotonic() + 60
        while server.client().deployment("kept").ready < 1:
            assert time.monotonic() < until
            time.sleep(0.1)
        assert server.client().predict("kept", [[1.0, 2.0]])["Y"].tolist() == [[1.0, 2.0]]
    finally:
        stop_all(server)


def test_a_second_server_of_the_same_home_or_port_is_refused(server: Server, tmp_path: Path) -> None:
    again = server.run("up", "--detach", check=False)
    assert again.returncode != 0 and "Traceback" not in again.stderr
    other = make_server(tmp_path / "other")
    other.environment["OPENMAAS_HTTP_PORT"] = str(server.http_port)
    refused = other.run("up", "--detach", check=False)
    assert refused.returncode != 0 and str(server.http_port) in refused.stdout + refused.stderr


def test_a_public_address_needs_tls_or_a_word(tmp_path: Path) -> None:
    server = make_server(tmp_path / "home")
    refused = server.run("up", "--detach", "--host", "0.0.0.0", check=False)
    assert refused.returncode != 0 and "--insecure" in refused.stdout + refused.stderr


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate with")
def test_tls(tmp_path: Path, dummy: Callable[..., Path]) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    server = make_server(tmp_path / "home", tls_cert=certificate, tls_key=key, ca=certificate)
    server.run("up", "--detach")
    try:
        server.run("push", str(dummy()), "--name", "secret")
        server.run("deploy", "secret")
        (tmp_path / "row.json").write_text("[[1.0, 2.0]]")
        done = server.run("predict", "secret", "--input", str(tmp_path / "row.json"), "--json")
        assert "2.0" in done.stdout
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"{server.gateway}/v2/health/live", trust_env=False)
    finally:
        stop_all(server)

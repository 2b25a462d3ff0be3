"""The same door behind TLS."""

from __future__ import annotations

import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.gateway.plane import Plane, wait_until
from tests.unit.replica.generation.writer import SIGNATURE, generator, write_files

_MAKE = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
_MAKE += ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]


@pytest.fixture
def secured(make_plane: Callable[..., Plane], tmp_path: Path) -> Plane:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run([*_MAKE, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    plane = make_plane(tls_cert=certificate, tls_key=key, body_timeout=1.0, drain_timeout=20.0)
    plane.trust = ssl.create_default_context(cafile=str(certificate))
    plane.publish()
    plane.replica("a", options={"factor": 2}, max_batch=1_000_000)
    plane.start_gateway()
    plane.deploy()
    plane.wait_ready()
    return plane


def test_predictions_small_and_large(secured: Plane) -> None:
    assert secured.url.startswith("https://")
    assert secured.infer([1, 2]).json()["outputs"][0]["data"] == [2, 4]
    answer = httpx.post(
        f"{secured.url}/v2/models/m/infer",
        content=b"\x00\x00\x80\x3f" * 2_000_000,
        headers=secured.headers | {"inference-header-content-length": "0"},
        verify=secured.trust,
        timeout=60,
        trust_env=False,
    )
    size = int(answer.headers["inference-header-content-length"])
    assert answer.content[size:] == b"\x00\x00\x00\x40" * 2_000_000


def test_text_passes_token_by_token(secured: Plane) -> None:
    start_writer(secured, token_delay=0.02)
    asked = {"text_input": "abc", "parameters": {"max_tokens": 30, "temperature": 0}}
    url = f"{secured.url}/v2/models/writer/generate_stream"
    with httpx.Client(headers=secured.headers, verify=secured.trust or True, timeout=60, trust_env=False) as client:
        for _ in range(5):  # a busy machine may let the reader wait and give it many at once
            begun = time.monotonic()
            with client.stream("POST", url, json=asked) as answer:
                at = [time.monotonic() - begun for line in answer.iter_lines() if line]
            assert len(at) > 5
            if at[0] < at[-1] / 2:
                return
    raise AssertionError(at)


def test_who_does_not_read_its_text_is_given_up(secured: Plane) -> None:
    start_writer(secured)
    body = b'{"model":"writer","prompt":"abc","max_tokens":3900,"n":16,"temperature":0,"logprobs":5,"stream":true}'
    assert secured.trust is not None
    with secured.trust.wrap_socket(secured.connect(), server_hostname="127.0.0.1") as client:
        client.sendall(secured.head("POST /v1/completions", f"Content-Length: {len(body)}") + body)
        wait_until(lambda: secured.sample("openmaas_requests_total", route="completions", status="499") == 1)
    assert secured.sample("openmaas_requests_in_flight") == 0


def start_writer(plane: Plane, **options: Any) -> None:
    write_files(plane.folder)
    plane.replica(
        "w-0", signature=SIGNATURE, options=options, generator=generator(context=4096), files=plane.folder, max_queue=100
    )
    plane.deploy("writer", "w-0")
    plane.wait_ready("writer")


def test_plain_http_and_old_protocols_get_nothing(secured: Plane) -> None:
    with secured.connect(b"GET /version HTTP/1.1\r\nHost: a\r\n\r\n") as client:
        assert b"200" not in client.recv(1000)
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    with pytest.warns(DeprecationWarning):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with socket.create_connection(("127.0.0.1", secured.port), timeout=60) as client, pytest.raises(ssl.SSLError):
        old.wrap_socket(client)


def test_a_client_that_drips_or_says_nothing_is_closed(secured: Plane) -> None:
    begun = time.monotonic()
    with secured.connect() as silent, secured.connect(b"\x16\x03\x01") as half:
        for client in (silent, half):
            client.settimeout(60)
            assert client.recv(100) == b""
    assert time.monotonic() - begun < 10, "the default of body_timeout is longer"
    assert secured.trust is not None
    with secured.trust.wrap_socket(secured.connect(), server_hostname="127.0.0.1") as dripping:
        dripping.sendall(secured.head("POST /v2/models/m/infer", "Content-Length: 1000"))
        assert dripping.recv(100).startswith(b"HTTP/1.1 408 ")


def test_it_stops_as_without_tls(secured: Plane) -> None:
    assert secured.gateway is not None
    assert secured.trust is not None
    idle = secured.trust.wrap_socket(secured.connect(), server_hostname="127.0.0.1")
    secured.gateway.send_signal(signal.SIGTERM)
    assert secured.gateway.wait(60) == 0  # though the idle client never answers the farewell
    assert "drain_incomplete" not in secured.log
    idle.close()


def test_a_certificate_that_cannot_be_used_stops_the_start(make_plane: Callable[..., Plane], tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text("no certificate")
    plane = make_plane(tls_cert=tmp_path / "cert.pem", tls_key=tmp_path / "missing.pem")
    with pytest.raises(AssertionError):
        plane.start_gateway(ready=False)
    assert "OPENMAAS_TLS_CERT" in plane.log

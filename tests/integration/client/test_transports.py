"""Both transports against a real HTTP server on loopback."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from openmaas.client.asynchronous import AsyncTransport
from openmaas.client.blocking import BlockingTransport
from openmaas.client.server import Server
from openmaas.client.steps import Request, Response
from openmaas.core.errors import DeadlineExceeded, OpenMaaSError, Unavailable

Send = Callable[[Server, list[Request]], list[Response | OpenMaaSError]]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    connections: set[tuple[str, int]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        type(self).connections.add(self.client_address)
        if self.path == "/slow":
            time.sleep(1)
        answer = f"{self.path} {self.headers.get('authorization')} {len(body)}".encode()
        if self.path == "/large":
            answer = b"x" * 3_000_000
        self.send_response(404 if self.path == "/missing" else 200)
        self.send_header("X-Request-Id", "r1")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
        self.close_connection = self.path == "/close"  # without saying so: the client finds out when it comes back

    def log_message(self, *_: object) -> None: ...


class _Http(ThreadingHTTPServer):
    daemon_threads = False  # closing waits for them

    def handle_error(self, *_: object) -> None:
        """A client that leaves early is part of the test."""


@pytest.fixture
def handler() -> type[_Handler]:
    return type("Handler", (_Handler,), {"connections": set()})


@pytest.fixture
def http(handler: type[_Handler]) -> Iterator[_Http]:
    server = _Http(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def _blocking(server: Server, requests: list[Request]) -> list[Response | OpenMaaSError]:
    transport = BlockingTransport(server)
    results: list[Response | OpenMaaSError] = []
    for request in requests:
        try:
            results.append(transport.send(request))
        except OpenMaaSError as error:
            results.append(error)
        time.sleep(0.05)
    transport.close()
    return results


def _asynchronous(server: Server, requests: list[Request]) -> list[Response | OpenMaaSError]:
    async def send_all() -> list[Response | OpenMaaSError]:
        transport = AsyncTransport(server)
        results: list[Response | OpenMaaSError] = []
        for request in requests:
            try:
                results.append(await transport.send(request))
            except OpenMaaSError as error:
                results.append(error)
            await asyncio.sleep(0.05)
        await transport.close()
        return results

    return asyncio.run(send_all())


@pytest.fixture(params=[_blocking, _asynchronous], ids=["blocking", "asynchronous"])
def send(request: pytest.FixtureRequest) -> Send:
    function: Send = request.param
    return function


def _server(http: _Http, scheme: str = "http", ca: str = "") -> Server:
    url = f"{scheme}://127.0.0.1:{http.server_address[1]}"
    return Server(url, url, "omk_secret", ca)


def _post(path: str, **more: object) -> Request:
    return Request("POST", (path,), **more)  # type: ignore[arg-type]


def test_a_connection_is_kept_and_the_key_goes_along(http: _Http, handler: type[_Handler], send: Send) -> None:
    first, second, missing = send(_server(http), [_post("a", body=b"12345"), _post("b c/é"), _post("missing")])
    assert isinstance(first, Response) and isinstance(second, Response) and isinstance(missing, Response)
    assert first.body == b"/a Bearer omk_secret 5"
    assert second.body.startswith(b"/b%20c%2F%C3%A9 ")
    assert (missing.status, missing.headers["x-request-id"]) == (404, "r1")
    assert len(handler.connections) == 1


def test_a_connection_that_the_server_closed_meanwhile_is_no_error(http: _Http, send: Send) -> None:
    results = send(_server(http), [_post("close"), _post("close"), _post("a")])
    assert [result.status for result in results if isinstance(result, Response)] == [200, 200, 200]


def test_a_large_answer_goes_to_its_sink_and_an_error_s_body_does_not(http: _Http, send: Send) -> None:
    pieces: list[bytes] = []
    large, missing = send(_server(http), [_post("large", sink=pieces.append), _post("missing", sink=pieces.append)])
    assert isinstance(large, Response) and isinstance(missing, Response)
    assert large.body == b""
    assert sum(map(len, pieces)) == 3_000_000
    assert missing.body.startswith(b"/missing")


def test_an_answer_that_is_late(http: _Http, send: Send) -> None:
    (late,) = send(_server(http), [_post("slow", timeout=0.2)])
    assert isinstance(late, DeadlineExceeded)
    assert "within 0.2 s" in late.message


def test_nobody_there(send: Send) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    (error,) = send(Server(url, url), [_post("a")])
    assert isinstance(error, Unavailable)
    assert error.code == "unreachable"
    assert url in error.message
    assert "openmaas up" in str(error.next_step)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1"]
    path = tmp_path / "both.pem"
    subprocess.run([*command, "-keyout", str(path), "-out", str(tmp_path / "cert.pem")], check=True, capture_output=True)
    path.write_text(path.read_text() + (tmp_path / "cert.pem").read_text())
    return path


def test_a_certificate_is_checked(http: _Http, certificate: Path, send: Send) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    http.socket = context.wrap_socket(http.socket, server_side=True, do_handshake_on_connect=False)
    (refused,) = send(_server(http, "https"), [_post("a")])
    assert isinstance(refused, Unavailable)
    assert refused.code == "untrusted_certificate"
    assert "OPENMAAS_CA" in str(refused.next_step)
    (trusted,) = send(_server(http, "https", ca=str(certificate.parent / "cert.pem")), [_post("a")])
    assert isinstance(trusted, Response), trusted

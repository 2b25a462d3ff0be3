"""What the real gateway answers: keys, routes, headers, KServe V1, limits, and clients that misbehave."""

from __future__ import annotations

import contextlib
import gzip
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from openmaas.core.keys import make_key
from tests.integration.gateway.plane import Plane, infer_body, read_rest, wait_until
from tests.unit.protocols.test_routes import TABLE

BODY = infer_body([1, 2])


@pytest.fixture
def http(plane: Plane) -> Any:
    with httpx.Client(base_url=plane.url, timeout=60, trust_env=False) as client:
        yield client


# ── keys ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("path", "name", "method", "deployment", "version"), TABLE)
def test_every_route_but_three_wants_a_key(
    http: httpx.Client, path: str, name: str, method: str, deployment: str, version: str
) -> None:
    for verb in ("GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"):
        for headers in ({}, {"authorization": f"Bearer {make_key()}"}, {"x-api-key": "nonsense"}):
            answer = http.request(verb, path, headers=headers)
            if name in ("live", "ready", "version"):
                assert answer.status_code == (200 if verb in ("GET", "HEAD") else 405)
            else:
                assert answer.status_code == 401, (verb, path)
                assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.headers["x-request-id"]


def test_the_key_goes_into_either_header(plane: Plane, http: httpx.Client) -> None:
    for headers in (
        {"authorization": f"Bearer {plane.key}"},
        {"x-api-key": plane.key},
        {"AUTHORIZATION": f"bearer {plane.key}"},
    ):
        assert http.get("/v2", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "fields",
    [
        ["Authorization: Bearer {key}", "Authorization: Bearer {key}"],
        ["Authorization: Bearer x", "Authorization: Bearer {key}"],
        ["Authorization: Bearer {key}", "Authorization: Bearer x"],
        ["X-API-Key: {key}", "X-API-Key: x"],
        ["Authorization: Basic {key}", "X-API-Key: {key}"],
        ["Authorization: Bearer \xe4{key}"],
        ["Authorization: Bearer"],
        ["Proxy-Authorization: Bearer {key}"],
    ],
)
def test_doubtful_credentials_are_refused(plane: Plane, fields: list[str]) -> None:
    lines = ["GET /v2 HTTP/1.1", "Host: a", "Connection: close", *(field.format(key=plane.key) for field in fields), "", ""]
    with plane.connect("\r\n".join(lines).encode("latin-1")) as client:
        assert read_rest(client).startswith(b"HTTP/1.1 401 ")


def test_a_key_in_the_query_is_none(plane: Plane, http: httpx.Client) -> None:
    assert http.get(f"/v2?api_key={plane.key}&authorization=Bearer%20{plane.key}").status_code == 401


# ── routes and methods ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "path",
    [
        "//v2",
        "/v2/../metrics",
        "/v2/health/live/../../../metrics",
        "/v2/health%2Flive",
        "/%6detrics",
        "/METRICS",
        "/v2;x",
        "/v2/models/m%2Finfer",
        "/v2/models/%2e%2e/ready",
        "/v2/models/m%00/ready",
        "/v2/models/%ff/ready",
        "/" + "a" * 60_000,
        "/v2/models/" + "m" * 5000 + "/ready",
    ],
)
def test_tricks_with_paths_lead_nowhere(plane: Plane, path: str) -> None:
    with plane.connect(plane.head(f"GET {path}", "Connection: close")) as client:
        assert read_rest(client).startswith(b"HTTP/1.1 404 ")


@pytest.mark.parametrize(
    "path",
    ["/v2/models/%6d/ready", "/v2/models/m/ready?x=/metrics", "/v2/models/m@champion/ready", "/v2/models/m%40champion/ready"],
)
def test_other_ways_to_write_a_name(plane: Plane, path: str) -> None:
    assert plane.get(path).status_code == 200


def test_methods(plane: Plane, http: httpx.Client) -> None:
    answer = http.get("/v2/models/m/infer", headers=plane.headers)
    assert (answer.status_code, answer.headers["allow"], answer.json()["code"]) == (405, "POST", "wrong_method")
    answer = http.head("/v2/models/m", headers=plane.headers)
    assert answer.status_code == 200
    assert answer.content == b""
    assert int(answer.headers["content-length"]) > 10
    assert http.options("/version").status_code == 405


def test_kserve_v1(plane: Plane, http: httpx.Client) -> None:
    for body in (
        {"instances": [[1, 2], [3, 4]]},
        {"instances": [{"x": [1, 2]}, {"x": [3, 4]}]},
        {"inputs": {"x": [[1, 2], [3, 4]]}},
    ):
        answer = http.post("/v1/models/m:predict", json=body, headers=plane.headers)
        assert answer.json() == {"predictions": [[2, 4], [6, 8]]}
    assert http.post("/v1/models/m%40champion:predict", json={"instances": [[1, 2]]}, headers=plane.headers).status_code == 200
    assert http.get("/v1/models", headers=plane.headers).json()["models"] == ["m", "odd", "slow", "stuck", "words"]
    assert {"name": "m", "ready": True}.items() <= http.get("/v1/models/m", headers=plane.headers).json().items()
    answer = http.post("/v1/models/m:predict", json={"instance": []}, headers=plane.headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_json")


def test_the_repository_index_tells_only_what_is_ready_when_asked(plane: Plane, http: httpx.Client) -> None:
    for body in (b"", b"{}", b'{"ready":true}', b'{"ready":false}'):
        assert len(http.post("/v2/repository/index", content=body, headers=plane.headers).json()) == 5
    for body in (b'{"raedy":true}', b"[", b'{"ready":1}', b"\xff"):
        assert http.post("/v2/repository/index", content=body, headers=plane.headers).status_code == 400


# ── headers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_headers_of_an_answer(plane: Plane) -> None:
    answer = plane.infer([1, 2], x_request_id="my-request.1")
    assert answer.json()["outputs"][0]["data"] == [2, 4]
    assert answer.headers["x-request-id"] == "my-request.1"
    names = [part.split(";")[0].strip() for part in answer.headers["server-timing"].split(",")]
    assert names == ["queue", "batch", "model", "overhead"]
    assert all(float(part.split("dur=")[1]) >= 0 for part in answer.headers["server-timing"].split(","))
    assert plane.infer([1, 2]).headers["x-request-id"] != plane.infer([1, 2]).headers["x-request-id"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x_request_id", "with space"),
        ("x_request_id", "x" * 129),
        ("x_request_timeout", "soon"),
        ("x_request_timeout", "-1"),
        ("x_request_timeout", "0"),
        ("x_request_timeout", "nan"),
        ("x_request_timeout", "inf"),
        ("inference_header_content_length", "x"),
        ("inference_header_content_length", "-1"),
        ("inference_header_content_length", "+5"),
        ("inference_header_content_length", "9" * 30),
        ("inference_header_content_length", "100000"),
        ("content_encoding", "br"),
        ("content_encoding", "gzip"),
    ],
)
def test_headers_that_cannot_be_are_refused(plane: Plane, name: str, value: str) -> None:
    answer = plane.infer([1, 2], **{name: value})
    assert answer.status_code == 400, answer.text
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


def test_errors_are_json_with_a_code_and_tell_no_paths(plane: Plane) -> None:
    for answer in (plane.infer([1.0, 2.0, 3.0]), plane.infer([13.0, 0.0], name="odd"), plane.infer([1.0, 2.0], name="nobody")):
        said = answer.json()
        assert answer.status_code >= 400
        assert said["code"] and said["error"]
        assert "/home" not in answer.text and "Traceback" not in answer.text and ".py" not in answer.text


# ── bodies ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_bodies_in_every_form(plane: Plane, http: httpx.Client) -> None:
    url = "/v2/models/m/infer"
    assert http.post(url, content=iter([BODY[:10], BODY[10:]]), headers=plane.headers).status_code == 200  # chunked
    assert http.post(url, content=gzip.compress(BODY), headers=plane.headers | {"content-encoding": "gzip"}).status_code == 200
    raw = http.post(url, content=b"\0\0\x80\x3f\0\0\0\x40", headers=plane.headers | {"inference-header-content-length": "0"})
    assert raw.headers["content-type"] == "application/octet-stream"
    assert raw.content[int(raw.headers["inference-header-content-length"]) :] == b"\0\0\0\x40\0\0\x80\x40"
    with plane.connect(plane.head("POST /v2/models/m/infer", "Expect: 100-continue", f"Content-Length: {len(BODY)}")) as client:
        assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(BODY)
        assert client.recv(1000).startswith(b"HTTP/1.1 200 ")


def test_bodies_over_the_limit(plane: Plane, http: httpx.Client) -> None:
    answer = http.post("/v2/models/m/infer", content=bytes(20_000_001), headers=plane.headers)
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
    bomb = gzip.compress(bytes(30_000_000))
    answer = http.post("/v2/models/m/infer", content=bomb, headers=plane.headers | {"content-encoding": "gzip"})
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
    with plane.connect(plane.head("POST /v2/models/m/infer", "Transfer-Encoding: chunked")) as client:
        for _ in range(400):
            client.sendall(b"10000\r\n" + bytes(65536) + b"\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 413 ")
    assert plane.infer([1, 2]).status_code == 200
    assert plane.sample("openmaas_requests_in_flight") == 0


@pytest.mark.parametrize(
    ("fields", "content", "status"),
    [
        (["Content-Length: 5"], BODY, 400),  # the rest is no request
        (["Content-Length: 5000"], BODY, 408),
        (["Transfer-Encoding: chunked"], b"5\r\nabc", 408),
        (["Content-Length: 5", "Transfer-Encoding: chunked"], b"0\r\n\r\n", 400),
        (["Content-Length: 1", "Content-Length: 2"], b"ab", 400),
    ],
)
def test_lengths_that_lie(plane: Plane, fields: list[str], content: bytes, status: int) -> None:
    with plane.connect(plane.head("POST /v2/models/m/infer", *fields) + content) as client:
        said = read_rest(client)
    assert said.startswith(b"HTTP/1.1 %d " % status), said
    assert b" 200 " not in said


def test_a_body_cut_short_is_never_a_prediction(plane: Plane) -> None:
    before = plane.replica_counts()["m-1-0"]["execution_count"]
    for fields, content in (
        (["Content-Length: 9"], b"\0" * 8),
        (["Transfer-Encoding: chunked"], b"8\r\n" + b"\0" * 8 + b"\r\n"),
    ):
        with plane.connect(
            plane.head("POST /v2/models/m/infer", "Inference-Header-Content-Length: 0", *fields) + content
        ) as client:
            client.shutdown(socket.SHUT_WR)
            assert read_rest(client) == b""
    assert plane.replica_counts()["m-1-0"]["execution_count"] == before
    assert plane.sample("openmaas_requests_in_flight") == 0


@pytest.mark.parametrize("start", [b"POST /v2/models/m/infer HTTP/1.1\r\nHost", b"body", b"chunked"])
def test_a_client_that_drips_is_closed(plane: Plane, start: bytes) -> None:
    if start == b"body":
        start = plane.head("POST /v2/models/m/infer", "Content-Length: 1000")
    elif start == b"chunked":
        start = plane.head("POST /v2/models/m/infer", "Transfer-Encoding: chunked")
    begun = time.monotonic()
    with plane.connect(start) as client:
        client.settimeout(0.1)
        said = b""
        while time.monotonic() - begun < 60:
            try:
                said += client.recv(1000)
                break
            except TimeoutError:
                client.sendall(b"1" if b"chunked" not in start else b"1\r\n \r\n")
    assert said.startswith(b"HTTP/1.1 408 ")
    assert 0.9 < time.monotonic() - begun < 10, "the default of body_timeout is longer"


def test_bad_input_of_one_harms_no_neighbour(plane: Plane, http: httpx.Client) -> None:
    """Each of these once broke, or could break, the connection that all requests to the replica share."""
    bad = [
        b'{"inputs":[{"name":"\xff"}]}',
        b'{"inputs":[{"name":"x","shape":[0,4611686018427387904,4611686018427387904],"datatype":"FP32","data":[]}]}',
        BODY[:-1] + b',"parameters":{"timeout":' + b"9" * 400 + b"}}",
        b'{"inputs":' + b"[" * 100_000,
    ]
    with ThreadPoolExecutor(4) as pool:
        good = [pool.submit(plane.infer, [n, n]) for n in range(40)]
        for content in bad * 5:
            answer = http.post("/v2/models/m/infer", content=content, headers=plane.headers)
            assert answer.status_code == 400, answer.text
        assert {one.result().status_code for one in good} == {200}
    assert plane.log.count("unexpected") == 0


# ── time and room ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_deadline_is_kept(plane: Plane) -> None:
    seconds = []
    for _ in range(6):  # the best of them: a busy machine may be late once
        begun = time.monotonic()
        answer = plane.infer([1, 2], name="slow", x_request_timeout="0.1")
        seconds.append(time.monotonic() - begun)
        assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")
    assert 0.1 <= min(seconds) < 0.3  # the model itself takes longer
    wait_until(lambda: plane.infer([1, 2], name="slow").status_code == 200)


def test_a_full_queue_is_said_at_once(plane: Plane, http: httpx.Client) -> None:
    """One runs, two wait, and the others are told to come back."""
    request = plane.head("POST /v2/models/stuck/infer", f"Content-Length: {len(BODY)}") + BODY
    with plane.connect(request), plane.connect(request), plane.connect(request):
        wait_until(lambda: plane.sample("openmaas_requests_in_flight") == 3)
        seconds = []
        for _ in range(5):
            begun = time.monotonic()
            answer = http.post("/v2/models/stuck/infer", content=BODY, headers=plane.headers)
            seconds.append(time.monotonic() - begun)
            assert (answer.status_code, answer.json()["code"]) == (503, "queue_full")
            assert int(answer.headers["retry-after"]) >= 1
    assert min(seconds) < 0.5, "one that runs takes 3 s"
    wait_until(lambda: plane.sample("openmaas_requests_in_flight") == 0)


def test_who_leaves_is_not_worked_for(plane: Plane) -> None:
    before = plane.replica_counts("slow")["slow-1-0"]
    request = plane.head("POST /v2/models/slow/infer", f"Content-Length: {len(BODY)}") + BODY
    first = plane.connect(request)
    wait_until(lambda: plane.sample("openmaas_requests_in_flight") == 1)  # the engine is busy with it
    leaving = [plane.connect(request) for _ in range(2)]
    wait_until(lambda: plane.sample("openmaas_requests_in_flight") == 3)
    for client in leaving:
        client.close()
    assert first.recv(100).startswith(b"HTTP/1.1 200 ")
    first.close()
    wait_until(lambda: plane.replica_counts("slow")["slow-1-0"]["cancelled"] == before["cancelled"] + 2)
    assert plane.replica_counts("slow")["slow-1-0"]["execution_count"] == before["execution_count"] + 1
    assert plane.sample("openmaas_requests_in_flight") == 0
    assert plane.sample("openmaas_requests_total", route="infer", deployment="slow", status="499") >= 2


def test_metrics_can_be_read(plane: Plane) -> None:
    before = plane.sample("openmaas_requests_total", route="infer", deployment="m", status="200")
    rows = plane.sample("openmaas_inference_count_total", model="m")
    plane.infer([1, 2], [3, 4])
    assert plane.sample("openmaas_requests_total", route="infer", deployment="m", status="200") == before + 1
    assert plane.sample("openmaas_inference_count_total", model="m") == rows + 2
    assert plane.sample("openmaas_request_duration_seconds_count", deployment="m") > 0


def test_memory_does_not_grow_with_what_strangers_ask(plane: Plane) -> None:
    """Long paths and queries, open routes with bodies, endless trailers: nothing of it stays."""
    with httpx.Client(timeout=60, trust_env=False) as client:
        for n in range(300):
            client.get(f"{plane.url}/version?{n}" + "x" * 30_000)
            client.get(f"{plane.url}/v2/models/{n}" + "x" * 30_000)
    before = plane.memory()
    with httpx.Client(timeout=60, trust_env=False) as client:
        for n in range(500):
            client.get(f"{plane.url}/version?{n}y" + "x" * 60_000)
            client.get(f"{plane.url}/v2/models/{n}y" + "x" * 60_000)
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            client = stack.enter_context(plane.connect(b"GET /version HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"))
            with contextlib.suppress(OSError):
                for _ in range(32):
                    client.sendall(b"10000\r\n" + bytes(65536) + b"\r\n")
        assert plane.memory() - before < 15

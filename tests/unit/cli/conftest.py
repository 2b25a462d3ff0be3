"""A server in memory that the command line finds in the environment."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from openmaas import cli
from openmaas.client.steps import Request, Response
from tests.unit.client.transport import FakeTransport, error_answer, json_answer

NOW = 1_800_000_000.0
CAUSE = {
    "code": "out_of_memory", "message": "The replica was killed: it needed more than 400 MiB.",
    "stderr": ["loading weights.bin", "Killed"], "next_step": "openmaas deploy minilm:2 --memory 800MiB",
}  # fmt: skip
COMPARISONS = [
    {"batch": batch, "output": "probabilities", "max_abs_diff": 2.4e-7, "max_rel_diff": 1e-6, "labels_equal": True}
    for batch in (1, 2, 7)
]
MANIFEST = {
    "schema": 1, "format": "sklearn", "engine": "onnxruntime", "entry": "model.onnx",
    "signature": {
        "inputs": [{"name": "X", "datatype": "FP32", "shape": [-1, 4]}],
        "outputs": [
            {"name": "label", "datatype": "INT64", "shape": [-1]},
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]},
        ],
    },
    "files": [{"path": "model.onnx", "size": 48_211, "sha256": "ab" * 32},
              {"path": "model.skops", "size": 90_000, "sha256": "cd" * 32}],
    "batchable": True, "batching": "", "options": {}, "notes": ["ZipMap was removed."],
    "parity": {
        "source": "scikit-learn", "target": "onnxruntime", "passed": True, "sample": "given", "rtol": 1e-4, "atol": 1e-5,
        "comparisons": COMPARISONS, "reason": None,
    },
}  # fmt: skip
VERSION = {
    "model": "digits", "project": "default", "number": 3, "digest": "9f" * 32, "format": "sklearn", "engine": "onnxruntime",
    "size": 138_211, "manifest": MANIFEST, "metadata": {"accuracy": 0.97}, "card": "", "aliases": ["champion"],
    "created_at": NOW - 120, "created_by": "admin", "parent": None, "recipe": None,
}  # fmt: skip
MODELS = [
    {"name": "digits", "project": "default", "versions": 3, "latest": 3, "format": "sklearn", "size": 138_211,
     "aliases": {"champion": 3, "candidate": 2}, "updated_at": NOW - 120},
    {"name": "minilm", "project": "default", "versions": 2, "latest": 2, "format": "onnx", "size": 90_400_000, "aliases": {},
     "updated_at": NOW - 86_400 * 3},
]  # fmt: skip
DEPLOYMENTS = [
    {"name": "digits", "project": "default", "model": "digits", "state": "ready", "revision": 4, "version": 3, "serving": 3,
     "replicas": 2, "ready": 2, "options": {}, "cause": None, "updated_at": NOW - 60, "actor": "admin"},
    {"name": "search", "project": "default", "model": "minilm", "state": "failed", "revision": 2, "version": 2, "serving": 1,
     "replicas": 1, "ready": 1, "options": {}, "cause": CAUSE, "updated_at": NOW - 5, "actor": "admin"},
]  # fmt: skip
REPLICAS = [
    {"id": f"{name}-{revision}-{index}", "deployment": name, "version": version, "pid": pid, "state": state,
     "restarts": restarts, "memory": memory, "since": NOW - 3600, "cause": None}
    for name, revision, index, version, pid, state, restarts, memory in (
        ("digits", 4, 0, 3, 4211, "ready", 0, 91_000_000), ("digits", 4, 1, 3, 4212, "ready", 1, 90_500_000),
        ("search", 1, 0, 1, 4100, "ready", 0, 240_000_000), ("search", 2, 0, 2, None, "failed", 3, 0),
    )
]  # fmt: skip
MOVE = {
    "id": 7,
    "model": "digits",
    "alias": "champion",
    "number": 3,
    "previous": 2,
    "action": "set",
    "actor": "admin",
    "at": NOW - 9,
}
DEPLOYMENT_MOVE = {
    "deployment": "digits", "revision": 4, "model": "digits", "version": 3, "action": "deploy", "state": "ready", "cause": None,
    "actor": "admin", "at": NOW - 60,
}  # fmt: skip
STATUS = {
    "version": "0.1.0", "control_url": "http://127.0.0.1:8080", "gateway_url": "http://127.0.0.1:8000",
    "home": "/home/ada/.openmaas",
    "database": "sqlite 3.51.3 (WAL)", "supervised": True, "deployments": {"ready": 1, "failed": 1}, "jobs": {"running": 2},
    "processes": [
        {"name": name, "state": "ready", "pid": 100 + index, "restarts": 0, "memory": 60_000_000 + index * 10**6, "url": None}
        for index, name in enumerate(("supervisor", "control", "gateway-0"))
    ],
}  # fmt: skip
GC = {"blobs": 3, "bytes": 1_200_000, "uploads": 1, "done": False, "digests": ["a", "b", "c"]}
FINDINGS = [
    {"check": "database", "ok": True, "message": "SQLite 3.51.3, write-ahead log, 12 tables.", "next_step": None},
    {"check": "disk", "ok": False, "message": "0.4 GB free in /home/ada/.openmaas.", "next_step": "openmaas gc"},
]
JOBS = [
    {"id": f"job-00000{number}", "project": "default", "kind": kind, "subject": "digits:3", "arguments": {}, "state": state,
     "attempt": 1, "stage": stage, "done": 1.0, "total": 4.0, "result": result, "cause": cause, "measures": False,
     "actor": "admin", "pid": pid, "created_at": NOW - 60, "started_at": NOW - 50, "ended_at": end}
    for number, kind, state, stage, result, cause, pid, end in (
        (9, "convert", "running", "comparing", None, None, 4300, None),
        (8, "convert", "succeeded", "registering", {"version": "digits:4"}, None, None, NOW - 20),
        (7, "measure", "failed", "timing", None, CAUSE, None, NOW - 10),
    )
]  # fmt: skip
APPROVAL = {"sha256": "ab" * 32, "reason": "trained here", "actor": "admin", "at": NOW - 9}


def page(items: list[Any], total: int | None = None) -> dict[str, Any]:
    return {"items": items, "total": len(items) if total is None else total, "next": None}


_ANSWERS: list[tuple[str, Any]] = [
    (r"GET /api/v1/models", page(MODELS)),
    (r"GET /api/v1/models/digits", MODELS[0]),
    (r"GET /api/v1/models/digits/versions", page([VERSION])),
    (r"GET /api/v1/models/digits/history", page([MOVE])),
    (r"GET /api/v1/versions/digits.*", VERSION),
    (r"(PUT|DELETE) /api/v1/models/digits/aliases/champion", MOVE),
    (r"POST /api/v1/models/digits/aliases/champion/rollback", {**MOVE, "action": "rollback", "number": 2, "previous": 3}),
    (r"GET /api/v1/deployments", page(DEPLOYMENTS)),
    (r"GET /api/v1/deployments/digits/history", page([DEPLOYMENT_MOVE])),
    (r"GET /api/v1/deployments/\w+/logs", {"lines": ["line 1", "line 2"], "offset": 14}),
    (r"(GET|DELETE) /api/v1/deployments/digits", DEPLOYMENTS[0]),
    (r"POST /api/v1/deployments(/digits/rollback)?", DEPLOYMENTS[0]),
    (r"GET /api/v1/deployments/search", DEPLOYMENTS[1]),
    (r"GET /api/v1/replicas", REPLICAS),
    (r"GET /api/v1/jobs", page(JOBS)),
    (r"POST /api/v1/jobs/job-000009/(cancel|retry)", JOBS[0]),
    (r"GET /api/v1/jobs/job-000009", JOBS[0]),
    (r"GET /api/v1/jobs/job-000008", JOBS[1]),
    (r"GET /api/v1/jobs/job-000007", JOBS[2]),
    (r"GET /api/v1/jobs/\S+/logs", {"lines": ["line 1", "line 2"], "offset": 14}),
    (r"GET /api/v1/status", STATUS),
    (r"GET /api/v1/doctor", FINDINGS),
    (r"POST /api/v1/gc", GC),
    (r"GET /api/v1/approvals", [APPROVAL]),
    (r"POST /api/v1/approvals", APPROVAL),
    (r"DELETE /api/v1/(models|versions)/.*", None),
]


def answer(request: Request) -> Response:
    asked = f"{request.method} /{'/'.join(request.parts)}"
    for pattern, value in _ANSWERS:
        if re.fullmatch(pattern, asked):
            return Response(204, {}, b"") if value is None else json_answer(value)
    return error_answer(404, "not_found", f"There is no {asked!r}.", next_step="openmaas ls", request_id="0f1e")


class Terminal:
    """Runs command lines against the server in memory and keeps what they wrote."""

    def __init__(self, transport: FakeTransport, capture: pytest.CaptureFixture[str]) -> None:
        self.transport = transport
        self._capture = capture

    def __call__(self, *words: str) -> tuple[int, str, str]:
        code = cli.run(list(words))
        written = self._capture.readouterr()
        return code, written.out, written.err


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Request], Response]], FakeTransport]:
    """Let the command line find a server that answers from a function."""

    def install(function: Callable[[Request], Response]) -> FakeTransport:
        transport = FakeTransport(function)
        monkeypatch.setenv("OPENMAAS_URL", "http://127.0.0.1:8080")
        monkeypatch.setenv("OPENMAAS_HOME", "/nonexistent")
        monkeypatch.setattr("openmaas.client.blocking.BlockingTransport", lambda server: transport)
        monkeypatch.setattr("openmaas.cli.units.time.time", lambda: NOW)
        return transport

    return install


@pytest.fixture
def terminal(serve: Any, capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(serve(answer), capsys)

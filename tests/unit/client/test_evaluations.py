"""Evaluations asked for and read."""

from __future__ import annotations

import json
from typing import Any

import openmaas
from openmaas.client.steps import Request, Response
from tests.unit.cli.conftest import NOW, VERSION, page
from tests.unit.client.test_jobs import JOB
from tests.unit.client.transport import FakeTransport, json_answer

ROW = {
    "id": 4, "version": "digits:3", "dataset": "digits-test:1", "metric": "accuracy", "value": 0.97, "evaluation": {"rows": 9},
    "job": "job-000007", "actor": "admin", "at": NOW,
}  # fmt: skip


def client(body: Any) -> tuple[openmaas.Client, FakeTransport]:
    def answer(request: Request) -> Response:
        return json_answer(VERSION if request.parts[-2:-1] == ("versions",) else body)

    transport = FakeTransport(answer)
    return openmaas.Client("http://server", transport=transport), transport


def test_an_alias_is_settled_before_the_job_is_submitted() -> None:
    ours, transport = client({**JOB, "kind": "evaluate"})
    assert ours.evaluate("digits@champion", "digits-test", rows=50, engine="openvino:bf16", seed=3).kind == "evaluate"
    asked, submitted = transport.seen
    assert asked.parts[-1] == "digits@champion"
    assert json.loads(submitted.body) == {
        "kind": "evaluate",
        "arguments": {
            "version": "digits:3", "data": "digits-test", "rows": 50, "engine": "openvino:bf16", "seconds": 8.0, "seed": 3
        },
    }  # fmt: skip


def test_the_evaluations_of_a_version_are_listed() -> None:
    ours, transport = client(page([ROW]))
    (found,) = ours.evaluations("digits:3", data="digits-test")
    assert (found.value, found.evaluation) == (0.97, {"rows": 9})
    (request,) = transport.seen
    assert request.parts[-3:] == ("versions", "digits:3", "evaluations")
    assert "dataset=digits-test" in request.target

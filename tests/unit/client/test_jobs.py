from __future__ import annotations

from typing import Any

import msgspec
import pytest

import openmaas
from openmaas.client import JobFailed
from openmaas.client import jobs as module
from openmaas.client.steps import Request, Response
from openmaas.core.errors import Cancelled, DeadlineExceeded, NotFound, Unavailable
from openmaas.core.resources import JobReport
from tests.unit.client.transport import FakeAsyncTransport, FakeTransport, error_answer, json_answer

JOB = {
    "id": "job-000007", "project": "default", "kind": "convert", "subject": "digits:1", "arguments": {}, "state": "running",
    "attempt": 1, "stage": "", "done": 0.0, "total": 0.0, "result": None, "cause": None, "measures": False, "actor": "admin",
    "pid": 7, "created_at": 1.0, "started_at": 1.0, "ended_at": None,
}  # fmt: skip
CAUSE = {"code": "parity_failed", "message": "It differs.", "stderr": ["last words"], "next_step": "Give a sample."}
AWAY = Unavailable("No answer.", code="unreachable")


class Control:
    """Answers one after the other, the last one again and again; an exception is raised, as when nobody listens."""

    def __init__(self, *answers: dict[str, Any] | Response | Exception) -> None:
        self._answers = list(answers)
        self.seen: list[Request] = []

    def __call__(self, request: Request) -> Response:
        self.seen.append(request)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, Response) else json_answer({**JOB, **answer})


def client(*answers: dict[str, Any] | Response | Exception) -> openmaas.Client:
    return openmaas.Client("http://server", transport=FakeTransport(Control(*answers)))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LAST_PAUSE", 0.01)
    monkeypatch.setattr(module, "_FIRST_PAUSE", 0.001)


def test_waiting_tells_each_look_and_returns_the_result() -> None:
    seen: list[tuple[str, float]] = []
    done = client({"state": "queued"}, {"done": 1.0}, {"state": "succeeded", "result": {"version": "digits:2"}}).wait_job(
        "job-000007", progress=lambda job: seen.append((job.state, job.done))
    )
    assert done.result == {"version": "digits:2"}
    assert seen == [("queued", 0.0), ("running", 1.0), ("succeeded", 0.0)]


async def test_both_clients_wait_alike() -> None:
    control = Control({}, {"state": "succeeded", "result": {}})
    async with openmaas.AsyncClient("http://server", transport=FakeAsyncTransport(control)) as waiting:
        assert (await waiting.wait_job("job-000007")).state == "succeeded"


def test_a_failure_is_raised_with_its_cause() -> None:
    with pytest.raises(JobFailed, match="convert job job-000007 has failed: It differs") as failed:
        client({}, {"state": "failed", "cause": CAUSE}).wait_job("job-000007")
    assert (failed.value.code, failed.value.next_step) == ("parity_failed", "Give a sample.")
    assert failed.value.cause.stderr == ["last words"] and failed.value.job.state == "failed"
    with pytest.raises(JobFailed) as failed:
        client({"state": "failed"}).wait_job("job-000007")
    assert failed.value.next_step == "openmaas jobs logs job-000007"


def test_a_cancelled_job_is_no_result() -> None:
    with pytest.raises(Cancelled):
        client({"state": "cancelling"}, {"state": "cancelled"}).wait_job("job-000007")


def test_waiting_has_an_end_and_the_job_goes_on() -> None:
    with pytest.raises(DeadlineExceeded, match="still running") as late:
        client({}).wait_job("job-000007", timeout=0.02)
    assert "openmaas jobs show job-000007" in (late.value.next_step or "")


def test_a_server_that_restarts_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = error_answer(503, "database_busy")
    assert client({}, AWAY, busy, AWAY, {"state": "succeeded", "result": {}}).wait_job("job-000007").state == "succeeded"
    monkeypatch.setattr(module, "_AWAY", 0.02)
    with pytest.raises(Unavailable):
        client({}, AWAY).wait_job("job-000007")
    with pytest.raises(NotFound):
        client({}, error_answer(404, "job_not_found")).wait_job("job-000007")


def test_a_server_that_stays_away_is_not_waited_for_longer_than_was_said() -> None:
    with pytest.raises(Unavailable):
        client(AWAY).wait_job("job-000007", timeout=0.02)


def test_what_is_sent() -> None:
    control = Control({})
    speaking = openmaas.Client("http://server", transport=FakeTransport(control))
    speaking.submit_job("convert", {"version": "digits", "to": "onnx"})
    speaking.cancel_job("job-000007")
    speaking.retry_job("job-000007")
    speaking.report_job("job-000007", JobReport(stage="on", done=1, total=2))
    assert [f"{request.method} {request.target}" for request in control.seen] == [
        "POST /api/v1/jobs", "POST /api/v1/jobs/job-000007/cancel", "POST /api/v1/jobs/job-000007/retry",
        "POST /api/v1/jobs/job-000007/report",
    ]  # fmt: skip
    assert msgspec.json.decode(control.seen[0].body) == {"kind": "convert", "arguments": {"version": "digits", "to": "onnx"}}


def test_a_listing_asks_for_what_is_wanted() -> None:
    control = Control(json_answer({"items": [JOB], "total": 1, "next": None}))
    speaking = openmaas.Client("http://server", transport=FakeTransport(control))
    assert [job.id for job in speaking.jobs(state="running", kind="convert")] == ["job-000007"]
    assert dict(control.seen[0].query) == {"state": "running", "kind": "convert", "limit": None, "after": None}

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

import openmaas
from openmaas.client.steps import Request, Response
from openmaas.core.contracts import JobSpec
from openmaas.core.errors import Cancelled, Conflict, OpenMaaSError, Unavailable
from openmaas.core.resources import CauseInfo, JobReport
from openmaas.core.settings import Settings
from openmaas.tasks import reporting
from openmaas.tasks.reporting import Connection, PatientTransport, Reporter
from tests.unit.client.transport import FakeTransport, error_answer, json_answer

INFO = {
    "id": "job-000001", "project": "default", "kind": "dummy", "subject": "", "arguments": {}, "state": "running",
    "attempt": 1, "stage": "", "done": 0.0, "total": 0.0, "result": None, "cause": None, "measures": False, "actor": "admin",
    "pid": None, "created_at": 1.0, "started_at": 1.0, "ended_at": None,
}  # fmt: skip


class Control:
    """Answers one after the other, the last one again and again; an exception is raised, as when nobody listens."""

    def __init__(self, *answers: Response | Exception) -> None:
        self.answers = list(answers) or [json_answer(INFO)]
        self.told: list[tuple[float, JobReport]] = []

    def __call__(self, request: Request) -> Response:
        self.told.append((time.monotonic(), msgspec.json.decode(request.body, type=JobReport)))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    @property
    def stages(self) -> list[str]:
        return [report.stage for _, report in self.told]

    def reporter(self) -> Reporter:
        client = openmaas.Client("http://control", api_key="omk_x", transport=FakeTransport(self))
        connection: Any = SimpleNamespace(job="job-000001", prompt=client)
        return Reporter(connection)


AWAY = Unavailable("No answer.", code="unreachable")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "_PAUSE", 0.01)


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_progress_costs_nothing_and_is_told_now_and_then() -> None:
    control = Control()
    with control.reporter() as reporter:
        began = time.monotonic()
        for number in range(20_000):
            reporter.tell("working", number, 20_000)
        assert time.monotonic() - began < 30
        until(lambda: control.told and control.told[-1][1].done == 19_999)
    times = [at for at, _ in control.told]
    assert len(times) <= 2 + (time.monotonic() - began) / reporting.EVERY
    assert all(later - earlier >= reporting.EVERY * 0.5 for earlier, later in itertools.pairwise(times))


def test_while_control_is_away_the_task_goes_on_and_the_newest_is_told_later() -> None:
    control = Control(AWAY, AWAY, json_answer(INFO))
    with control.reporter() as reporter:
        reporter.tell("first", 0, 0)
        until(lambda: control.told)
        reporter.tell("second", 0, 0)
        until(lambda: len(control.told) == 3)
        assert control.stages == ["first", "second", "second"], "what nobody heard is told again, unless there is newer"
        time.sleep(2 * reporting.EVERY)
        assert len(control.told) == 3 and not reporter.cancelled


@pytest.mark.parametrize(
    "answer",
    [
        error_answer(499, "job_cancelled"),
        error_answer(401, "unauthenticated"),
        error_answer(409, "job_ended"),
    ],
)
def test_a_job_that_is_not_wanted_any_more_ends_at_its_next_progress(answer: Response) -> None:
    with Control(answer).reporter() as reporter:
        reporter.tell("working", 0, 0)
        until(lambda: reporter.cancelled)
        with pytest.raises(Cancelled):
            reporter.tell("working", 1, 0)


def test_other_answers_end_nothing() -> None:
    control = Control(error_answer(503, "database_busy"), error_answer(500, "internal"), error_answer(409, "other"))
    with control.reporter() as reporter:
        for number in range(3):
            reporter.tell(str(number), 0, 0)
            until(lambda wanted=number: len(control.told) > wanted)  # type: ignore[misc]
        assert not reporter.cancelled


def test_the_end_is_told_until_it_is_heard() -> None:
    control = Control(AWAY, error_answer(503, "database_busy"), error_answer(507, "storage_full"), json_answer(INFO))
    control.reporter().tell_end(JobReport(result={"answer": 42}))
    assert [report.result for _, report in control.told] == [{"answer": 42}] * 4


@pytest.mark.parametrize("status_and_code", [(401, "unauthenticated"), (409, "job_ended"), (499, "job_cancelled")])
def test_an_end_that_was_heard_before_is_an_end(status_and_code: tuple[int, str]) -> None:
    """The answer to the first report was lost with control."""
    control = Control(AWAY, error_answer(*status_and_code))
    control.reporter().tell_end(JobReport(result={}))
    assert len(control.told) == 2


def test_a_result_that_control_refuses_becomes_the_cause_of_a_failure() -> None:
    control = Control(error_answer(413, "body_too_large", "The body has more than 1048576 bytes."), json_answer(INFO))
    control.reporter().tell_end(JobReport(result={}))
    last = control.told[-1][1]
    assert last.result is None and last.cause is not None
    assert (last.cause.code, "1048576" in last.cause.message) == ("body_too_large", True)


def test_a_cause_that_control_refuses_too_is_raised() -> None:
    control = Control(AWAY, error_answer(409, "other"))
    with pytest.raises(Conflict):
        control.reporter().tell_end(JobReport(cause=CauseInfo(code="x", message="y", stderr=[], next_step="")))
    with pytest.raises(OpenMaaSError):
        Control(error_answer(500, "internal")).reporter().tell_end(JobReport(result={}))


def test_patience_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "PATIENCE", 0.05)
    with pytest.raises(Unavailable):
        Control(AWAY).reporter().tell_end(JobReport(result={}))


# ── the patient client ───────────────────────────────────────────────────────────────────────────────────────────────


def answers(*given: Response | Exception) -> tuple[FakeTransport, PatientTransport]:
    pending: Iterator[Response | Exception] = iter(given)

    def answer(_: Request) -> Response:
        one = next(pending)
        if isinstance(one, Exception):
            raise one
        return one

    transport = FakeTransport(answer)
    return transport, PatientTransport(transport, patience=0.2)


def test_the_patient_client_asks_again_while_nobody_answers() -> None:
    transport, patient = answers(AWAY, AWAY, json_answer({}))
    assert patient.send(Request("GET", ("x",))).status == 200
    assert len(transport.seen) == 3


def test_it_passes_on_what_is_an_answer_and_what_cannot_be_begun_again() -> None:
    _, patient = answers(error_answer(503, "database_busy"))
    assert patient.send(Request("GET", ("x",))).status == 503
    for request, failure in (
        (Request("GET", ("x",), sink=lambda piece: None), AWAY),
        (Request("GET", ("x",)), Unavailable("not trusted", code="untrusted_certificate")),
    ):
        transport, patient = answers(failure)
        with pytest.raises(Unavailable):
            patient.send(request)
        assert len(transport.seen) == 1


def test_its_patience_has_an_end() -> None:
    _, patient = answers(*[AWAY] * 1000)
    with pytest.raises(Unavailable):
        patient.send(Request("GET", ("x",)))


def test_a_jobs_clients_speak_to_its_own_server_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENMAAS_URL", "http://elsewhere:1")
    monkeypatch.setenv("OPENMAAS_API_KEY", "omk_other")
    spec = JobSpec(id="job-000001", attempt=1, kind="dummy", project="default", key="omk_own")
    connection = Connection(spec, Settings(control_port=9, http_port=10))
    for client in (connection.prompt, connection.patient):
        assert (client.server.control_url, client.server.gateway_url) == ("http://127.0.0.1:9", "http://127.0.0.1:10")
        assert client.server.api_key == "omk_own"

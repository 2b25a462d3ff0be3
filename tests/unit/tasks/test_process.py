"""A job's process, in this one, with control in memory."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from openmaas.core.contracts import JobSpec
from openmaas.core.errors import Cancelled, NotFound, Refused
from openmaas.core.jobs import KINDS
from openmaas.core.settings import Settings
from openmaas.tasks import process
from openmaas.tasks.base import Job
from openmaas.tasks.process import find_task
from tests.unit.client.transport import FakeTransport, error_answer
from tests.unit.tasks.test_reporting import Control

Do = Callable[[Job], Any]


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


class Scene:
    """Runs a function as the task of a job; `control` is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        self.control = Control()
        self.settings = Settings(home=str(tmp_path))
        self._monkeypatch = monkeypatch

    def run(self, task: Do, **arguments: Any) -> None:
        import openmaas

        client = openmaas.Client("http://control", api_key="omk_x", transport=FakeTransport(self.control))
        connection = SimpleNamespace(job="job-000001", prompt=client, patient=client)
        self._monkeypatch.setattr(process, "Connection", lambda spec, settings: connection)
        self._monkeypatch.setattr(process, "find_task", lambda kind: task)
        spec = JobSpec(id="job-000001", attempt=3, kind="dummy", project="default", arguments=arguments)
        process.run(spec, self.settings)

    @property
    def cause(self) -> tuple[str, str]:
        last = self.control.told[-1][1]
        assert last.result is None and last.cause is not None
        return last.cause.code, last.cause.message


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Scene:
    return Scene(monkeypatch, tmp_path)


def test_a_task_is_given_what_it_needs_and_its_result_is_told(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    def task(job: Job) -> dict[str, Any]:
        assert (job.id, job.kind, job.arguments) == ("job-000001", "dummy", {"a": 1})
        assert list(job.scratch.iterdir()) == [] and job.scratch.stat().st_mode & 0o077 == 0
        assert job.scratch.name == "job-000001.3" and job.settings is scene.settings
        job.progress("counting", 1, 2)
        job.progress("counting", 2, 2)
        job.log("a line")
        return {"sum": (1, 2), "at": float("inf")}

    scene.run(task, a=1)
    assert scene.control.told[-1][1].result == {"sum": [1, 2], "at": None}
    lines = [line.split("  ", 1)[1] for line in capsys.readouterr().out.splitlines()]
    assert lines == ["counting", "a line"]


@pytest.mark.parametrize(
    ("task", "code", "words"),
    [
        (lambda job: _raise(Refused("No.", code="own_code", next_step="Try less.")), "own_code", "No."),
        (lambda job: _raise(ValueError("bad /home/ada/secret/file.bin")), "task_failed", "ValueError: bad file.bin"),
        (lambda job: _raise(MemoryError()), "memory_limit", "what this machine has"),
        (lambda job: {"x": object()}, "invalid_result", "not a JSON object"),
        (lambda job: [1, 2], "invalid_result", "not a JSON object"),
        (lambda job: None, "invalid_result", "not a JSON object"),
    ],
)
def test_what_goes_wrong_is_told_as_a_cause(scene: Scene, task: Do, code: str, words: str) -> None:
    scene.run(task)
    assert scene.cause[0] == code
    assert words in scene.cause[1] and "ada" not in scene.cause[1]


def _raise(error: Exception) -> dict[str, Any]:
    raise error


def test_the_traceback_of_a_mistake_is_in_the_log(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    scene.run(lambda job: _raise(ValueError("odd")))
    told = capsys.readouterr()
    assert "Traceback" in told.err and "failed: The task failed unexpectedly: ValueError: odd" in told.out


def ask_to_end() -> None:
    """What SIGTERM does, without the signal: in this process, after the tests of many native libraries, a real one ended it
    with a segmentation fault. Real signals are sent to real jobs in tests/acceptance."""
    handler = signal.getsignal(signal.SIGTERM)
    assert callable(handler)
    handler(signal.SIGTERM, None)


def test_one_that_is_asked_to_end_tells_nothing(scene: Scene) -> None:
    def task(job: Job) -> dict[str, Any]:
        ask_to_end()
        time.sleep(5)
        raise AssertionError("it went on")

    with pytest.raises(Cancelled, match="asked to end before"):
        scene.run(task)
    assert scene.control.told == []


def test_a_task_that_swallows_the_request_ends_at_its_next_progress(scene: Scene) -> None:
    reached: list[str] = []

    def task(job: Job) -> dict[str, Any]:
        try:
            ask_to_end()
            time.sleep(5)
        except Exception:
            reached.append("swallowed")
        job.progress("on")
        raise AssertionError("it went on")

    with pytest.raises(Cancelled, match="asked to end before"):
        scene.run(task)
    assert reached == ["swallowed"] and scene.control.told == []


def test_one_that_control_has_cancelled_ends(scene: Scene) -> None:
    scene.control.answers = [error_answer(499, "job_cancelled")]

    def task(job: Job) -> dict[str, Any]:
        for number in range(1000):
            job.progress("working", number, 1000)
            time.sleep(0.01)
        raise AssertionError("it went on")

    with pytest.raises(Cancelled, match="asked to end before"):
        scene.run(task)
    assert {report.stage for _, report in scene.control.told} == {"working"}


def test_holding_the_measuring_lock_twice_is_holding_it_once(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def task(job: Job) -> dict[str, Any]:
        with job.alone(), job.alone():
            held = True
        with job.alone():
            return {"held": held}

    scene.run(task)
    assert scene.control.told[-1][1].result == {"held": True}


def test_temporary_files_of_a_task_lie_in_its_own_folder(scene: Scene) -> None:
    outside = tempfile.gettempdir()

    def task(job: Job) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            child = subprocess.run(
                [sys.executable, "-c", "import tempfile; print(tempfile.gettempdir())"],
                capture_output=True,
                text=True,
                check=True,
            )
            return {"own": folder.startswith(str(job.scratch)), "child": child.stdout.strip() == str(job.scratch)}

    scene.run(task)
    assert scene.control.told[-1][1].result == {"own": True, "child": True}
    assert tempfile.gettempdir() == outside


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_task_that_is_installed(kind: str) -> None:
    assert callable(find_task(kind))


def test_a_task_that_nobody_brings_is_named() -> None:
    with pytest.raises(NotFound, match="'nothing'"):
        find_task("nothing")


def test_the_name_of_an_attempt_is_what_its_files_are_called() -> None:
    spec = JobSpec(id="job-000042", attempt=2, kind="dummy", project="default")
    assert spec.name == "job-000042.2"
    assert msgspec.json.decode(msgspec.json.encode(spec), type=JobSpec) == spec

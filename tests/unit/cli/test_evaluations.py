"""What `openmaas evaluate` shows."""

from __future__ import annotations

import json
from typing import Any

import pytest

from openmaas.cli.evaluations import confusion_lines, figure
from openmaas.client.steps import Request, Response
from tests.unit.cli.conftest import NOW, VERSION, Terminal
from tests.unit.client.transport import json_answer

FIGURES = {
    "choice": {"engine": "onnxruntime", "artifact": {"kind": "onnx", "entry": "model.onnx"}, "threads": 2},
    "size": 48_211, "memory": 83_000_000, "load": 0.2, "cost": 0.00125,
    "speeds": [{"batch": 1, "p50": 4.8e-6, "p99": 0.0021, "rate": 208_333.0, "calls": 900},
               {"batch": 64, "p50": 9e-5, "p99": 0.001, "rate": 711_111.0, "calls": 90}],
}  # fmt: skip
EVALUATION = {
    "version": "digits:3", "digest": "9f" * 32, "dataset": "digits-test:1", "dataset_digest": "ab" * 32,
    "task": "classification", "metric": "accuracy", "rows": 1200,
    "metrics": {"accuracy": {"value": 0.97, "low": 0.96, "high": 0.98}, "f1": {"value": 0.9612}},
    "classes": [{"name": "cat", "rows": 600, "precision": 0.98, "recall": 0.95, "f1": 0.965},
                {"name": "dog", "rows": 600, "precision": 0.95, "recall": 0.98, "f1": 0.965}],
    "confusion": [[570, 30], [12, 588]], "figures": FIGURES, "processor": {"model": "EPYC", "cores": 2},
    "notes": ["1 of 1200 texts were cut to 64 tokens."],
}  # fmt: skip
JOB = {
    "id": "job-000007", "project": "default", "kind": "evaluate", "subject": "digits:3", "arguments": {}, "state": "succeeded",
    "attempt": 1, "stage": "", "done": 0.0, "total": 0.0, "result": {"evaluation": EVALUATION}, "cause": None,
    "measures": True, "actor": "admin", "pid": None, "created_at": NOW, "started_at": NOW, "ended_at": NOW,
}  # fmt: skip


@pytest.fixture
def asked(serve: Any, capsys: pytest.CaptureFixture[str]) -> Any:
    """`asked(*command)` → what was written, and the job's arguments that were sent."""

    def run(*command: str) -> tuple[str, dict[str, Any]]:
        sent: dict[str, Any] = {}

        def answer(request: Request) -> Response:
            if request.parts[-2:-1] == ("versions",):
                return json_answer(VERSION)
            if request.method == "POST":
                sent.update(json.loads(request.body))
            return json_answer(JOB)

        code, out, err = Terminal(serve(answer), capsys)(*command)
        assert code == 0, err
        return str(out), sent

    return run


def test_all_of_it_is_shown(asked: Any) -> None:
    out, sent = asked("evaluate", "digits", "--data", "digits-test", "--rows", "1200", "--engine", "onnxruntime")
    assert sent["kind"] == "evaluate"
    assert sent["arguments"] == {
        "version": "digits:3", "data": "digits-test", "rows": 1200, "engine": "onnxruntime", "seconds": 8.0, "seed": 0
    }  # fmt: skip
    assert "digits:3 on digits-test:1, 1,200 rows, by onnxruntime with 2 threads" in out
    lines = [line.split() for line in out.splitlines()]
    assert ["accuracy", "0.9700", "0.9600", "–", "0.9800"] in lines
    assert ["f1", "0.9612", "–"] in lines
    assert ["cat", "570", "30"] in lines
    assert ["dog", "600", "0.950", "0.980", "0.965"] in lines
    assert "p50 4.8 µs, p99 2.10 ms at batch 1 · 711,111 rows/s at batch 64 · 48.2 kB of files" in out
    assert "1 of 1200 texts were cut" in out
    assert "next  openmaas gate set digits champion --data digits-test:1 --metric accuracy" in out


def test_json_is_the_evaluation_itself(asked: Any) -> None:
    out, _ = asked("evaluate", "digits", "--data", "digits-test", "--json")
    assert json.loads(out) == EVALUATION


def test_its_job_is_shown_the_same_way(serve: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """And not as half a mebibyte of JSON."""
    out = Terminal(serve(lambda _: json_answer(JOB)), capsys)("jobs", "show", "job-000007")[1]
    assert "accuracy" in out
    assert '"outcomes"' not in out
    broken = {**JOB, "result": {"evaluation": {"metric": "accuracy"}}}
    assert '"metric"' in Terminal(serve(lambda _: json_answer(broken)), capsys)("jobs", "show", "job-000007")[1]


def test_nobody_needs_to_wait(asked: Any) -> None:
    out, _ = asked("evaluate", "digits", "--data", "digits-test", "--no-wait")
    assert "job-000007 is submitted" in out
    assert "accuracy" not in out


def test_a_confusion_is_marked_where_it_is_frequent() -> None:
    head, cat, dog = confusion_lines(["cat", "dog"], ((90, 10), (1, 99)))
    assert head.plain.split() == ["cat", "dog"]
    assert [style for _, style in cat.pieces if style][-2:] == ["good", "bad"]
    assert [style for _, style in dog.pieces if style][-2:] == ["busy", "good"]
    assert len({len(line.plain) for line in (head, cat, dog)}) == 1


def test_long_names_are_numbered() -> None:
    names = ["a very long name of a class that goes on", "short"]
    head, first, _ = confusion_lines(names, ((1, 0), (0, 2)))
    assert head.plain.split() == ["0", "1"]
    assert first.plain.startswith("0 a very long name of")
    assert first.plain.endswith("1  ·")


def test_figures_keep_the_digits_that_count() -> None:
    assert [figure(value) for value in (0.97, 55.23, 1234.5, 123456.7)] == ["0.9700", "55.2", "1,234.5", "1.235e+05"]

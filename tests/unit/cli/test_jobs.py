from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from openmaas.cli import jobs as module
from openmaas.client import Client
from openmaas.client.steps import Request, Response
from openmaas.core.resources import JobInfo, Page
from tests.unit.cli.conftest import CAUSE, JOBS, NOW, Terminal, page
from tests.unit.client.transport import json_answer


def cells(line: str) -> list[str]:
    return re.split(r"\s{2,}", line.strip())


@pytest.fixture(autouse=True)
def now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openmaas.cli.jobs.time.time", lambda: NOW)
    monkeypatch.setattr("openmaas.client.jobs._FIRST_PAUSE", 0.001)


def test_ls_shows_a_row_for_each_job(terminal: Terminal) -> None:
    code, out, err = terminal("jobs", "ls")
    assert (code, err) == (0, "")
    head, *rows = out.splitlines()
    assert head.split() == ["JOB", "KIND", "ABOUT", "STATE", "STAGE", "TIME", "SUBMITTED"]
    assert cells(rows[0]) == ["job-000009", "convert", "digits:3", "◐ running", "comparing 25%", "50 s", "60 s ago"]
    assert cells(rows[1]) == ["job-000008", "convert", "digits:3", "● succeeded", "30 s", "60 s ago"]


def test_ls_of_one_state_and_of_none(serve: Any, capsys: pytest.CaptureFixture[str]) -> None:
    transport = serve(lambda _: json_answer(page([])))
    code, out, err = Terminal(transport, capsys)("jobs", "ls", "--state", "running")
    assert (code, out) == (0, "") and "no jobs" in err
    assert transport.seen[0].query["state"] == "running"


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("jobs ls --json", Page[JobInfo]),
        ("jobs show job-000009 --json", JobInfo),
        ("jobs show job-000008 --wait --json", JobInfo),
        ("jobs logs job-000009 --json", dict[str, Any]),
        ("jobs cancel job-000009 --json", JobInfo),
        ("jobs retry job-000009 --json", JobInfo),
    ],
)
def test_json_is_the_resource(terminal: Terminal, words: str, kind: Any) -> None:
    code, out, err = terminal(*words.split())
    assert (code, err) == (0, "")
    msgspec.json.decode(out, type=kind)


def test_show_tells_a_result_and_a_cause(terminal: Terminal) -> None:
    _, out, _ = terminal("jobs", "show", "job-000008")
    assert '"version": "digits:4"' in out
    _, out, _ = terminal("jobs", "show", "job-000007")
    assert str(CAUSE["message"]) in out and "│ Killed" in out and str(CAUSE["next_step"]) in out


def test_logs_cancel_and_retry(terminal: Terminal) -> None:
    assert terminal("jobs", "logs", "job-000009")[1] == "line 1\nline 2\n"
    assert "job-000009 is being cancelled" in terminal("jobs", "cancel", "job-000009")[1]
    assert "job-000009 runs again, attempt 1" in terminal("jobs", "retry", "job-000009")[1]


def test_logs_follow_a_job_to_its_end(serve: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAUSE", 0.001)
    looks = iter(["running", "running", "succeeded"])
    logs = iter([(["a"], 2), (["b"], 4), ([], 4), (["c"], 6)])
    offsets: list[Any] = []

    def control(request: Request) -> Response:
        if request.parts[-1] == "logs":
            offsets.append(request.query["offset"])
            lines, offset = next(logs)
            return json_answer({"lines": lines, "offset": offset})
        return json_answer({**JOBS[0], "state": next(looks)})

    code, out, _ = Terminal(serve(control), capsys)("jobs", "logs", "job-000009", "--follow")
    assert (code, out) == (0, "a\nb\nc\n")
    assert offsets == [None, 2, 4, 4]


def test_following_writes_a_line_for_each_stage(serve: Any, capsys: pytest.CaptureFixture[str]) -> None:
    looks = [
        {"state": "queued", "stage": ""},
        {},
        {"done": 2.0},
        {"stage": "registering"},
        {"state": "succeeded", "result": {}},
    ]
    pending = iter([{}, *looks])
    terminal = Terminal(serve(lambda _: json_answer({**JOBS[0], **next(pending)})), capsys)
    code, _, err = terminal("jobs", "show", "job-000009", "--wait")
    assert code == 0
    assert [cells(line)[1:] for line in err.splitlines()] == [
        ["queued"], ["running", "comparing"], ["running", "registering"], ["succeeded"],
    ]  # fmt: skip


def test_a_failure_that_was_waited_for_is_exit_code_1_with_its_last_words(
    serve: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    pending = iter([JOBS[0], JOBS[0], JOBS[2]])
    code, _, err = Terminal(serve(lambda _: json_answer(next(pending))), capsys)("jobs", "show", "job-000009", "--wait")
    assert code == 1
    assert "has failed" in err and "│ Killed" in err and str(CAUSE["next_step"]) in err


def test_ctrl_c_leaves_it_running_and_says_how_to_come_back(serve: Any, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[Request] = []

    def control(request: Request) -> Response:
        asked.append(request)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return json_answer(JOBS[0])

    code, _, err = Terminal(serve(control), capsys)("jobs", "show", "job-000009", "--wait")
    assert code == 130
    assert "goes on without you" in err and "openmaas jobs show job-000009 --wait" in err
    assert all(request.method == "GET" for request in asked), "it is not cancelled"


def test_at_a_terminal_a_bar_moves(serve: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    from rich.console import Console

    screen = io.StringIO()
    monkeypatch.setattr(
        "openmaas.cli.console.live_console", lambda: Console(file=screen, force_terminal=True, width=100, legacy_windows=False)
    )
    pending = iter([{}, {"state": "queued"}, {"done": 2.0}, {"state": "succeeded", "done": 4.0, "result": {}}])
    serve(lambda _: json_answer({**JOBS[0], **next(pending)}))
    done = module.follow_job(Client(), "job-000009")
    assert done.state == "succeeded"
    drawn = screen.getvalue()
    assert "job-000009  convert  digits:3" in drawn and "100%" in drawn
    assert capsys.readouterr().err == ""


def test_the_group_describes_each_of_its_commands(terminal: Terminal) -> None:
    code, out, _ = terminal("jobs", "--help")
    assert code == 0
    for command in ("ls", "show", "logs", "cancel", "retry"):
        assert re.search(rf"│ {command} +\w", out), command
        assert f"Usage: openmaas jobs {command}" in terminal("jobs", command, "--help")[1]


def test_status_counts_jobs_that_have_not_ended(terminal: Terminal) -> None:
    assert re.search(r"^jobs +2 running$", terminal("status")[1], re.MULTILINE)

"""What `openmaas compare` asks for, shows and writes, and what `openmaas show` says of a variant."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from openmaas.cli import console
from openmaas.cli.comparisons import check_report, print_comparison, write_report
from openmaas.client.steps import Request, Response
from openmaas.core.errors import InvalidInput
from tests.unit.cli.conftest import NOW, VERSION, Terminal
from tests.unit.client.transport import json_answer
from tests.unit.reports.made_up import comparison

JOB = {
    "id": "job-000007", "project": "default", "kind": "compare", "subject": "digits:1", "arguments": {}, "state": "succeeded",
    "attempt": 1, "stage": "", "done": 0.0, "total": 0.0, "cause": None, "measures": True, "actor": "admin", "pid": None,
    "result": {"comparison": msgspec.to_builtins(comparison(), str_keys=True), "evaluations": []}, "created_at": NOW,
    "started_at": NOW, "ended_at": NOW,
}  # fmt: skip


@pytest.fixture
def asked(serve: Any, capsys: pytest.CaptureFixture[str]) -> Any:
    """`asked(*command)` → exit code, what was written to both streams, and the job's arguments that were sent."""

    def run(*command: str) -> tuple[int, str, str, dict[str, Any]]:
        sent: dict[str, Any] = {}

        def answer(request: Request) -> Response:
            if request.parts[-2:-1] == ("versions",):
                model, _, number = request.parts[-1].partition(":")
                return json_answer({**VERSION, "model": model, "number": int(number or 3)})
            if request.method == "POST":
                sent.update(json.loads(request.body)["arguments"])
            return json_answer(JOB)

        code, out, err = Terminal(serve(answer), capsys)(*command)
        return code, str(out), str(err), sent

    return run


def test_what_is_asked_for_and_shown(asked: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    code, out, err, sent = asked("compare", "digits:1", "digits:2", "digits", "--data", "digits-test", "--max-loss", "2%")
    assert code == 0, err
    assert sent == {
        "version": "digits:1", "others": ["digits:2", "digits:3"], "data": "digits-test", "rows": 0, "metric": "",
        "max_loss": 0.02, "target": "latency", "engines": [], "seconds": 60.0, "seed": 0,
    }  # fmt: skip
    assert "Recommended: digits:3" in out
    assert "0.40 points, at most 0.80" in out
    assert "openmaas alias digits champion 3" in out
    assert "report.html" in out
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_one_version_is_not_enough(asked: Any) -> None:
    code, _, err, sent = asked("compare", "digits:1")
    assert (code, sent) == (2, {})
    assert "at least one version" in err


def test_without_waiting(asked: Any) -> None:
    code, out, _, sent = asked("compare", "digits:1", "digits:2", "--no-wait", "--json", "--engines", "onnxruntime,")
    assert (code, sent["engines"]) == (0, ["onnxruntime", ""])
    assert json.loads(out)["id"] == "job-000007"


def test_80_columns_hold_it_without_cutting_a_figure(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "terminal_width", lambda _: 80)
    print_comparison(comparison())
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "…" not in out
    assert "prune → quantize" in out


def test_without_what_plots_there_is_a_table_and_a_hint(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    print_comparison(comparison())
    out = capsys.readouterr().out
    assert "98.00%" in out
    assert "pip install 'openmaas[report]'" in out
    with pytest.raises(InvalidInput, match="matplotlib and jinja2"):
        write_report(comparison(), tmp_path / "report.html")


@pytest.mark.parametrize(("name", "told"), [("nowhere/report.html", "is no folder"), (".", "it is a folder")])
def test_where_no_report_can_be_written_is_told_before_the_work(tmp_path: Path, name: str, told: str) -> None:
    with pytest.raises(InvalidInput, match=told) as refused:
        check_report(tmp_path / name)
    assert refused.value.code == "not_written"


def test_a_report_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openmaas.reports.render_html", lambda *_, **__: "page")
    with pytest.raises(InvalidInput, match="cannot be written"):
        write_report(comparison(), tmp_path / "nowhere" / "report.html")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InvalidInput, match="cannot be written"):
        write_report(comparison(), tmp_path / "folder")
    assert [file.name for file in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize(("number", "said"), [(1, "dominated by digits:1: never recommended"), (2, "beside digits:1")])
def test_show_says_how_a_variant_fared(serve: Any, capsys: pytest.CaptureFixture[str], number: int, said: str) -> None:
    told = comparison()
    variant = {
        **msgspec.to_builtins(told.entrants[number], str_keys=True), "baseline": "digits:1", "metric": "accuracy",
        "baseline_figures": msgspec.to_builtins(told.entrants[0].figures, str_keys=True), "dataset": "digits-test:1",
        "recommended": False, "job": "job-000007", "at": NOW,
    }  # fmt: skip
    code, out, err = Terminal(serve(lambda _: json_answer({**VERSION, "variant": variant})), capsys)("show", "digits:3")
    assert code == 0, err
    assert said in out
    assert "accuracy lost: " in out
    assert " on digits-test:1" in out
    assert "(job-000007)" in out

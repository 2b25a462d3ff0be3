"""`openmaas optimize`: what is sent, and what a result looks like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from openmaas.client.steps import Request, Response
from tests.unit.cli.conftest import JOBS, VERSION, Terminal
from tests.unit.client.transport import json_answer

FIGURES = {
    "choice": {"engine": "onnxruntime", "artifact": {"kind": "onnx", "entry": "model.onnx"}}, "size": 219_271,
    "memory": 77_000_000, "load": 0.1, "cost": 0.02,
    "speeds": [{"batch": 1, "p50": 4e-5, "p99": 6e-5, "rate": 25_000.0, "calls": 900},
               {"batch": 8, "p50": 8e-5, "p99": 9e-5, "rate": 100_000.0, "calls": 900}],
}  # fmt: skip
LOSS = {"value": 0.0083, "low": -0.006, "high": 0.0226}
COMPARISON = {
    "entrants": [
        {"version": "digits:3", "figures": FIGURES, "metrics": {"accuracy": {"value": 0.99}}, "on_front": True,
         "loss": {"value": 0.0, "low": 0.0, "high": 0.0}},
        {"version": "digits:4", "label": "quantize static → compress", "figures": {**FIGURES, "size": 14_660},
         "metrics": {"accuracy": {"value": 0.98}}, "loss": LOSS, "on_front": True},
    ],
    "dataset": "digits-test:1", "task": "classification", "metric": "accuracy", "target": "size", "max_loss": 0.01,
    "recommended": "digits:4", "why": "Its size is 14.96 times as good as digits:3's.", "rounds": 5,
    "processor": {"model": "a processor", "cores": 2},
}  # fmt: skip
TRIED = [
    {"label": "quantize static → compress", "version": "digits:4", "reason": "", "loss": LOSS, "size": 14_660, "seconds": 1.0},
    {"label": "cast bf16", "version": "", "reason": "The node 'conv' has no bf16.", "loss": None, "size": 0, "seconds": 0.1},
    {"label": "prune channels amount=0.9", "version": "", "reason": "It loses 12.00%, more than 1.00%.",
     "loss": {"value": 0.12, "low": 0.1, "high": 0.14}, "size": 3000, "seconds": 3.0},
]  # fmt: skip
RESULT: dict[str, Any] = {
    "version": "digits:4", "created": True, "versions": ["digits:4"], "comparison": COMPARISON,
    "evaluations": [{"version": "digits:3"}], "tried": TRIED, "notes": [],
}  # fmt: skip


@pytest.fixture
def optimizing(serve: Any, capsys: pytest.CaptureFixture[str]) -> Any:
    """`optimizing(result)` → a terminal whose server gives this result."""

    def make(result: dict[str, Any]) -> Terminal:
        job = {**JOBS[1], "kind": "optimize", "subject": "digits:3", "result": result}

        def answer(request: Request) -> Response:
            return json_answer(VERSION if "versions" in request.parts else job)

        return Terminal(serve(answer), capsys)

    return make


def test_a_search_prints_the_comparison_what_was_tried_and_what_to_do_next(optimizing: Any) -> None:
    terminal = optimizing(RESULT)
    code, out, _ = terminal("optimize", "digits", "--auto", "--max-loss", "1%", "--target", "size", "--seed", "4")
    assert code == 0
    assert "digits:4 made of digits:3" in out
    assert "quantize static → compress" in out
    assert "Its size is 14.96 times as good as digits:3's." in out
    assert "3 recipes were tried" in out
    assert "The node 'conv' has no bf16." in out
    assert "+12.00%" in out
    assert "openmaas gate set digits champion --data digits-test:1 --max-loss 1%" in out
    assert "openmaas alias digits champion 4" in out
    assert "openmaas deploy digits:4" in out
    (sent,) = [request for request in terminal.transport.seen if request.method == "POST"]
    given = msgspec.json.decode(sent.body)["arguments"]
    assert (given["auto"], given["max_loss"], given["target"], given["seed"]) == (True, 0.01, "size", 4)


def test_an_engine_of_less_precision_is_named(optimizing: Any) -> None:
    told: Any = msgspec.json.decode(msgspec.json.encode(RESULT))
    told["comparison"]["entrants"][1]["figures"]["choice"] |= {"engine": "openvino", "precision": "bf16"}
    _, out, _ = optimizing(told)("optimize", "digits", "--auto")
    assert "openmaas deploy digits:4 --engine openvino:bf16" in out


def test_a_recipe_is_read_from_its_file(optimizing: Any, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("steps: [fuse]\n")
    terminal = optimizing({**RESULT, "tried": [], "notes": ["Loss of accuracy: +0.83%."]})
    code, out, _ = terminal("optimize", "digits", "--recipe", str(path), "--data", "digits-train", "--eval", "digits-test")
    assert code == 0
    assert "Loss of accuracy: +0.83%." in out
    assert "tried" not in out
    (sent,) = [request for request in terminal.transport.seen if request.method == "POST"]
    given = msgspec.json.decode(sent.body)["arguments"]
    assert (given["data"], given["evaluation"]) == ("digits-train", "digits-test")
    assert given["recipe"] == {"seed": 0, "steps": [{"fuse": {}}]}


def test_nobody_is_told_to_serve_what_is_not_recommended(optimizing: Any, tmp_path: Path) -> None:
    told: Any = msgspec.json.decode(msgspec.json.encode({**RESULT, "tried": []}))
    told["comparison"] |= {"recommended": "digits:3", "why": "None is within the loss."}
    _, out, _ = optimizing(told)("optimize", "digits", "--auto")
    assert "openmaas show digits:4" in out
    assert "openmaas deploy" not in out
    assert "openmaas alias" not in out


def test_nothing_worth_it_is_said(optimizing: Any) -> None:
    terminal = optimizing({**RESULT, "version": "", "created": False, "versions": [], "comparison": None, "evaluations": []})
    code, out, _ = terminal("optimize", "digits", "--auto")
    assert code == 0
    assert "Nothing was registered: no variant of digits:3 is worth it." in out
    assert "deploy" not in out


def test_a_report_is_a_page(optimizing: Any, tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    path = tmp_path / "report.html"
    code, out, _ = optimizing(RESULT)("optimize", "digits", "--auto", "--report", str(path))
    assert code == 0
    assert str(path) in out
    assert "digits:4" in path.read_text()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--auto", "--recipe", "recipe.yaml"], "either --recipe FILE or --auto"),
        ([], "either --recipe FILE or --auto"),
        (["--auto", "--max-loss", "lots"], "not a share"),
        (["--auto", "--report", "page.html", "--no-wait"], "leave --no-wait out"),
        (["--recipe", "/nonexistent/recipe.yaml"], "There is no recipe"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_sent(optimizing: Any, words: list[str], told: str) -> None:
    terminal = optimizing(RESULT)
    code, _, err = terminal("optimize", "digits", *words)
    assert code != 0
    assert told in " ".join(err.replace("│", " ").split())
    assert not [request for request in terminal.transport.seen if request.method == "POST"]


def test_passes_are_listed_with_their_parameters(optimizing: Any) -> None:
    code, out, _ = optimizing(RESULT)("optimize", "--passes")
    assert code == 0
    assert "prune  Take away weights." in out
    assert "    method: global  (channels | global | l1 | layer | n:m | trees)" in out
    assert "    to: fp16  (bf16 | fp16)" in out

"""Gates and lineage at a terminal."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from openmaas.client.steps import Request, Response
from openmaas.core.resources import GateInfo
from tests.unit.cli.conftest import MOVE, NOW, VERSION, Terminal, page
from tests.unit.client.transport import error_answer, json_answer

RULES = {
    "dataset": "digits-test:1", "baseline": "digits:1", "metric": "accuracy", "max_loss": 0.005, "minimum": None,
    "max_p99": 0.02, "max_size": None, "max_cost": None,
}  # fmt: skip
GATE = {
    "model": "digits", "target": "alias", "name": "champion", "rules": RULES, "actor": "ada", "at": NOW - 60,
    "notes": ["baseline digits:1, where digits@champion stands"],
}  # fmt: skip
CHECKS = [
    {"rule": "max_loss", "limit": 0.005, "value": 0.013, "passed": False, "evidence": "accuracy lost 0.60%",
     "job": "job-000004", "estimate": {"value": 0.006, "low": -0.001, "high": 0.013}, "at": NOW - 60, "next_step": ""},
    {"rule": "max_p99", "limit": 0.02, "value": None, "passed": False, "evidence": "not measured: elsewhere",
     "job": "job-000004", "estimate": None, "at": NOW - 60, "next_step": "openmaas evaluate digits:3 --data digits-test:1"},
]  # fmt: skip
VERDICT = {"gate": GATE, "version": "digits:3", "passed": False, "checks": CHECKS}
DECISION = {
    "id": 4, "model": "digits", "target": "deployment", "name": "shop", "number": 3, "previous": None, "outcome": "forced",
    "rules": RULES, "checks": CHECKS, "reason": "A demonstration", "actor": "ada", "at": NOW - 60,
}  # fmt: skip


def node(number: int, **more: Any) -> dict[str, Any]:
    return {
        "version": f"digits:{number}", "number": number, "digest": "ab" * 32, "format": "onnx", "size": 100_000 // number,
        "deleted": False, "aliases": [], "created_at": NOW - 60, "created_by": "ada", **more,
    }  # fmt: skip


LINEAGE = {
    "version": "digits:2", "complete": True,
    "nodes": [
        node(1, deleted=True),
        node(2, parent="digits:1", recipe="prune channels → quantize static", aliases=["champion"],
             details={"optimize": {}, "data": "digits-train:1", "seed": 7},
             quality={"metric": "accuracy", "value": 0.97, "low": 0.96, "high": 0.98, "dataset": "digits-test:1", "job": "",
                      "at": NOW}),
        node(4, parent="digits:2", recipe="distil", dominated=True, baseline="digits:2",
             loss={"value": 0.05, "low": 0.03, "high": 0.07},
             links=[{"role": "teacher", "version": "digits:1", "deleted": True},
                    {"role": "data", "version": "digits-train:1", "deleted": True, "note": "by ada: the law"}]),
    ],
}  # fmt: skip


def answers(request: Request) -> Response:
    asked = f"{request.method} {'/'.join(request.parts[2:])}"
    refusal = error_answer(422, "gate_refused", "The gate refuses.", next_step="openmaas gate check", request_id="1")
    return {
        "PUT models/digits/gates/alias/champion": json_answer(GATE),
        "PUT models/digits/gates/deployment/shop": json_answer({**GATE, "target": "deployment", "name": "shop"}),
        "GET gates": json_answer([GATE]),
        "GET models/digits/gates": json_answer([]),
        "GET models/digits/gates/alias/champion": json_answer(GATE),
        "DELETE models/digits/gates/alias/champion": json_answer(GATE),
        "POST models/digits/gates/alias/champion/check": json_answer(VERDICT),
        "GET models/digits/gate-decisions": json_answer(page([DECISION])),
        "PUT models/digits/aliases/champion": refusal if b'"force":false' in request.body else json_answer(MOVE),
        "GET versions/digits": json_answer(VERSION),
        "GET versions/digits:2/lineage": json_answer(LINEAGE),
    }[asked]


@pytest.fixture
def gates(serve: Any, capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(serve(answers), capsys)


def sent(terminal: Terminal) -> Any:
    return msgspec.json.decode(terminal.transport.seen[-1].body)


def test_a_gate_is_set_with_units(gates: Terminal) -> None:
    words = "--metric accuracy --max-loss 0.5% --max-p99 20ms --max-size 100KB --max-cost 2 --min 97% --baseline digits:1"
    code, out, _ = gates("gate", "set", "digits", "champion", *words.split())
    assert code == 0
    body = sent(gates)
    assert (body["max_loss"], body["max_p99"], body["max_size"], body["max_cost"], body["minimum"]) == (
        0.005, 0.02, 100_000, 2.0, 0.97,
    )  # fmt: skip
    assert "accuracy lost ≤ 0.50%" in out
    assert "where digits@champion stands" in out
    assert gates("gate", "set", "digits", "--deployment", "shop", "--min", "90%")[0] == 0


@pytest.mark.parametrize(
    "words", [("--max-loss", "5"), ("--max-loss", "-1%"), ("--max-p99", "20"), ("--max-size", "1XB"), ("--min", "high")]
)
def test_limits_without_a_clear_unit_are_refused(gates: Terminal, words: tuple[str, str]) -> None:
    code, _, err = gates("gate", "set", "digits", "champion", *words)
    assert code == 2
    assert words[1] in err
    assert gates.transport.seen == []


def test_either_an_alias_or_a_deployment_is_named(gates: Terminal) -> None:
    for words in ((), ("champion", "--deployment", "shop")):
        assert gates("gate", "show", "digits", *words)[0] == 1
    assert gates.transport.seen == []


def test_a_check_shows_each_rule_and_fails_where_the_gate_would(gates: Terminal) -> None:
    code, out, _ = gates("gate", "check", "digits:3", "champion")
    assert code == 1
    lines = out.splitlines()
    assert lines[2].split() == ["✗", "accuracy", "lost", "≤", "0.50%", "1.30%", "0.60%", "-0.10%", "–", "1.30%"]
    assert "not measured" in lines[3]
    assert "openmaas evaluate digits:3 --data digits-test:1" in out
    assert "evaluated by job-000004" in out


def test_gates_are_listed_shown_and_removed(gates: Terminal) -> None:
    assert "accuracy lost ≤ 0.50%, p99 ≤ 20 ms" in gates("gate", "ls")[1]
    assert "There are no gates" in gates("gate", "ls", "digits")[2]
    assert "digits-test:1" in gates("gate", "show", "digits", "champion")[1]
    assert "no gate any more" in gates("gate", "rm", "digits", "champion")[1]
    shown = gates("gate", "show", "digits", "champion", "--json")[1]
    assert msgspec.json.decode(shown, type=GateInfo).rules == RULES


def test_the_history_says_why(gates: Terminal) -> None:
    out = gates("gate", "history", "digits")[1]
    assert "digits as shop" in out
    assert "A demonstration: accuracy lost 1.30%, p99 not measured" in out


@pytest.mark.parametrize("words", [("digits", "champion", "3"), ("digits:3", "champion")])
def test_an_alias_that_is_refused_shows_the_evidence(gates: Terminal, words: tuple[str, ...]) -> None:
    code, out, err = gates("alias", *words)
    assert code == 1
    assert "The gate refuses." in err
    assert "accuracy lost" in out
    assert b'"number":3' in gates.transport.seen[0].body


def test_an_alias_is_forced_with_a_reason(gates: Terminal) -> None:
    assert gates("alias", "digits", "champion", "3", "--force", "--reason", "Ada said so")[0] == 0
    assert sent(gates) == {"number": 3, "force": True, "reason": "Ada said so"}


def test_a_version_is_named_once(gates: Terminal) -> None:
    code, _, err = gates("alias", "digits:2", "champion", "3")
    assert code == 2
    assert "leave out 3" in err


def test_lineage_is_a_tree(gates: Terminal) -> None:
    code, out, _ = gates("lineage", "digits:2")
    assert code == 0
    lines = [line.rstrip() for line in out.splitlines()]
    assert lines[0] == "○ digits:1  deleted"
    assert "└── ● digits:2  champion" in lines
    assert "    prune channels → quantize static on digits-train:1" in lines
    assert any("50.0 kB (2.0× smaller) · accuracy 97.00% (96.00% – 98.00%) on digits-test:1" in line for line in lines)
    assert "    └── ○ digits:4  dominated" in lines
    assert any("5.00% lost against digits:2 (at most 7.00%)" in line for line in lines)
    assert lines[-2] == "        ├── ┄┄ teacher digits:1  deleted"
    assert lines[-1] == "        └── ┄┄ data digits-train:1  deleted by ada: the law"
    assert "seed 7" in gates("lineage", "digits:2", "--full")[1]
    assert msgspec.json.decode(gates("lineage", "digits:2", "--json")[1])["nodes"][2]["dominated"] is True


def test_lineage_shows_escapes_and_obeys_none(serve: Any, capsys: pytest.CaptureFixture[str]) -> None:
    evil = "\x1b[31mred\x9b"
    nodes = [
        node(2, recipe=evil, details={"data": evil, "libraries": {"a": {"b": {"c": {"d": evil}}}}}, created_by=evil,
             links=[{"role": "teacher", "version": evil, "deleted": False}]),
    ]  # fmt: skip
    transport = serve(lambda _: json_answer({"version": "digits:2", "complete": True, "nodes": nodes}))
    _, out, _ = Terminal(transport, capsys)("lineage", "digits:2", "--full")
    assert "\x1b" not in out
    assert "\x9b" not in out
    assert "␛[31mred" in out

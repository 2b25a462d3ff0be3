from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from openmaas import cli
from openmaas.cli.app import NAMES, build_app
from openmaas.client.steps import Request, Response
from openmaas.core.resources import GcReport, ModelSummary, Page, ReplicaInfo, ServerStatus, VersionInfo
from tests.unit.cli.conftest import DEPLOYMENTS, FINDINGS, MODELS, VERSION, Terminal, answer, page
from tests.unit.client.transport import json_answer


def test_ls_shows_a_row_for_each_model(terminal: Terminal) -> None:
    code, out, err = terminal("ls")
    assert code == 0
    assert err == ""
    lines = out.splitlines()
    assert lines[0].split() == ["MODEL", "FORMAT", "LATEST", "VERSIONS", "SIZE", "ALIASES", "UPDATED"]
    assert re.split(r"\s{2,}", lines[1].strip()) == [
        "digits", "sklearn", "3", "3", "138 kB", "candidate → 2, champion → 3", "2 min ago",
    ]  # fmt: skip


def test_ls_asks_for_one_page_and_says_what_it_does_not_show(serve: Any, capsys: pytest.CaptureFixture[str]) -> None:
    transport = serve(lambda _: json_answer({**page(MODELS, total=10_000), "next": "minilm"}))
    code, out, err = Terminal(transport, capsys)("ls")
    assert code == 0
    assert len(transport.seen) == 1
    assert transport.seen[0].query["limit"] == 50
    assert "2 of 10000" in err
    assert len(out.splitlines()) == 3


def test_ls_with_json_gives_all_pages_in_the_shape_of_the_api(serve: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def pages(request: Request) -> Response:
        last = request.query.get("after") is not None
        return json_answer({"items": [MODELS[last]], "total": 2, "next": None if last else "digits"})

    terminal = Terminal(serve(pages), capsys)
    _, out, _ = terminal("ls", "--json")
    assert [model.name for model in msgspec.json.decode(out, type=Page[ModelSummary]).items] == ["digits", "minilm"]
    _, out, _ = terminal("ls", "--json", "--limit", "1")
    shown = msgspec.json.decode(out, type=Page[ModelSummary])
    assert (len(shown.items), shown.total, shown.next) == (1, 2, "digits")


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("ls digits --json", Page[VersionInfo]),
        ("show digits@champion --json", VersionInfo),
        ("ps --json", list[ReplicaInfo]),
        ("status --json", ServerStatus),
        ("gc --json", GcReport),
        ("history digits --json", dict[str, list[dict[str, Any]]]),
        ("logs digits --json", dict[str, Any]),
        ("alias digits --json", dict[str, int]),
        ("approve --json", list[dict[str, Any]]),
        ("deploy digits --json", dict[str, Any]),
        ("undeploy digits --json", dict[str, Any]),
        ("rollback digits --json", dict[str, Any]),
        ("rollback digits@champion --json", dict[str, Any]),
        ("version --json", dict[str, str]),
    ],
)
def test_json_is_the_resource(terminal: Terminal, words: str, kind: Any) -> None:
    code, out, err = terminal(*words.split())
    assert (code, err) == (0, "")
    msgspec.json.decode(out, type=kind)


def test_show_tells_signature_and_parity(terminal: Terminal) -> None:
    _, out, _ = terminal("show", "digits")
    assert "X  FP32 [?, 4]" in out
    assert "batch 7: largest difference 2.4e-07 in probabilities" in out
    assert "accuracy = 0.97" in out


def test_show_tells_a_recipe_short(serve: Any, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = {
        "optimize": {"seed": 7, "steps": [{"prune": {"method": "channels"}}]}, "seed": 7, "facts": {"layers": "a" * 900},
        "data": {"version": "digits-train:1", "digest": "ab" * 32},
    }  # fmt: skip
    kept = msgspec.json.encode(recipe).decode()
    terminal = Terminal(serve(lambda _: json_answer({**VERSION, "recipe": kept})), capsys)
    out = terminal("show", "digits")[1]
    assert "prune channels amount=0.5" in out
    assert "data digits-train:1, abababababab" in out
    assert "seed 7" in out
    assert "facts" not in out
    assert msgspec.json.decode(terminal("show", "digits", "--json")[1])["recipe"] == kept


def test_ps_shows_replicas_below_their_deployment_and_why_one_failed(terminal: Terminal) -> None:
    _, out, _ = terminal("ps")
    assert re.search(r"├ digits-4-0 .*ready .*4211", out)
    assert "✗ failed 1/1, version 1 serves" in out
    assert "search: The replica was killed" in out
    assert "next  openmaas deploy minilm:2 --memory 800MiB" in out


def test_ps_of_one_deployment(terminal: Terminal) -> None:
    _, out, _ = terminal("ps", "digits", "--json")
    assert {replica["deployment"] for replica in json.loads(out)} == {"digits"}


def test_deploy_sends_its_options_and_prints_a_call_that_works(terminal: Terminal) -> None:
    code, out, _ = terminal("deploy", "digits:3", "--as", "d", "--replicas", "2", "--memory", "2GiB", "--timeout", "5")
    assert code == 0
    request = next(request for request in terminal.transport.seen if request.method == "POST")
    sent = json.loads(request.body)
    assert (sent["version"], sent["name"], sent["replicas"], sent["memory"], sent["timeout"]) == (
        "digits:3",
        "d",
        2,
        2**31,
        5.0,
    )
    assert 'client.predict("digits", numpy.full((1, 4), 0.5, "float32"))' in out
    body = re.search(r"-d '(.*)'", out)
    assert body is not None
    tensor = json.loads(body[1])["inputs"][0]
    assert (tensor["name"], tensor["shape"], len(tensor["data"])) == ("X", [1, 4], 4)


def test_logs_are_made_readable_and_kept_where_they_are_not_ours() -> None:
    from openmaas.cli.logs import readable
    from openmaas.cli.styled import Styled

    line = 'd-1-0 | {"event": "loaded", "level": "info", "timestamp": "2026-01-02T03:04:05.6Z", "engine": {"device": "cpu"}}'
    shown = readable(line)
    assert isinstance(shown, Styled)
    assert shown.plain == "d-1-0 | 03:04:05 info    loaded engine=device:cpu"
    for other in ("d-1-0 | plain", 'd-1-0 | {"a": 1}', "", "d-1-0 | [1]"):
        assert readable(other) == other


def test_a_deployment_that_failed_ends_with_its_cause(serve: Any, capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal(serve(lambda _: json_answer(DEPLOYMENTS[1])), capsys)
    code, out, err = terminal("deploy", "minilm:2", "--as", "search")
    assert (code, out) == (1, "")
    assert "it needed more than 400 MiB. Version 1 goes on serving." in err
    assert "│ Killed" in err
    assert "next  openmaas deploy minilm:2 --memory 800MiB" in err


def test_doctor_fails_when_a_check_does(terminal: Terminal) -> None:
    code, out, _ = terminal("doctor")
    assert code == 1
    assert FINDINGS[1]["message"] in out
    assert "next  openmaas gc" in out


def test_what_removes_asks_first(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    code, _, err = terminal("rm", "digits:3")
    assert code == 2
    assert "--yes" in err
    assert not [request for request in terminal.transport.seen if request.method == "DELETE"]
    code, out, _ = terminal("rm", "digits:3", "--yes")
    assert code == 0
    assert "digits:3 is removed" in out
    assert terminal.transport.seen[-1].parts == ("api", "v1", "versions", "digits:3")


def test_rm_of_an_alias_removes_the_version_that_it_means(terminal: Terminal) -> None:
    terminal("rm", "digits@champion", "--yes")
    assert terminal.transport.seen[-1].parts == ("api", "v1", "versions", "digits:3")


def test_gc_says_what_it_would_free(terminal: Terminal) -> None:
    _, out, _ = terminal("gc", "--dry-run")
    assert "Would free 3 files, 1 unfinished upload (1.2 MB)." in out
    terminal("gc", "--yes")
    assert [request.query["apply"] for request in terminal.transport.seen] == ["false", "false", "true"]


def test_approve_takes_a_file_or_a_digest(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "model.pkl").write_bytes(b"x")
    terminal("approve", str(tmp_path / "model.pkl"), "--reason", "ours")
    sent = json.loads(terminal.transport.seen[-1].body)
    assert sent == {"sha256": "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881", "reason": "ours"}
    code, _, err = terminal("approve", "no-such-file")
    assert code == 1
    assert "neither a file nor a SHA-256 digest" in err


# ── how it fails ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_error_names_cause_next_step_and_request(terminal: Terminal) -> None:
    code, out, err = terminal("show", "nope")
    assert (code, out) == (1, "")
    assert [line.split()[0] for line in err.splitlines()] == ["error", "next", "code"]
    assert "request 0f1e" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("deploy", "Missing argument 'MODEL'"),
        ("deploy digits --memory lots", "'lots' is not a size"),
        ("deploy digits --replicas 0", "0"),
        ("nonsense", "No such command 'nonsense'"),
        ("ls --wrong", "No such option: --wrong"),
        ("push . --metadata x", "'x' is not KEY=VALUE"),
    ],
)
def test_a_command_that_is_written_wrongly_ends_with_2(terminal: Terminal, words: str, message: str) -> None:
    code, out, err = terminal(*words.split())
    assert (code, out) == (2, "")
    assert message in err
    assert "--help" in err


def test_a_bug_is_one_line_unless_the_traceback_is_asked_for(
    serve: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Request) -> Response:
        raise RuntimeError("odd")

    terminal = Terminal(serve(broken), capsys)
    code, _, err = terminal("ls")
    assert code == 1
    assert "Unexpected RuntimeError: odd" in err
    assert "Traceback" not in err
    monkeypatch.setenv("OPENMAAS_DEBUG", "1")
    with pytest.raises(RuntimeError, match="odd"):
        cli.run(["ls"])


def test_no_server_is_told_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name in ("OPENMAAS_URL", "OPENMAAS_GATEWAY_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENMAAS_HOME", str(tmp_path))
    assert cli.run(["ls"]) == 1
    assert "No server runs for the data folder" in capsys.readouterr().err


# ── all of them ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_command_is_described() -> None:
    for command in build_app().registered_commands:
        assert command.callback is not None
        assert command.callback.__doc__, command.callback.__name__


@pytest.mark.parametrize("name", NAMES)
def test_help_of_every_command(terminal: Terminal, name: str) -> None:
    code, out, _ = terminal(name, "--help")
    assert code == 0
    assert f"Usage: openmaas {name}" in out


def test_the_program_s_help_lists_them_all(terminal: Terminal) -> None:
    code, out, _ = terminal("--help")
    assert code == 0
    assert set(NAMES) <= set(out.split())


@pytest.mark.parametrize("heavy", ["numpy", "httpx", "pydantic", "asyncio", "rich.markdown", "rich.progress"])
def test_a_listing_imports_nothing_heavy(heavy: str) -> None:
    code = (
        "import sys, openmaas.cli as cli\n"
        "import openmaas.client.blocking as blocking\n"
        "from openmaas.client.steps import Response\n"
        "class Transport:\n"
        "    def __init__(self, server): pass\n"
        '    def send(self, request): return Response(200, {}, b\'{"items": [], "total": 0, "next": null}\')\n'
        "blocking.BlockingTransport = Transport\n"
        "assert cli.run(['ls']) == 0\n"
        f"sys.exit({heavy!r} in sys.modules)\n"
    )
    environment = {**os.environ, "OPENMAAS_URL": "http://127.0.0.1:1", "OPENMAAS_HOME": "/nonexistent"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, stderr=subprocess.DEVNULL)


def test_the_server_in_memory_knows_every_shape(terminal: Terminal) -> None:
    """So that the fixtures cannot drift from core/resources."""
    client: Callable[..., Any]
    import openmaas

    client = openmaas.Client
    assert client().show("digits").number == 3
    assert answer(Request("GET", ("nowhere",))).status == 404

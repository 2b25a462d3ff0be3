"""What `openmaas data` shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from openmaas import cli
from openmaas.client.steps import Request, Response
from tests.unit.cli.conftest import NOW, page
from tests.unit.client.transport import FakeTransport, error_answer, json_answer

MANIFEST: dict[str, Any] = {
    "schema": 1, "format": "csv", "entry": "t.csv", "purpose": "classes", "rows": 1797, "label": "species",
    "columns": [
        {"name": "x", "datatype": "FP32", "shape": [1, 8, 8]},
        {"name": "species", "datatype": "BYTES", "shape": []},
    ],
    "classes": ["cat", "dog"], "counts": [1000, 795], "missing": 2, "notes": ["Something to know."],
    "preview": [["1x8x8 [0, 1, 2, 3, …]", "cat"], ["1x8x8 [4, 5, 6, 7, …]", "dog"]],
    "files": [{"path": "t.csv", "size": 48_211, "sha256": "ab" * 32}],
}  # fmt: skip
INFO = {
    "name": "pets", "project": "default", "number": 2, "digest": "9f" * 32, "format": "csv", "purpose": "classes",
    "rows": 1797, "size": 48_211, "manifest": MANIFEST, "created_at": NOW - 120, "created_by": "admin",
}  # fmt: skip
SUMMARY = {
    "name": "pets", "project": "default", "versions": 2, "latest": 2, "format": "csv", "purpose": "classes", "rows": 1797,
    "size": 48_211, "updated_at": NOW - 120,
}  # fmt: skip


class Server:
    def __init__(self) -> None:
        self.info: dict[str, Any] = INFO
        self.created = True
        self.summaries: list[Any] = [SUMMARY]

    def __call__(self, request: Request) -> Response:
        match request.method, request.parts[2:]:
            case "GET", ("datasets",):
                return json_answer(page(self.summaries))
            case "GET", ("datasets", "pets", "versions"):
                return json_answer(page([self.info], total=2))
            case "GET", ("dataset-versions", ("pets" | "pets:2")):
                return json_answer(self.info)
            case "POST", ("uploads",):
                return json_answer({"id": "u1", "name": "pets", "chunk_size": 1024, "offsets": {}})
            case "POST", ("uploads", "u1", "complete"):
                return json_answer({"dataset": self.info, "created": self.created, "stored_bytes": 48_211})
            case "DELETE", _:
                return Response(204, {}, b"")
        return error_answer(404, "dataset_not_found", "There is no such dataset.")


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def transport(server: Server, serve: Any) -> FakeTransport:
    made: FakeTransport = serve(server)
    return made


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = cli.run(["data", *words])
    written = capsys.readouterr()
    return code, written.out, written.err


@pytest.mark.usefixtures("transport")
def test_push_says_what_was_understood(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.csv").write_text("a\n1\n")
    code, out, _ = run(capsys, "push", str(tmp_path / "t.csv"), "--name", "pets", "--label", "species")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "✓ pets:2 is registered (48.2 kB stored)."
    for told in (
        "for       classification",
        "rows      1,797",
        "columns   x  FP32 [1, 8, 8]",
        "label     species  BYTES  (2 rows have none)",
        "classes   2 classes: cat × 1,000, dog × 795",
        "notes     Something to know.",
        "next  openmaas evaluate MODEL --data pets:2",
    ):
        assert told in lines


@pytest.mark.usefixtures("transport")
def test_pushing_the_same_again(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.created = False
    (tmp_path / "t.csv").write_text("a\n1\n")
    (tmp_path / ".hidden").write_text("x")
    code, out, _ = run(capsys, "push", str(tmp_path), "--name", "pets")
    assert code == 0 and "exactly this already" in out and "1 hidden file was not sent: .hidden" in out


def test_the_label_is_sent(transport: FakeTransport, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.csv").write_text("a\n1\n")
    assert run(capsys, "push", str(tmp_path / "t.csv"), "--label", "a", "--json")[0] == 0
    assert msgspec.json.decode(transport.seen[0].body)["label"] == "a"


@pytest.mark.usefixtures("transport")
def test_ls(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "ls")
    assert code == 0
    assert out.splitlines() == [
        "DATASET   FORMAT   FOR               ROWS      SIZE   LATEST   VERSIONS   UPDATED",
        "pets      csv      classification   1,797   48.2 kB        2          2   2 min ago",
    ]
    code, out, err = run(capsys, "ls", "pets")
    assert code == 0 and "pets:2" in out and "1 of 2" in err
    server.summaries = []
    code, out, err = run(capsys, "ls")
    assert (code, out) == (0, "") and "openmaas data push" in err


@pytest.mark.usefixtures("transport")
def test_show_has_the_first_rows(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "show", "pets")
    assert code == 0
    assert out.splitlines()[-3:] == [
        "x                       species",
        "1x8x8 [0, 1, 2, 3, …]   cat",
        "1x8x8 [4, 5, 6, 7, …]   dog",
    ]
    code, out, _ = run(capsys, "show", "pets:2", "--json")
    assert msgspec.json.decode(out)["manifest"] == MANIFEST


@pytest.mark.usefixtures("transport")
def test_a_wide_dataset_is_shown_by_column(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = [{"name": f"c{number}", "datatype": "FP32", "shape": []} for number in range(40)]
    manifest = {**MANIFEST, "columns": columns, "label": "", "classes": [], "counts": [], "preview": [["1"] * 32, ["2"] * 32]}
    server.info = {**INFO, "manifest": manifest, "purpose": "inputs"}
    monkeypatch.setattr("openmaas.cli.console.terminal_width", lambda stream: 80)
    code, out, _ = run(capsys, "show", "pets")
    assert code == 0 and "and 24 more" in out
    lines = out.splitlines()
    assert lines[-1] == "c31      1   2" and all(len(line) <= 80 for line in lines)


def test_rm_asks(transport: FakeTransport, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "rm", "pets")[0] == 2
    assert not [request for request in transport.seen if request.method == "DELETE"]
    code, out, _ = run(capsys, "rm", "pets:2", "--yes")
    assert code == 0 and "pets:2 is removed" in out
    assert transport.seen[-1].parts[2:] == ("dataset-versions", "pets:2")


def test_rm_is_forced_with_a_reason(transport: FakeTransport, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "rm", "pets:2", "--yes", "--force", "--reason", "Its owner asked for it")[0] == 0
    assert dict(transport.seen[-1].query) == {"force": "true", "reason": "Its owner asked for it"}


@pytest.mark.usefixtures("transport")
def test_one_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "show", "none")
    assert code == 1 and "There is no such dataset." in err

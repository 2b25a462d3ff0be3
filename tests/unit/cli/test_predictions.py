"""`openmaas predict`: what is sent, and what is shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from openmaas.client.steps import Request, Response
from tests.unit.cli.conftest import Terminal
from tests.unit.client.transport import FakeTransport, error_answer, json_answer

Ask = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ask(serve: Any, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[Terminal, FakeTransport]]:
    """A terminal whose server gives this answer."""

    def install(*predictions: dict[str, Any], notes: tuple[dict[str, Any], ...] = ()) -> tuple[Terminal, FakeTransport]:
        def answer(request: Request) -> Response:
            assert (request.method, request.door) == ("POST", "gateway")
            return json_answer({"model": "m", "version": 3, "predictions": list(predictions), "notes": list(notes)})

        transport = serve(answer)
        return Terminal(transport, capsys), transport

    return install


def test_texts_are_rows(ask: Any) -> None:
    terminal, transport = ask({"label": "good", "probability": 0.98765}, {"label": "bad", "probability": 0.5})
    code, out, err = terminal("predict", "m", "--text", "so good", "--text", "so bad")
    assert (code, err) == (0, "")
    assert out.splitlines() == ["    label   probability", "0   good          98.8%", "1   bad           50.0%"]
    (sent,) = transport.seen
    assert sent.target == "/predict/m"
    assert sent.headers["content-type"] == "application/json"
    assert msgspec.json.decode(sent.body) == ["so good", "so bad"]


def test_an_image_and_its_classes(ask: Any, tmp_path: Path) -> None:
    top = [{"label": "cat", "probability": 0.75}, {"label": "dog", "probability": 0.2}, {"label": "car", "probability": 0.05}]
    terminal, transport = ask({**top[0], "top": top})
    (tmp_path / "photo").write_bytes(b"\xff\xd8\xff\xe0...")
    code, out, _ = terminal("predict", "m", "-i", str(tmp_path / "photo"), "--top", "3", "--version", "champion")
    assert code == 0
    assert [line.rstrip() for line in out.splitlines()] == [
        "    label   probability",
        "0   cat           75.0%   ███████████████",
        "    dog           20.0%   ████",
        "    car            5.0%   █",
    ]
    assert transport.seen[0].target == "/predict/m?version=champion&top=3"
    assert transport.seen[0].headers["content-type"] == "image/jpeg"
    assert transport.seen[0].body == b"\xff\xd8\xff\xe0..."


def test_tensors_embeddings_spans_and_notes(ask: Any, tmp_path: Path) -> None:
    (tmp_path / "rows").write_text("[[1, 2]]")
    words = ("predict", "m", "--input", str(tmp_path / "rows"))
    assert ask({"y": [1.0, 2.5], "n": 3})[0](*words)[1].splitlines() == ["    y        n", "0   1  2.5   3"]
    terminal, _ = ask(
        {"embedding": [0.25] * 384},
        notes=({"row": 0, "truncated": True, "tokens": 900, "limit": 512}, {"transparency": "dropped"}),
    )
    assert terminal(*words)[1].splitlines() == [
        "    embedding",
        "0   0.25  0.25  0.25  0.25  0.25  0.25 … 384",
        "note  row 0: truncated, tokens 900, limit 512",
        "note  all rows: transparency dropped",
    ]
    token = {"label": "B-PER", "probability": 0.9, "start": 0, "end": 3, "text": "Ada"}
    terminal, _ = ask({"tokens": [token], "spans": [{**token, "label": "PER"}]})
    assert terminal(*words)[1].splitlines() == [
        "    label   probability   start   end   text",
        "0   PER           90.0%       0     3   Ada",
    ]
    terminal, _ = ask({"label": "b", "score": -1.25, "top": [{"label": "b", "score": -1.25}]})
    assert [line.rstrip() for line in terminal(*words)[1].splitlines()] == ["    label   score", "0   b       -1.25"]


def test_json_is_the_answer(ask: Any, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("age\n3\n")
    terminal, transport = ask({"y": 1})
    code, out, _ = terminal("predict", "m", "--input", str(tmp_path / "rows.csv"), "--json", "--timeout", "2.5")
    assert code == 0
    assert msgspec.json.decode(out) == {"model": "m", "version": 3, "predictions": [{"y": 1}], "notes": []}
    assert transport.seen[0].headers["content-type"] == "text/csv"
    assert float(transport.seen[0].headers["x-request-timeout"]) == 2.5


def test_what_is_wrong_is_told(serve: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    terminal = Terminal(serve(lambda _: error_answer(415, "unsupported_media", "It takes application/json.")), capsys)
    code, _, err = terminal("predict", "m", "--text", "a")
    assert code == 1 and "It takes application/json." in err
    code, _, err = terminal("predict", "m", "--text", "a", "--input", "b")
    assert code == 2 and "--text" in err
    assert terminal("predict", "m", "--text", "a", "--top", "0")[0] == 2

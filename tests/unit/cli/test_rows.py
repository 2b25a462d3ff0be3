from __future__ import annotations

import io
from pathlib import Path

import msgspec
import pytest

from openmaas.cli.rows import Body, read_body
from openmaas.core.errors import InvalidInput


def _read(tmp_path: Path, content: str | bytes, name: str = "rows") -> Body:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_body(str(path))


@pytest.mark.parametrize(
    "text",
    [
        "[1, 2]",
        "[[1, 2], [3, 4]]",
        '{"instances": [[1, 2]]}',
        '{"X": [[1, 2]]}',
        '{"age": 3, "city": "Ulm"}',
        '"a text"',
        " [1]",
    ],
)
def test_json_goes_as_it_is(tmp_path: Path, text: str) -> None:
    assert _read(tmp_path, text) == (text.encode(), "application/json")
    assert _read(tmp_path, b"\xef\xbb\xbf" + text.encode()) == (text.encode(), "application/json")


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ('{"inputs": {"X": [[1, 2]]}}', {"X": [[1, 2]]}),
        ('{"inputs": [[1, 2]]}', [[1, 2]]),
        (
            '{"inputs": [{"name": "X", "shape": [2, 2], "datatype": "FP32", "data": [1, 2, 3, 4.5]}]}',
            {"X": [[1, 2], [3, 4.5]]},
        ),
        ('{"inputs": [{"name": "t", "shape": [1, 2], "datatype": "BYTES", "data": ["a", "b"]}]}', {"t": [["a", "b"]]}),
    ],
)
def test_inputs_of_other_protocols_go_by_name(tmp_path: Path, text: str, sent: object) -> None:
    body = _read(tmp_path, text)
    assert (msgspec.json.decode(body.content), body.content_type) == (sent, "application/json")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"\x89PNG\r\n\x1a\nrest", "image/png"),
        (b"\xff\xd8\xff\xe0rest", "image/jpeg"),
        (b"GIF89a", "image/gif"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "image/webp"),
        (b"RIFF\x00\x00\x00\x00WAVE\xff", "application/octet-stream"),
        (b"BM\xff", "image/bmp"),
        (b"II*\x00", "image/tiff"),
        (b"\xff\xfe\x00", "application/octet-stream"),
        ("a,b\n1,2\n", "text/csv"),
        ('name;"x"', "text/plain"),
        ("one line of prose", "text/plain"),
        ("Hello, you", "text/plain"),
        ("Lines of prose,\nof which one has a comma", "text/plain"),
        ('a,"b\n', "text/plain"),
        ("", "text/plain"),
    ],
)
def test_what_a_file_is_says_its_content(tmp_path: Path, content: str | bytes, kind: str) -> None:
    assert _read(tmp_path, content).content_type == kind


def test_a_single_column_is_a_table_where_the_file_says_so(tmp_path: Path) -> None:
    assert _read(tmp_path, "text\nhello\n", "a.csv").content_type == "text/csv"
    assert _read(tmp_path, "text\nhello\n", "a.txt").content_type == "text/plain"


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"[1, 2]")))
    assert read_body("-") == (b"[1, 2]", "application/json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2", "is not JSON"),
        ('{"inputs": [{"name": "X", "shape": [3], "data": [1]}]}', "do not have the shape"),
        ('{"inputs": [{"name": "X", "shape": "a", "data": [1]}]}', "do not have the shape"),
    ],
)
def test_what_cannot_be_read_is_told(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        _read(tmp_path, text)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="No such file"):
        read_body(str(tmp_path / "none"))

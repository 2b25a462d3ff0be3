from __future__ import annotations

from pathlib import Path

import pytest

from openmaas.core.errors import InvalidInput, TooLarge
from openmaas.formats.description import FILE_NAME, MAX_BYTES, Description, read_description


def read(folder: Path, text: str) -> Description:
    (folder / FILE_NAME).write_text(text, "utf-8")
    return read_description(folder)


def test_no_file_is_an_empty_description(tmp_path: Path) -> None:
    assert read_description(tmp_path) == Description()


def test_an_empty_file_too(tmp_path: Path) -> None:
    assert read(tmp_path, "# nothing\n") == Description()


def test_all_fields(tmp_path: Path) -> None:
    description = read(
        tmp_path,
        """
format: onnx
entry: a/model.onnx
licence: Apache-2.0
card: |
  # Digits
  A model.
metadata: {country: no, trained: 2026-11-22, epochs: 3, rate: 1.5e-3, tags: [a, b], time: 12:30, old: 0o17}
options: {k: 5}
batchable: false
signature:
  inputs: [{name: x, datatype: FP32, shape: [-1, 4]}]
  outputs: [{name: y, datatype: INT64, shape: [-1]}]
""",
    )
    assert description.card == "# Digits\nA model.\n"
    # What YAML 1.1 would silently turn into false, a date, or 750 stays the text that it is.
    assert description.metadata == {
        "country": "no",
        "trained": "2026-11-22",
        "epochs": 3,
        "rate": 0.0015,
        "tags": ["a", "b"],
        "time": "12:30",
        "old": "0o17",
    }
    assert description.batchable is False
    assert description.signature is not None
    assert description.signature.inputs[0].shape == (-1, 4)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("formats: onnx", ["unknown field", "formats"]),
        ("signature: {inputs: [{name: x, datatype: FP32, shape: [1], shpe: [2]}], outputs: []}", ["unknown field", "shpe"]),
        ("signature: {inputs: [{name: x, datatype: FLOAT, shape: [1]}], outputs: []}", ["FLOAT"]),
        ("batchable: maybe", ["batchable", "bool"]),
        ("- a list", ["object"]),
        ("format: [", ["line 1"]),
        ("format: onnx\nformat: sklearn", ["twice"]),
        ("metadata: {a: 1, a: 2}", ["twice"]),
        ("metadata: {x: .nan}", ["JSON compliant"]),
        ("metadata: !!python/object/apply:os.system ['true']", ["could not determine a constructor"]),
        ("metadata: {x: !!binary aGk=}", ["bytes"]),
        ("metadata: " + "[" * 5000 + "]" * 5000, ["nested too deeply"]),
        ("a: &a [x]\nb: *a", ["aliases are not allowed"]),
        ("card: \x00", ["special characters"]),
    ],
)
def test_what_cannot_be_meant_is_named(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(InvalidInput) as caught:
        read(tmp_path, text)
    assert caught.value.code == "invalid_description"
    assert caught.value.next_step
    for word in words:
        assert word in caught.value.message


def test_a_billion_laughs_are_refused_before_they_are_built(tmp_path: Path) -> None:
    lines = ["a0: &a0 [lol, lol]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}]" for n in range(1, 60))]
    with pytest.raises(InvalidInput, match="aliases"):
        read(tmp_path, "\n".join(lines))


def test_size_is_bounded(tmp_path: Path) -> None:
    with pytest.raises(TooLarge, match=str(MAX_BYTES)):
        read(tmp_path, "card: " + "x" * MAX_BYTES)


def test_not_text(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"card: \xff\xfe")
    with pytest.raises(InvalidInput, match="UTF-8"):
        read_description(tmp_path)

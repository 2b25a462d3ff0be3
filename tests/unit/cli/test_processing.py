"""What is said of processing, and the calls that are printed for it."""

from __future__ import annotations

import json
import shlex
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from openmaas.cli.processing import processing_lines
from openmaas.cli.snippets import raw_curl, raw_python, text_curl, text_python
from openmaas.core.processing import Column, Embedding, ImageInput, Labels, Processing, TableInput, TextInput

CLIENT: Any = SimpleNamespace(server=SimpleNamespace(gateway_url="http://here:8000", ca=None, api_key="none"))


def plain(processing: Processing) -> dict[str, Any]:
    """As a manifest holds it."""
    data: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(processing))
    return data


COLUMNS = tuple(Column(name=f"c{n}", datatype="FP32") for n in range(8))


@pytest.mark.parametrize(
    ("processing", "lines"),
    [
        (Processing(), []),
        (
            Processing(
                input=TextInput(max_length=256, pair=True), output=Embedding(output="e", pooling="mean", normalize=True)
            ),
            ["texts or pairs of them → at most 256 tokens (tokenizer.json)", "mean over the tokens → embedding of length one"],
        ),
        (
            Processing(input=ImageInput(mode="L", layout="flat"), output=Labels(output="y")),
            ["images → L 224 × 224 (stretch), flat, × 0.003922, mean 0, std 1", "class"],
        ),
        (
            Processing(
                input=TableInput(columns=(Column(name="colour", datatype="BYTES", categories=("red", "blue")), *COLUMNS)),
                output=Labels(output="y", labels=("no", "yes"), activation="softmax", tokens=True),
            ),
            [
                "rows of 9 columns: colour (one of 2), c0 (FP32), c1 (FP32), c2 (FP32), c3 (FP32), c4 (FP32), c5 (FP32), "
                "c6 (FP32), 1 more",
                "softmax → one of 2 classes of each token: no, yes",
            ],
        ),
        (
            Processing(input=TableInput(columns=(Column(name="age", datatype="INT64", nullable=True),))),
            ["rows of 1 columns: age (INT64, may be missing)"],
        ),
    ],
)
def test_it_is_said_in_words(processing: Processing, lines: list[str]) -> None:
    assert processing_lines(plain(processing)) == lines


def test_the_printed_body_survives_the_shell_and_python() -> None:
    column = Column(name='it\'s "quoted"', datatype="BYTES", categories=("a'b", "c"))
    given = plain(Processing(input=TableInput(columns=(column,))))["input"]
    words = shlex.split(raw_curl(CLIENT, "d", given).replace("\\\n", ""))
    assert json.loads(words[words.index("-d") + 1]) == {'it\'s "quoted"': "a'b"}
    assert words[2] == "http://here:8000/predict/d"
    compile(raw_python("d", given), "snippet", "exec")


def test_a_picture_is_sent_as_it_is() -> None:
    given = plain(Processing(input=ImageInput()))["input"]
    assert "--data-binary @photo.png" in raw_curl(CLIENT, "d", given)
    compile(raw_python("d", given), "snippet", "exec")


@pytest.mark.parametrize(
    ("chats", "path", "asked"), [(True, "v1/chat/completions", "messages"), (False, "v1/completions", "prompt")]
)
def test_generators_are_asked_in_openais_words(chats: bool, path: str, asked: str) -> None:
    words = shlex.split(text_curl(CLIENT, "writer", chats).replace("\\\n", ""))
    assert words[2].endswith(path)
    body = json.loads(words[words.index("-d") + 1])
    assert body["model"] == "writer" and asked in body
    compile(text_python(CLIENT, "writer", chats), "snippet", "exec")

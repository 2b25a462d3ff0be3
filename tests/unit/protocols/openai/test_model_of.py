"""Which model a body names."""

from __future__ import annotations

import msgspec
import pytest

from openmaas.protocols.openai import model_of
from tests.unit.protocols.openai.asks import refused


def test_the_name_wherever_it_stands() -> None:
    text = "x" * 100_000
    assert model_of(b'{"model":"writer"}') == "writer"
    assert model_of(msgspec.json.encode({"messages": [{"content": text, "model": "no"}], "model": "writer@champion"})) == (
        "writer@champion"
    )
    assert model_of('{"model":"größe","n":1}'.encode()) == "größe"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b'{"model":"writer"', "invalid_json"),
        (b'{"model":"\xff"}', "invalid_json"),
        (b'{"a":' + b"[" * 100_000, "invalid_json"),
        (b"[]", "missing_model"),
        (b"{}", "missing_model"),
        (b'{"model":null}', "missing_model"),
        (b'{"model":5}', "missing_model"),
        (b'{"model":""}', "out_of_range"),
        (b'{"model":"' + b"x" * 201 + b'"}', "out_of_range"),
    ],
)
def test_a_body_that_names_none(body: bytes, code: str) -> None:
    error = refused(lambda: model_of(body))
    assert error.code == code
    assert error.param == (None if code == "invalid_json" else "model")

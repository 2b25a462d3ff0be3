"""How versions were made, short: passes, conversions, and anybody's own words."""

from __future__ import annotations

import msgspec
import pytest

from openmaas.core.made import read_made


def test_passes_conversions_and_own_words_have_a_label() -> None:
    made = read_made('{"optimize": {"seed": 7, "steps": [{"prune": {"method": "channels"}}, "fuse"]}, "data": "a:1"}')
    assert made.label.startswith("prune channels")
    assert made.label.endswith("→ fuse all")
    assert made.recipe is not None
    assert made.details["data"] == "a:1"
    assert read_made('{"convert": {"to": "openvino-genai", "weights": "int8"}}').label == "convert openvino-genai int8"
    chosen = '{"convert": {"to": "openvino-genai", "weights": "int4", "calibrated": "text:1"}, "seed": 3}'
    assert read_made(chosen).label == "convert openvino-genai int4 calibrated"
    assert read_made("by hand,\n in a notebook").label == "by hand, in a notebook"
    assert read_made(None).label == ""
    assert len(read_made("word " * 500).label) == 200


@pytest.mark.parametrize(
    "optimize",
    [None, 5, [], "x", {}, {"steps": None}, {"steps": [None]}, {"steps": [{"a": 1, "b": 2}]}, {"steps": [{"prune": 5}]},
     {"steps": [{"prune": {"amount": "x"}}]}, {"steps": [[[]]]}, {"steps": ["x"] * 99}, {"seed": True, "steps": ["fuse"]},
     {"steps": [{"merge": {"versions": 5}}]}, {"steps": ["fuse"], "more": {}}],
)  # fmt: skip
def test_a_recipe_that_is_none_is_called_so(optimize: object) -> None:
    made = read_made(msgspec.json.encode({"optimize": optimize}).decode())
    assert (made.label, made.recipe) == ("optimize", None)


@pytest.mark.parametrize(
    "text", ["[]", "null", "5", '"x"', "{", '{"convert": 5}', '{"convert": {"to": [1]}}', "[" * 5000, "\x00"]
)
def test_any_text_is_read(text: str) -> None:
    assert read_made(text).recipe is None

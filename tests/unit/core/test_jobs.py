from __future__ import annotations

import pytest

from openmaas.core.errors import InvalidInput
from openmaas.core.jobs import ConvertArguments, check_arguments, conversion_of, recipe_of, weights_of


def test_weights_are_a_generator_s() -> None:
    asked = check_arguments("convert", {"version": "w:1", "to": "openvino-genai"})
    assert isinstance(asked, ConvertArguments)
    assert (asked.weights, asked.measures) == ("auto", True)
    asked = check_arguments("convert", {"version": "w:1", "to": "openvino-genai", "weights": "int8"})
    assert not asked.measures
    assert not check_arguments("convert", {"version": "w:1", "to": "onnx"}).measures
    with pytest.raises(InvalidInput, match="openvino-genai only, not to onnx"):
        check_arguments("convert", {"version": "w:1", "to": "onnx", "weights": "int8"})
    with pytest.raises(InvalidInput, match="weights"):
        check_arguments("convert", {"version": "w:1", "to": "openvino-genai", "weights": "fp8"})


def test_a_recipe_says_the_weights() -> None:
    assert recipe_of("onnx") == '{"convert":{"to":"onnx"}}'
    assert weights_of(recipe_of("openvino-genai", "int4")) == "int4"
    assert weights_of(recipe_of("onnx")) == ""
    told = recipe_of("openvino-genai", "int4", "text:1", seed=3)
    assert conversion_of(told) == {"to": "openvino-genai", "weights": "int4", "calibrated": "text:1"} != conversion_of(None)


@pytest.mark.parametrize("recipe", [None, "", "by hand", "[1]", '{"convert": 3}', '{"prune": {}}', '{"convert":{"to":3}}'])
def test_somebody_s_own_recipe_says_nothing(recipe: str | None) -> None:
    assert weights_of(recipe) == ""

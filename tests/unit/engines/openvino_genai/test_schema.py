from __future__ import annotations

import json
from typing import Any

import pytest

from openmaas.core.errors import InvalidInput
from openmaas.engines.openvino_genai.schema import check_schema, spelled_out


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


@pytest.mark.parametrize(
    "schema",
    [
        True,
        {},
        {"type": "object", "properties": {"not": {"type": "string"}, "if": {"enum": ["allOf"]}}},
        {"enum": [{"not": 1}]},
        {"$defs": {"node": {"type": "array", "items": {"$ref": "#/$defs/node"}}}, "$ref": "#/$defs/node"},
        {"allOf": [{"type": "string"}]},
        {"type": "string", "enum": ["a", "b"], "title": "One of two", "default": "a"},
        {"type": "null", "const": None},
        {"type": "integer", "exclusiveMinimum": -5, "maximum": 17},
        {"properties": {"minimum": {"type": "number"}, "required": {}}, "required": ["minimum"]},
        {"allOf": 5},  # the library says what is wrong with it
        {"type": "string", "pattern": "^[a-z]{1,20}-[0-9]{4}$"},
        nested(20),
    ],
)
def test_what_an_answer_can_be_held_to(schema: Any) -> None:
    check_schema(json.dumps(schema))


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ([], "is no JSON schema"),
        (False, "is no JSON schema"),
        ({"properties": {"a": 1}}, "is no JSON schema"),
        ({"type": "integer", "multipleOf": 7}, "'multipleOf'"),
        ({"anyOf": [{"items": {"uniqueItems": True}}]}, "'uniqueItems'"),
        ({"$defs": {"a": {"not": {}}}}, "'not'"),
        ({"allOf": [{"type": "string"}, {"maxLength": 3}]}, "'allOf'"),
        ({"type": "string", "pattern": "^a+$", "maxLength": 3}, "'maxLength' beside 'pattern'"),
        ({"$ref": "#/$defs/s", "$defs": {"s": {"type": "string"}}, "maxLength": 2}, "'maxLength' beside '.ref'"),
        ({"anyOf": [{"type": "string"}], "maxLength": 2}, "'maxLength' beside 'anyOf'"),
        ({"type": "string", "enum": ["a", 1]}, "'type' beside 'enum'"),
        ({"type": "number", "minimum": 0, "maximum": 1}, "'maximum'"),
        ({"items": {"type": "integer", "minimum": 7}}, "'minimum'"),
        ({"minimum": 1, "exclusiveMaximum": 5}, "'exclusiveMaximum'"),
        ({"type": "object", "properties": {"b": {}}, "required": ["b", "a"]}, "requires 'a'"),
        ({"maxLength": 100_000}, "100000 for maxLength, where 2000 is the most"),
        ({"items": {"minItems": 1_000_000}}, "minItems"),
        ({"pattern": "^(([a-z]{1,20}){1,20}){1,20}$"}, "8000 for repetitions of a pattern"),
        ({"pattern": "a" * 1000}, "characters of a pattern"),
        ({"properties": {str(number): {} for number in range(300)}}, "300 for properties of one object"),
        ({"enum": list(range(30_000))}, "values"),
        ({"description": "x" * 300_000}, "bytes"),
        (nested(300), "levels"),
    ],
)
def test_what_it_cannot(schema: Any, said: str) -> None:
    with pytest.raises(InvalidInput, match=said) as raised:
        check_schema(json.dumps(schema))
    assert raised.value.code == "invalid_schema"


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"a": NaN]'])
def test_what_is_no_json(text: str) -> None:
    with pytest.raises(InvalidInput, match="is no JSON"):
        check_schema(text)


@pytest.mark.parametrize("schema", [{"properties": {"Größe": {}}}, {"const": {"a": "Größe"}}, {"enum": [["Maße"]]}])
def test_texts_that_the_library_misreads(schema: Any) -> None:
    with pytest.raises(InvalidInput, match="misreads 'ße'"):
        check_schema(json.dumps(schema))


def test_values_that_the_library_misreads_become_patterns() -> None:
    schema = {"type": "array", "items": {"enum": ["Größe", "groß", 3]}}
    spelled: dict[str, Any] = json.loads(spelled_out(json.dumps(schema)))
    assert spelled["items"] == {"anyOf": [{"type": "string", "pattern": "^Größe$"}, {"enum": ["groß", 3]}]}
    marked = json.loads(spelled_out(json.dumps({"const": 'ße "*"'})))
    assert marked["anyOf"] == [{"type": "string", "pattern": r'^ße \\"\*\\"$'}]
    plain = json.dumps({"const": "naïve", "enum": 5})
    assert json.loads(spelled_out(plain)) == json.loads(plain)


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
        {"type": "object", "properties": {"x": {"$ref": "#/properties/x"}}},
        {"anyOf": [{"$ref": "#/anyOf/0"}, {"type": "null"}]},
    ],
)
def test_references_that_lead_in_a_circle_are_refused(schema: Any) -> None:
    with pytest.raises(InvalidInput, match="circle"):
        check_schema(json.dumps(schema))


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"next": {"$ref": "#"}}},
        {"$ref": "#/$defs/tree", "$defs": {"tree": {"type": "array", "items": {"$ref": "#/$defs/tree"}}}},
    ],
)
def test_schemas_that_hold_themselves_are_none(schema: Any) -> None:
    check_schema(json.dumps(schema))

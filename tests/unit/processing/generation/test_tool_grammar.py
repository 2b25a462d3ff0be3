"""The form of an answer that must be a call."""

from __future__ import annotations

import json
from typing import Any

import pytest

from openmaas.core.errors import InvalidInput
from openmaas.core.generation import Grammar, ToolFormat
from openmaas.processing.generation import ToolCallReader, grammar_for_tools


def tool(name: str, **parameters: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name} | ({"parameters": parameters} if parameters else {})}


LOOK = tool("look", type="object", properties={"at": {"type": "string"}}, required=["at"])
TOOLS = [LOOK, tool("wait")]


def schema_of(grammar: Grammar | None) -> Any:
    assert grammar is not None
    return json.loads(grammar.schema)


@pytest.mark.parametrize("choice", ["auto", "none"])
def test_where_the_model_may_choose_there_is_none(choice: str) -> None:
    assert grammar_for_tools("hermes", TOOLS, choice) is None
    assert grammar_for_tools("", TOOLS, choice) is None


@pytest.mark.parametrize(("tool_format", "key"), [("hermes", "arguments"), ("llama3", "parameters"), ("mistral", "arguments")])
def test_what_follows_it_is_read_as_a_call(tool_format: ToolFormat, key: str) -> None:
    grammar = grammar_for_tools(tool_format, TOOLS, "look")
    schema = schema_of(grammar)
    assert grammar is not None
    value: Any = {"name": "look", key: {"at": "roof"}}
    if tool_format == "mistral":
        assert (schema["type"], schema["minItems"], schema["maxItems"]) == ("array", 1, 1)
        schema, value = schema["items"], [value]
    assert schema["required"] == ["name", key]
    assert schema["properties"]["name"] == {"const": "look"}
    assert schema["properties"][key] == LOOK["function"]["parameters"]
    assert schema["additionalProperties"] is False
    text, calls = ToolCallReader(tool_format).push(grammar.before + json.dumps(value) + grammar.after)
    assert (text, [(call.name, call.arguments) for call in calls]) == ("", [("look", '{"at": "roof"}')])


def test_any_of_them() -> None:
    first, second = schema_of(grammar_for_tools("hermes", TOOLS, "required"))["anyOf"]
    assert first["properties"]["name"] == {"const": "look"}
    assert second["properties"] == {"name": {"const": "wait"}, "arguments": {"type": "object", "properties": {}}}


def test_definitions_move_to_where_references_find_them() -> None:
    def with_definitions(name: str, place: str) -> dict[str, Any]:
        return tool(
            name,
            type="object",
            properties={"x": {"$ref": f"#/{place}/Point"}, "all": {"$ref": "#"}, "$ref": {"type": "string"}},
            **{place: {"Point": {"type": "array", "items": {"$ref": f"#/{place}/Point"}}}},
        )

    tools = [with_definitions("a", "$defs"), with_definitions("b", "definitions")]
    schema = schema_of(grammar_for_tools("llama3", tools, "required"))
    found = []

    def walk(part: Any) -> None:
        if isinstance(part, dict):
            if isinstance(reference := part.get("$ref"), str):
                assert reference.startswith("#/$defs/")
                assert reference.removeprefix("#/$defs/") in schema["$defs"]
                found.append(reference)
            part = list(part.values())
        for item in part if isinstance(part, list) else ():
            walk(item)

    walk(schema)
    assert len(set(found)) == 4
    assert schema["anyOf"][0]["properties"]["parameters"]["properties"]["$ref"] == {"type": "string"}


def test_what_is_asked_for_in_vain_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"'fly'.*'look', 'wait'"):
        grammar_for_tools("hermes", TOOLS, "fly")
    with pytest.raises(InvalidInput, match="none"):
        grammar_for_tools("hermes", [], "required")
    with pytest.raises(InvalidInput, match="chat template"):
        grammar_for_tools("", TOOLS, "required")


@pytest.mark.parametrize("definitions", [[1], "x", None, 5])
@pytest.mark.parametrize("place", ["$defs", "definitions"])
def test_definitions_that_are_none_are_refused(place: str, definitions: Any) -> None:
    with pytest.raises(InvalidInput, match="no object of JSON schemas") as caught:
        grammar_for_tools("hermes", [tool("a", type="object", **{place: definitions})], "required")
    assert caught.value.param == "tools"

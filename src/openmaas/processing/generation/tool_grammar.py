"""The form that an answer must have where the caller says that it has to be a call of a tool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from openmaas.core.errors import InvalidInput
from openmaas.core.generation import Grammar, ToolFormat
from openmaas.processing.generation.tools import CLOSING, OPENING

_KEY: Final[dict[ToolFormat, str]] = {"hermes": "arguments", "mistral": "arguments", "llama3": "parameters"}
_DEFINITIONS: Final = ("$defs", "definitions")


def grammar_for_tools(tool_format: ToolFormat, tools: Sequence[Mapping[str, Any]], tool_choice: str) -> Grammar | None:
    """One call of any tool for `required`, of that tool for a name; None where the model may choose (auto, none).

    tools: OpenAI's objects. Raises InvalidInput for a name that is not among them, and for a model that knows no tools.
    """
    if tool_choice in ("auto", "none"):
        return None
    functions = [tool["function"] for tool in tools if tool_choice in ("required", tool["function"]["name"])]
    if not functions:
        listed = ", ".join(repr(tool["function"]["name"]) for tool in tools) or "none"
        raise InvalidInput(
            f"tool_choice asks for {tool_choice!r}; the tools are {listed}.", code="invalid_tool_choice", param="tool_choice"
        )
    if not tool_format:
        raise InvalidInput(
            "The chat template of this model writes no calls of tools that OpenMaaS can read.",
            code="tools_unsupported",
            next_step="Ask without 'tools', or with 'response_format' for an answer of a given form.",
            param="tools",
        )
    definitions: dict[str, Any] = {}
    calls = [_call(function, _KEY[tool_format], place, definitions) for place, function in enumerate(functions)]
    schema = calls[0] if len(calls) == 1 else {"anyOf": calls}
    if tool_format == "mistral":
        schema = {"type": "array", "items": schema, "minItems": 1, "maxItems": 1}
    if definitions:
        schema = schema | {"$defs": definitions}
    before, after = {
        "hermes": (OPENING["hermes"] + "\n", "\n" + CLOSING["hermes"]),
        "mistral": (OPENING["mistral"], ""),
        "llama3": ("", ""),
    }[tool_format]
    return Grammar(schema=msgspec.json.encode(schema).decode(), before=before, after=after)


def _call(function: Mapping[str, Any], key: str, place: int, definitions: dict[str, Any]) -> dict[str, Any]:
    parameters = function.get("parameters") or {"type": "object", "properties": {}}
    return {
        "type": "object",
        "properties": {"name": {"const": function["name"]}, key: _moved(parameters, f"{place}_", definitions)},
        "required": ["name", key],
        "additionalProperties": False,
    }


def _moved(parameters: Mapping[str, Any], prefix: str, definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema as a part of another one: what it defines goes to the whole's definitions, and references follow."""
    whole = f"{prefix}parameters"
    used = False

    def follow(part: Any) -> Any:
        if isinstance(part, list):
            return [follow(item) for item in part]
        if not isinstance(part, dict):
            return part
        return {key: target(value) if key == "$ref" else follow(value) for key, value in part.items()}

    def target(reference: Any) -> Any:
        nonlocal used
        if not isinstance(reference, str):  # a property of that name
            return follow(reference)
        for place in _DEFINITIONS:
            if reference.startswith(f"#/{place}/"):
                return f"#/$defs/{prefix}{reference.removeprefix(f'#/{place}/')}"
        if not reference.startswith("#"):
            return reference
        used = True
        return f"#/$defs/{whole}{reference.removeprefix('#')}"

    for place in _DEFINITIONS:
        if not isinstance(named := parameters.get(place, {}), dict):
            raise InvalidInput(
                f"{place!r} of a tool's parameters is no object of JSON schemas by name.", code="invalid_schema", param="tools"
            )
        for name, definition in named.items():
            definitions[prefix + name] = follow(definition)
    moved: dict[str, Any] = follow({key: value for key, value in parameters.items() if key not in _DEFINITIONS})
    if used:
        definitions[whole] = moved
    return moved

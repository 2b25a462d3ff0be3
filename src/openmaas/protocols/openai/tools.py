"""Tools that a model may call, the choice among them, and the form that an answer must have."""

from __future__ import annotations

import re
from typing import Any, Literal, TypeAlias

import msgspec

from openmaas.core.errors import InvalidInput
from openmaas.protocols.generation.body import Body, decode, free_object, not_supported, out_of_range
from openmaas.protocols.generation.limits import Limits

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NO_PARAMETERS = {"type": "object", "properties": {}}
_CHOICES = ("auto", "none", "required")
_ANY_OBJECT = '{"type":"object"}'


class _Function(msgspec.Struct, forbid_unknown_fields=True):
    """strict: arguments follow the schema where a call is forced; where it is the model's choice they follow its training."""

    name: str
    description: str | None = None
    parameters: msgspec.Raw = msgspec.Raw()
    strict: bool | None = None


class _Tool(msgspec.Struct, forbid_unknown_fields=True):
    type: str
    function: _Function


class _FlatTool(_Function):
    """As the Responses API writes one."""

    type: str = ""


class _Named(msgspec.Struct, forbid_unknown_fields=True):
    name: str


class _Choice(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["function"]
    function: _Named


class _FlatChoice(_Named):
    type: Literal["function"]


class _JsonSchema(msgspec.Struct, forbid_unknown_fields=True):
    """strict: a schema is always followed, so it says nothing more."""

    name: str
    schema: msgspec.Raw
    description: str | None = None
    strict: bool | None = None


class _TextFormat(msgspec.Struct, tag_field="type", tag="text", forbid_unknown_fields=True):
    pass


class _ObjectFormat(msgspec.Struct, tag_field="type", tag="json_object", forbid_unknown_fields=True):
    pass


class _SchemaFormat(msgspec.Struct, tag_field="type", tag="json_schema", forbid_unknown_fields=True):
    json_schema: _JsonSchema


class _FlatSchemaFormat(_JsonSchema, tag_field="type", tag="json_schema"):
    pass


_Format: TypeAlias = _TextFormat | _ObjectFormat | _SchemaFormat
_FlatFormat: TypeAlias = _TextFormat | _ObjectFormat | _FlatSchemaFormat


def read_tools(body: Body, limits: Limits, *, flat: bool = False) -> list[dict[str, Any]]:
    """OpenAI's objects, as chat templates take them. flat: as the Responses API writes them."""
    came: list[msgspec.Raw] = body.take("tools", list[msgspec.Raw]) or []
    if len(came) > limits.max_tools:
        raise out_of_range("tools", f"a list of {len(came)}", f"one of at most {limits.max_tools}")
    names: set[str] = set()
    made = []
    for index, raw in enumerate(came):
        where = f"tools[{index}]"
        if (kind := decode(where, raw, _Kind).type) != "function":
            raise not_supported(f"{where}.type", f"it is {kind[:40]!r}, and only tools of type 'function' are known")
        function: _Function = decode(where, raw, _FlatTool) if flat else decode(where, raw, _Tool).function
        place = where if flat else f"{where}.function"
        if not _NAME.fullmatch(function.name) or function.name in names:
            raise InvalidInput(
                f"{place}.name is {function.name[:80]!r}; it must be 1 to 64 letters, digits, '_' or '-', and once only.",
                code="invalid_parameter",
                param=f"{place}.name",
            )
        names.add(function.name)
        made.append({"type": "function", "function": _described(f"{place}.parameters", function, limits)})
    return made


class _Kind(msgspec.Struct):
    type: str


def _described(where: str, function: _Function, limits: Limits) -> dict[str, Any]:
    parameters: dict[str, Any] = _NO_PARAMETERS
    if function.parameters and bytes(function.parameters) != b"null":
        parameters = free_object(where, function.parameters, max_bytes=limits.max_schema, max_depth=limits.max_depth)
        if parameters.get("type", "object") != "object":
            raise InvalidInput(f"{where} must be the schema of an object.", code="invalid_parameter", param=where)
    described: dict[str, Any] = {"name": function.name}
    if function.description is not None:
        described["description"] = function.description
    described["parameters"] = parameters
    if function.strict is not None:
        described["strict"] = function.strict
    return described


def read_tool_choice(body: Body, tools: list[dict[str, Any]], *, flat: bool = False) -> str:
    """auto, none, required, or the name of one of the tools."""
    raw = body.raw("tool_choice")
    if raw is None:
        return "auto"
    if bytes(raw)[:1] == b'"':
        word: str = decode("tool_choice", raw, str)
        if word not in _CHOICES:
            raise out_of_range("tool_choice", repr(word), "auto, none, required or a function of tools")
        if word == "required" and not tools:
            raise InvalidInput(
                "tool_choice is required, and there are no tools.", code="invalid_parameter", param="tool_choice"
            )
        return word
    name: str = decode("tool_choice", raw, _FlatChoice).name if flat else decode("tool_choice", raw, _Choice).function.name
    # A tool may be called `none` or `auto`, which as a choice would mean another thing.
    if name in _CHOICES or all(tool["function"]["name"] != name for tool in tools):
        raise InvalidInput(
            f"tool_choice names {name[:80]!r}, which is none of tools.", code="invalid_parameter", param="tool_choice"
        )
    return name


def read_format(name: str, raw: msgspec.Raw | None, limits: Limits, *, flat: bool = False) -> str | None:
    """Text of the JSON schema that the answer must follow, None where it is free. flat: as the Responses API writes it."""
    if raw is None:
        return None
    came = decode(name, raw, _FlatFormat if flat else _Format)
    if isinstance(came, _TextFormat):
        return None
    if isinstance(came, _ObjectFormat):
        return _ANY_OBJECT
    place, schema = (f"{name}.schema", came) if flat else (f"{name}.json_schema.schema", came.json_schema)
    whole = free_object(place, schema.schema, max_bytes=limits.max_schema, max_depth=limits.max_depth)
    return msgspec.json.encode(whole).decode()

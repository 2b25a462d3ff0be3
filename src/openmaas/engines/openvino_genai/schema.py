"""Which JSON schemas an answer can be held to: those that the library keeps in full, of a size that it compiles in seconds."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

from openmaas.core.errors import InvalidInput

_MOST = {
    "bytes": 256 << 10,
    "levels": 64,
    "values": 20_000,
    "properties of one object": 256,
    "maxLength": 2_000,
    "minLength": 2_000,
    "maxItems": 10_000,
    "minItems": 10_000,
    "characters of a pattern": 256,
    "repetitions of a pattern": 1_000,
}
"""Beyond them, compiling was seen to take from ten seconds to minutes."""
_NOT_KEPT = frozenset(
    {
        "not", "if", "then", "else", "uniqueItems", "contains", "minContains", "maxContains", "multipleOf", "dependentRequired",
        "dependentSchemas", "dependencies", "$dynamicRef", "$recursiveRef",
    }
)  # fmt: skip
"""Keywords that xgrammar passes over, so that answers need not obey them."""
_MISREAD = re.compile("[\x80-\xff][0-9A-Fa-f]")
"""xgrammar writes the first of the two as \\xdf, and takes the other for one more digit of it: another word than Größe."""
_ALONE = ("$ref", "const", "enum", "anyOf", "oneOf", "allOf")
_NOTES = frozenset(
    {
        "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "discriminator", "$defs",
        "definitions", "$schema", "$id", "$comment",
    }
)  # fmt: skip
"""Keywords that restrict nothing."""
_TYPES: dict[str, Any] = {
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "null": type(None),
    "array": list,
    "object": dict,
}
_NAMED = ("properties", "patternProperties", "$defs", "definitions")
_LISTED = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLE = ("items", "additionalProperties", "unevaluatedProperties", "unevaluatedItems", "propertyNames", "additionalItems")


def check_schema(text: str) -> None:
    """Raises InvalidInput with what is wrong, or what an answer could not be held to."""
    _most("bytes", len(text.encode()))
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"The JSON schema is no JSON: {str(error)[:200]}.", code="invalid_schema") from None
    levels, values = _extent(schema)
    _most("levels", levels)
    _most("values", values)
    for part in _parts(schema):
        _check_part(part)
        if isinstance(part, dict) and "$ref" in part:
            _check_reference(part, schema)


def spelled_out(text: str) -> str:
    """A checked schema so that the library reads each value in it as it is: those that it misreads become patterns."""
    if text.isascii() and "\\u00" not in text:
        return text
    schema = json.loads(text)
    for part in list(_parts(schema)):
        if isinstance(part, dict):
            _spell_out(part)
    return json.dumps(schema)


def _spell_out(part: dict[str, Any]) -> None:
    values = _values(part)
    misread = [value for value in values if isinstance(value, str) and _MISREAD.search(value)]
    if not misread:
        return
    others = [value for value in values if value not in misread]
    part.pop("const", None)
    part.pop("enum", None)
    part["anyOf"] = [{"type": "string", "pattern": _pattern(value)} for value in misread]
    if others:
        part["anyOf"].append({"enum": others})


def _pattern(value: str) -> str:
    """Of what stands between the quotes in JSON."""
    return "^" + re.sub(r"[\\^$.*+?()\[\]{}|/]", r"\\\g<0>", json.dumps(value, ensure_ascii=False)[1:-1]) + "$"


def _values(part: dict[str, Any]) -> list[Any]:
    """One of which it must be."""
    if "const" in part:
        return [part["const"]]
    return part["enum"] if isinstance(part.get("enum"), list) else []


def _check_beside(part: dict[str, Any]) -> None:
    """xgrammar takes the first of some keywords, and passes over what else restricts the same values."""
    first = next((keyword for keyword in _ALONE if keyword in part), None)
    ignored = part.keys() - _NOTES - {first} if first is not None else set()
    if first in ("const", "enum") and all(isinstance(value, _TYPES.get(str(part.get("type")), ())) for value in _values(part)):
        ignored.discard("type")
    if "pattern" in part or "format" in part:
        ignored |= part.keys() & {"minLength", "maxLength"} | (part.keys() & {"format"} if "pattern" in part else set())
        first = first or ("pattern" if "pattern" in part else "format")
    if ignored:
        raise InvalidInput(
            f"Answers cannot be held to {min(ignored)!r} beside {first!r} in a JSON schema.",
            code="invalid_schema",
            next_step=f"Say in one keyword what the value must be: leave out {min(ignored)!r}, or {first!r}.",
        )


def _check_bounds(part: dict[str, Any]) -> None:
    """Of numbers with a fraction, and of integers with one bound only, xgrammar lets values pass that are beyond it."""
    least, most = {"minimum", "exclusiveMinimum"} & part.keys(), {"maximum", "exclusiveMaximum"} & part.keys()
    if (least or most) and not (least and most and part.get("type") == "integer"):
        raise InvalidInput(
            f"Answers cannot be held to {min(least | most)!r} of a JSON schema, unless an integer has a least and a most.",
            code="invalid_schema",
            next_step="Give an integer both bounds; leave them out for other numbers, and look at the answer.",
        )


def _check_required(part: dict[str, Any]) -> None:
    """What is required and not described, xgrammar leaves out."""
    required, properties = part.get("required"), part.get("properties")
    described = properties if isinstance(properties, dict) else {}
    for name in required if isinstance(required, list) else []:
        if name not in described:
            raise InvalidInput(
                f"The JSON schema requires {str(name)[:80]!r}, and its 'properties' do not describe it.",
                code="invalid_schema",
                next_step="Describe it, if only as {}.",
            )


def _check_texts(part: dict[str, Any]) -> None:
    """Names and values within values have no pattern that could stand for them."""
    properties = part.get("properties")
    names = [*properties] if isinstance(properties, dict) else []
    inner = [json.dumps(value, ensure_ascii=False) for value in _values(part) if isinstance(value, dict | list)]
    for text in (*names, *inner):
        if found := _MISREAD.search(text):
            raise InvalidInput(
                f"Answers cannot be held to {text[:80]!r} of a JSON schema: xgrammar misreads {found[0]!r} in it.",
                code="invalid_schema",
                next_step="Name properties in ASCII; as values of their own, such texts can be kept.",
            )


def _check_part(part: Any) -> None:
    if part is True:
        return
    if not isinstance(part, dict):
        raise InvalidInput(f"{json.dumps(part)[:80]} is no JSON schema: an object or true.", code="invalid_schema")
    if unkept := sorted(_NOT_KEPT & part.keys()):
        raise InvalidInput(f"Answers cannot be held to {unkept[0]!r} of a JSON schema.", code="invalid_schema")
    if isinstance(part.get("allOf"), list) and len(part["allOf"]) > 1:
        raise InvalidInput("Answers cannot be held to 'allOf' of more than one JSON schema.", code="invalid_schema")
    _check_texts(part)
    _check_beside(part)
    _check_bounds(part)
    _check_required(part)
    if isinstance(part.get("properties"), dict):
        _most("properties of one object", len(part["properties"]))
    for keyword in ("maxLength", "minLength", "maxItems", "minItems"):
        if isinstance(part.get(keyword), int):
            _most(keyword, part[keyword])
    if isinstance(part.get("pattern"), str):
        _most("characters of a pattern", len(part["pattern"]))
        counts = re.findall(r"\{\d*,?(\d+)\}", part["pattern"])
        _most("repetitions of a pattern", math.prod(int(count[:9]) for count in counts))


def _check_reference(part: dict[str, Any], schema: Any) -> None:
    """One that only leads to others and back describes nothing: no answer would ever begin."""
    seen: list[Any] = []
    current: Any = part
    while isinstance(current, dict) and isinstance(reference := current.get("$ref"), str):
        if any(current is one for one in seen):
            raise InvalidInput(
                f"The reference {reference[:80]!r} of the JSON schema leads in a circle and describes nothing.",
                code="invalid_schema",
                next_step="Let it lead to a schema with a type.",
            )
        seen.append(current)
        current = _at(schema, reference)


def _at(schema: Any, reference: str) -> Any:
    """What stands at a reference within the schema; None for any other, which is the library's to judge."""
    if not reference.startswith("#"):
        return None
    current = schema
    for name in filter(None, reference[1:].split("/")):
        key = name.replace("~1", "/").replace("~0", "~")
        if isinstance(current, list) and key.isdecimal() and len(key) < 6 and int(key) < len(current):
            current = current[int(key)]
        elif isinstance(current, dict) and key in current:
            current = current[key]
        else:
            return None
    return current


def _most(what: str, value: int) -> None:
    if value > _MOST[what]:
        raise InvalidInput(
            f"The JSON schema is too large to compile: {value} for {what}, where {_MOST[what]} is the most.",
            code="invalid_schema",
            next_step="Simplify the schema.",
        )


def _parts(schema: Any) -> Iterator[Any]:
    """A schema and all within it, without values that only look like schemas (enum, default …)."""
    waiting = [schema]
    while waiting:
        part = waiting.pop()
        yield part
        if isinstance(part, dict):
            for keyword in _NAMED:
                if isinstance(part.get(keyword), dict):
                    waiting += part[keyword].values()
            for keyword in _LISTED:
                if isinstance(part.get(keyword), list):
                    waiting += part[keyword]
            waiting += [part[keyword] for keyword in _SINGLE if isinstance(part.get(keyword), dict)]


def _extent(schema: Any) -> tuple[int, int]:
    """How many levels it has, and how many values in all."""
    level, levels, values = [schema], 0, 0
    while level:
        levels, values = levels + 1, values + len(level)
        below: list[Any] = []
        for value in level:
            below += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        level = below
    return levels, values

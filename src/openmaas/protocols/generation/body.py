"""Reading a JSON body strictly: each parameter is known by name and taken with a type and bounds, or refused by name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import msgspec

from openmaas.core.errors import InvalidInput, TooLarge
from openmaas.protocols.generation.parameters import ACCEPTED, REFUSED

_ABSENT = msgspec.Raw()
_NULL = msgspec.Raw(b"null")
_UNKNOWN = "Object contains unknown field `"
_MAX_MESSAGE = 300


class Body:
    """One request's parameters by name, still undecoded; those that are null count as left out."""

    __slots__ = ("_raw", "given")

    def __init__(self, raw: dict[str, msgspec.Raw]) -> None:
        self._raw = raw
        self.given = frozenset(raw)

    def raw(self, name: str) -> msgspec.Raw | None:
        return self._raw.get(name)

    def needed(self, name: str) -> msgspec.Raw:
        if (raw := self._raw.get(name)) is None:
            raise InvalidInput(f"{name} is missing.", code="missing_parameter", param=name)
        return raw

    def take(self, name: str, kind: Any) -> Any:
        """The parameter as a type that msgspec knows, None where it was left out. Raises InvalidInput that names it."""
        raw = self._raw.get(name)
        return None if raw is None else decode(name, raw, kind)

    def number(self, name: str, low: float, high: float) -> float | None:
        value: float | None = self.take(name, float)
        if value is not None and not low <= value <= high:
            raise out_of_range(name, value, f"a number from {low:g} to {high:g}")
        return value

    def whole(self, name: str, low: int, high: int) -> int | None:
        value: int | None = self.take(name, int)
        if value is not None and not low <= value <= high:
            raise out_of_range(name, value, f"a whole number from {low} to {high}")
        return value

    def text(self, name: str, longest: int) -> str | None:
        value: str | None = self.take(name, str)
        if value is not None and len(value) > longest:
            raise out_of_range(name, f"a text of {len(value)} characters", f"one of at most {longest}")
        return value

    def flag(self, name: str) -> bool:
        return bool(self.take(name, bool))


def out_of_range(name: str, value: object, allowed: str) -> InvalidInput:
    return InvalidInput(f"{name} is {str(value)[:40]}; it must be {allowed}.", code="out_of_range", param=name)


def check_count(name: str, items: Sequence[object], most: int) -> None:
    if not 1 <= len(items) <= most:
        raise InvalidInput(f"{name} has {len(items)} entries; it takes 1 to {most}.", code="out_of_range", param=name)


def not_supported(name: str, why: str, *, next_step: str | None = None) -> InvalidInput:
    """For what is understood and cannot be done: ignoring it would give another answer than was asked for."""
    return InvalidInput(f"{name} is not supported: {why}.", code="parameter_not_supported", next_step=next_step, param=name)


def decode(name: str, raw: msgspec.Raw | bytes, kind: Any, *, next_step: str | None = None) -> Any:
    """JSON as a type. Raises InvalidInput whose `param` is where it went wrong, as messages[0].content."""
    try:
        return _decoder(kind).decode(raw)
    except msgspec.ValidationError as error:
        what, _, path = str(error).rpartition(" - at `")
        param = name + path.removesuffix("`").removeprefix("$") if what else name
        what = (what or path)[:_MAX_MESSAGE]
        raise InvalidInput(
            f"{param}: {what[:1].lower()}{what[1:]}.", code="invalid_parameter", next_step=next_step, param=param
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{name} is not valid JSON: {str(error)[:_MAX_MESSAGE]}.", code="invalid_json", param=name) from None
    except RecursionError:
        raise InvalidInput(f"{name} is nested too deep.", code="invalid_json", param=name) from None


@cache
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


class BodyReader:
    """Reads the bodies of one operation. known: the parameters that change its answer; what is harmless comes from the table
    of accepted ones."""

    def __init__(self, operation: str, known: Iterable[str]) -> None:
        self._accepted = {name: entry for name, entry in ACCEPTED.items() if operation in entry.operations}
        self._names = [*known, *self._accepted]
        refused = [name for name in REFUSED if name not in self._names]
        fields = [(name, msgspec.Raw, _ABSENT) for name in (*self._names, *refused)]
        struct = msgspec.defstruct(operation, fields, forbid_unknown_fields=True)
        self._decode = msgspec.json.Decoder(struct).decode
        self._refused = frozenset(refused)

    def read(self, body: bytes, max_body: int) -> Body:
        """The body's parameters. Raises InvalidInput that names one that is unknown or not supported, TooLarge for too many
        bytes."""
        if len(body) > max_body:
            raise TooLarge(
                f"The body has {len(body)} bytes; at most {max_body} are read here.",
                code="body_too_large",
                next_step="Send a shorter conversation or fewer prompts.",
            )
        try:
            found = msgspec.structs.asdict(self._decode(body))
        except msgspec.DecodeError as error:
            raise self._why(str(error)) from None
        except UnicodeDecodeError as error:
            raise InvalidInput(f"The body is not UTF-8: {error.reason} at byte {error.start}.", code="invalid_json") from None
        except RecursionError:
            raise InvalidInput("The JSON is nested too deep.", code="invalid_json") from None
        raw = {name: value for name, value in found.items() if value not in (_ABSENT, _NULL)}
        if (name := next(iter(self._refused & raw.keys()), None)) is not None:
            raise not_supported(name, REFUSED[name])
        self._check_accepted(raw)
        return Body(raw)

    def _why(self, error: str) -> InvalidInput:
        if not error.startswith(_UNKNOWN):
            return InvalidInput(f"The body is not a request: {error[:_MAX_MESSAGE]}.", code="invalid_json")
        name = error[len(_UNKNOWN) : -1][:80]
        near = difflib.get_close_matches(name, self._names, 1, cutoff=0.7)
        return InvalidInput(
            f"The parameter {name!r} is unknown.",
            code="unknown_parameter",
            next_step=f"Did you mean {near[0]!r}?" if near else "Leave it out: nothing that is sent is ignored silently.",
            param=name,
        )

    def _check_accepted(self, raw: Mapping[str, msgspec.Raw]) -> None:
        for name in self._accepted.keys() & raw.keys():
            entry = self._accepted[name]
            value = decode(name, raw[name], entry.kind)
            if entry.only and value not in entry.only:
                allowed = " or ".join(msgspec.json.encode(one).decode() for one in entry.only)
                shown = msgspec.json.encode(value).decode()[:80]
                raise InvalidInput(
                    f"{name} is {shown}; only {allowed} is supported: {entry.why}.", code="parameter_not_supported", param=name
                )


def free_object(name: str, raw: msgspec.Raw, *, max_bytes: int, max_depth: int) -> dict[str, Any]:
    """An object that may hold anything, as a JSON schema: bounded in bytes and in depth. A $ref may point into itself only."""
    if (size := len(memoryview(raw))) > max_bytes:
        raise InvalidInput(f"{name} has {size} bytes; at most {max_bytes} are read.", code="too_large", param=name)
    value: dict[str, Any] = decode(name, raw, dict[str, Any])
    level: list[Any] = [value]
    for _ in range(max_depth):
        if any(_points_elsewhere(item) for item in level):
            raise InvalidInput(
                f"{name} holds a $ref that does not begin with '#': nothing is fetched.", code="bad_ref", param=name
            )
        level = [child for item in level for child in _children(item)]
        if not level:
            return value
    raise InvalidInput(f"{name} is nested more than {max_depth} deep.", code="too_deep", param=name)


def _children(item: Any) -> list[Any]:
    inside = item.values() if isinstance(item, dict) else item
    return [child for child in inside if isinstance(child, dict | list)]


def _points_elsewhere(item: Any) -> bool:
    target = item.get("$ref") if isinstance(item, dict) else None
    return isinstance(target, str) and not target.startswith("#")

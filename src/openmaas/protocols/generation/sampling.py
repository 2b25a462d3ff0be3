"""The parameters of sampling, which all protocols name alike, with their bounds."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from openmaas.core.errors import InvalidInput
from openmaas.protocols.generation.body import Body, not_supported, out_of_range
from openmaas.protocols.generation.limits import Limits

SAMPLING: Final = (
    "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty", "seed", "stop",
    "n",
)  # fmt: skip
_LEAST_TOP_P: Final = 1e-6
_LEAST_TEMPERATURE: Final = 1e-4
_SEEDS: Final = 2**62 - 1
_VARIABLE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_TEMPLATE_OWN: Final = frozenset(
    ("messages", "tools", "documents", "chat_template", "add_generation_prompt", "continue_final_message", "tokenize")
)


def read_sampling(body: Body, limits: Limits) -> dict[str, Any]:
    """What Ask says of sampling, by its own names; only what came, but for `n`. Raises InvalidInput with the bounds."""
    temperature = body.number("temperature", 0, 2)
    top_p = body.number("top_p", 0, 1)
    top_k = body.whole("top_k", -1, 2**31 - 1)
    seed = body.whole("seed", -(2**63), 2**63 - 1)
    values = {
        # So near to 0 nothing but the likeliest token is left, and dividing by it leaves the range of numbers.
        "temperature": 0.0 if temperature is not None and temperature < _LEAST_TEMPERATURE else temperature,
        # Nothing but the likeliest token is what 0 means; engines want a share above it.
        "top_p": None if top_p is None else max(top_p, _LEAST_TOP_P),
        "top_k": None if top_k is None else max(top_k, 0),  # some write -1 for all tokens
        "min_p": body.number("min_p", 0, 1),
        "presence_penalty": body.number("presence_penalty", -2, 2),
        "frequency_penalty": body.number("frequency_penalty", -2, 2),
        "repetition_penalty": body.number("repetition_penalty", 0.01, 2),
        # Any number names a stream of random numbers; engines want it positive, with room for those of the answers after it.
        "seed": None if seed is None else seed & _SEEDS,
    }
    found: dict[str, Any] = {name: value for name, value in values.items() if value is not None}
    return found | {"n": body.whole("n", 1, limits.max_n) or 1, "stop": _stop(body, limits)}


def _stop(body: Body, limits: Limits) -> tuple[str, ...]:
    came: str | list[str] | None = body.take("stop", str | list[str])
    texts = [came] if isinstance(came, str) else came or []
    if len(texts) > limits.max_stop:
        raise out_of_range("stop", f"a list of {len(texts)}", f"one of at most {limits.max_stop}")
    if any(not 1 <= len(text) <= limits.max_stop_length for text in texts):
        raise InvalidInput(
            f"stop holds a text that is empty or has more than {limits.max_stop_length} characters.",
            code="out_of_range",
            param="stop",
        )
    return tuple(dict.fromkeys(texts))


def read_variables(body: Body, limits: Limits) -> dict[str, Any]:
    """chat_template_kwargs: plain values for the model's own template."""
    name = "chat_template_kwargs"
    came: dict[str, Any] = body.take(name, dict[str, str | int | float | bool | None]) or {}
    if len(came) > limits.max_variables:
        raise out_of_range(name, f"an object of {len(came)}", f"one of at most {limits.max_variables}")
    for variable, value in came.items():
        if variable in _TEMPLATE_OWN:
            raise not_supported(f"{name}.{variable}", "it is given to the template by the request and the model")
        if not _VARIABLE.fullmatch(variable):
            raise InvalidInput(f"{name}: {variable[:80]!r} is not a name.", code="invalid_parameter", param=name)
        if isinstance(value, str) and len(value) > limits.max_text:
            raise InvalidInput(
                f"{name}.{variable} has more than {limits.max_text} characters.",
                code="out_of_range",
                param=f"{name}.{variable}",
            )
    return came


class _StreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


def read_include_usage(body: Body, *, stream: bool) -> bool:
    """Of stream_options, which belong to streams only."""
    options: _StreamOptions | None = body.take("stream_options", _StreamOptions)
    if options is None:
        return False
    if not stream:
        raise InvalidInput("stream_options needs stream true.", code="invalid_parameter", param="stream_options")
    if options.include_obfuscation:
        raise not_supported("stream_options.include_obfuscation", "chunks are as long as what they carry")
    return bool(options.include_usage)

"""Every parameter: its bounds, what is accepted on purpose, and what is refused by name."""

from __future__ import annotations

import inspect
from typing import Any

import msgspec
import pytest

from openmaas.core.errors import TooLarge
from openmaas.protocols.generation.parameters import ACCEPTED, REFUSED
from openmaas.protocols.openai import LIMITS, Limits, decode_ask
from tests.unit.protocols.openai.asks import MINIMAL, ask, client, refused, sampled

GENERATING = tuple(MINIMAL)
NUMBERS = [
    ("temperature", 0, 2, -0.01, 2.01),
    ("top_p", 0.1, 1, -0.1, 1.1),
    ("top_k", 0, 2**31 - 1, -2, 2**31),
    ("min_p", 0, 1, -0.1, 1.1),
    ("presence_penalty", -2, 2, -2.1, 2.1),
    ("frequency_penalty", -2, 2, -2.1, 2.1),
    ("repetition_penalty", 0.01, 2, 0, 2.1),
    ("seed", 0, 2**62 - 1, -(2**63) - 1, 2**63),
]
TOKENS = {"responses": "max_output_tokens"}


@pytest.mark.parametrize("operation", GENERATING)
@pytest.mark.parametrize(("name", "low", "high", "below", "above"), NUMBERS)
def test_numbers_have_bounds(operation: str, name: str, low: float, high: float, below: float, above: float) -> None:
    for good in (low, high):
        assert getattr(sampled(operation, **{name: good}), name) == good
    for bad in (below, above, "1", True, [1], {}):
        error = refused(lambda bad=bad: sampled(operation, **{name: bad}))  # type: ignore[misc]
        assert error.param == name
        assert name in error.message


@pytest.mark.parametrize("operation", GENERATING)
def test_what_is_left_out_or_null_is_left_open(operation: str) -> None:
    names = [name for name, *_ in NUMBERS]
    for made in (sampled(operation), sampled(operation, **dict.fromkeys(names))):
        assert [getattr(made, name) for name in names] == [None] * len(names)
        assert not set(names) & made.given


def test_forms_that_mean_the_same() -> None:
    assert ask("chat", top_k=-1).top_k == 0
    assert 0 < (ask("chat", top_p=0).top_p or 0) < 1e-5
    assert [ask("chat", temperature=one).temperature for one in (0, 1e-300, 0.01)] == [0, 0, 0.01]
    assert ask("chat", stop="x").stop == ask("chat", stop=["x", "x"]).stop == ("x",)
    assert ask("chat", seed=-5).seed == ask("chat", seed=-5).seed != ask("chat", seed=-6).seed
    assert all(0 <= (ask("chat", seed=seed).seed or 0) < 2**62 for seed in (-(2**63), -1, 2**63 - 1))
    assert ask("chat", temperature=1).given == {"model", "messages", "temperature"}


@pytest.mark.parametrize("operation", GENERATING)
def test_max_tokens(operation: str) -> None:
    name = TOKENS.get(operation, "max_tokens")
    assert sampled(operation, **{name: 1}).max_tokens == 1
    assert sampled(operation, **{name: LIMITS.max_tokens}).max_tokens == LIMITS.max_tokens
    for bad in (0, LIMITS.max_tokens + 1, 2**70, 1.5, "1"):
        assert refused(lambda bad=bad: sampled(operation, **{name: bad})).param == name  # type: ignore[misc]


def test_what_stands_for_max_tokens_that_are_left_out() -> None:
    assert [ask(operation).max_tokens for operation in GENERATING] == [None, 16, None, None, None]


def test_the_two_names_of_max_tokens_in_chats() -> None:
    assert ask("chat", max_tokens=5).max_tokens == ask("chat", max_completion_tokens=5).max_tokens == 5
    assert ask("chat", max_tokens=5, max_completion_tokens=5).max_tokens == 5
    assert refused(lambda: ask("chat", max_tokens=5, max_completion_tokens=6)).param == "max_completion_tokens"


@pytest.mark.parametrize("operation", [name for name in GENERATING if name != "responses"])
def test_n(operation: str) -> None:
    assert sampled(operation).n == 1
    assert sampled(operation, n=16).n == 16
    for bad in (0, -1, 17, 10**9, 1.0, "2"):
        assert refused(lambda bad=bad: sampled(operation, n=bad)).param == "n"  # type: ignore[misc]


@pytest.mark.parametrize("operation", GENERATING)
def test_stop(operation: str) -> None:
    assert sampled(operation, stop=["x" * 256] * 16).stop == ("x" * 256,)
    assert sampled(operation, stop=[]).stop == ()
    for bad in ("", [""], ["x" * 257], ["x"] * 17, 5, [5], {}):
        param = refused(lambda bad=bad: sampled(operation, stop=bad)).param  # type: ignore[misc]
        assert (param or "").startswith("stop")


def test_streams_and_their_options() -> None:
    for operation in ("chat", "completions"):
        assert not ask(operation).stream
        made = ask(operation, stream=True, stream_options={"include_usage": True, "include_obfuscation": False})
        assert (made.stream, made.include_usage) == (True, True)
        assert not ask(operation, stream=True).include_usage
    for bad in ({"stream_options": {"include_usage": True}}, {"stream": True, "stream_options": {"usage": True}}):
        assert refused(lambda bad=bad: ask("chat", **bad)).param == "stream_options"  # type: ignore[misc]
    error = refused(lambda: ask("responses", stream=True, stream_options={"include_obfuscation": True}))
    assert error.param == "stream_options.include_obfuscation"
    assert refused(lambda: ask("chat", stream="yes")).param == "stream"


def test_logprobs_of_chats() -> None:
    assert [ask("chat").logprobs, ask("chat", logprobs=False).logprobs, ask("chat", logprobs=True).logprobs] == [-1, -1, 0]
    assert ask("chat", logprobs=True, top_logprobs=20).logprobs == 20
    for bad in ({"logprobs": True, "top_logprobs": 21}, {"logprobs": True, "top_logprobs": -1}, {"top_logprobs": 3}):
        assert refused(lambda bad=bad: ask("chat", **bad)).param == "top_logprobs"  # type: ignore[misc]
    assert refused(lambda: ask("chat", logprobs=3)).param == "logprobs"


def test_logprobs_and_echo_of_completions() -> None:
    assert [ask("completions", logprobs=count).logprobs for count in (None, 0, 5)] == [-1, 0, 5]
    for bad in (-1, 6, True):
        assert refused(lambda bad=bad: ask("completions", logprobs=bad)).param == "logprobs"  # type: ignore[misc]
    assert ask("completions", echo=True).echo
    assert refused(lambda: ask("completions", echo=True, logprobs=1)).param == "echo"


def test_best_of_is_n() -> None:
    assert ask("completions", n=3, best_of=3).n == 3
    assert ask("completions", best_of=1).n == 1
    assert refused(lambda: ask("completions", n=2, best_of=3)).param == "best_of"


def test_variables_of_the_template() -> None:
    variables = {"enable_thinking": False, "level": 3, "date": "today", "none": None, "share": 0.5}
    assert ask("chat", chat_template_kwargs=variables).template_variables == variables
    for bad in (
        {"chat_template": "{{ 1 }}"}, {"messages": "x"}, {"add_generation_prompt": False}, {"a": [1]}, {"a": {}}, {"a b": 1},
        {"_a": 1}, {"a": "x" * 513}, {f"a{n}": 1 for n in range(17)}, [], "x",
    ):  # fmt: skip
        param = refused(lambda bad=bad: ask("chat", chat_template_kwargs=bad)).param  # type: ignore[misc]
        assert (param or "").startswith("chat_template_kwargs")


# ── the two tables ───────────────────────────────────────────────────────────────────────────────────────────────────

GOOD: dict[str, Any] = {
    "include": [], "logit_bias": {}, "max_tool_calls": 3, "metadata": {"a": "b"}, "modalities": ["text"], "suffix": "",
    "top_logprobs": 0, "parallel_tool_calls": True, "store": False, "background": False,
}  # fmt: skip
BAD: dict[str, Any] = {
    "background": True, "include": ["message.output_text.logprobs"], "logit_bias": {"50": 1}, "metadata": {"a": 1},
    "max_tool_calls": "x", "modalities": ["text", "audio"], "parallel_tool_calls": False, "prompt_cache_key": 5,
    "prompt_cache_retention": "24h", "safety_identifier": {}, "service_tier": "priority", "store": True, "suffix": "end",
    "top_logprobs": 2, "truncation": "auto", "user": 7, "verbosity": "low", "model": ["writer"],
}  # fmt: skip
ACCEPTING = [(name, where) for name, entry in ACCEPTED.items() for where in entry.operations if where in MINIMAL]


@pytest.mark.parametrize(("name", "operation"), ACCEPTING)
def test_what_is_accepted_changes_nothing(name: str, operation: str) -> None:
    entry = ACCEPTED[name]
    good = GOOD.get(name, entry.only[0] if entry.only else "x")
    with_it, without = ask(operation, **{name: good}), ask(operation)
    with_it.given = without.given = frozenset()
    with_it.repeated = without.repeated = {}
    assert with_it == without
    error = refused(lambda: ask(operation, **{name: BAD[name]}))
    assert (error.param or "").startswith(name)


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("operation", GENERATING)
def test_what_is_refused_is_refused_by_name(name: str, operation: str) -> None:
    if (operation, name) == ("completions", "prompt"):
        assert ask(operation, prompt="x").prompts == ["x"]
        return
    assert ask(operation, **{name: None})
    error = refused(lambda: ask(operation, **{name: {"a": 1}}))
    assert (error.param, error.code) == (name, "parameter_not_supported")
    assert REFUSED[name] in error.message


@pytest.mark.parametrize("operation", ["chat", "completions", "responses"])
def test_nothing_that_the_client_can_send_is_unknown(operation: str) -> None:
    with client(b"") as caller:
        methods = {"chat": caller.chat.completions.create, "completions": caller.completions.create}
        names = inspect.signature(methods.get(operation, caller.responses.create)).parameters
    known = [name for name in names if name != "timeout" and not name.startswith("extra_")]
    assert len(known) > 15
    for name in known:
        assert ask(operation, **({} if name in MINIMAL[operation] else {name: None}))


def test_a_typo_is_told_what_was_meant() -> None:
    error = refused(lambda: ask("chat", temprature=1))
    assert (error.param, error.code, error.next_step) == ("temprature", "unknown_parameter", "Did you mean 'temperature'?")
    assert refused(lambda: ask("chat", **{"x`" * 1000: 1})).code == "unknown_parameter"


# ── bodies ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("operation", GENERATING)
@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b"7", b'"x"', b"{}x", b"\xef\xbb\xbf{}", b'{"a":NaN}', b'{"\xff":1}', b"[" * 100_000,
        b'{"messages":' + b"[" * 100_000, b'{"messages":[{"role":"user","content":"\\ud800"}]}',
        b'{"messages":[{"role":"user","content":"\xff"}]}', b'{"prompt":"\xff"}', b'{"temperature":1e999,"prompt":"x"}',
        b'{"temperature":NaN,"prompt":"x"}', b'{"temperature":Infinity,"prompt":"x"}',
    ],
)  # fmt: skip
def test_broken_bodies(operation: Any, body: bytes) -> None:
    refused(lambda: decode_ask(operation, body))


@pytest.mark.parametrize("operation", GENERATING)
def test_bodies_have_a_size(operation: Any) -> None:
    body = msgspec.json.encode(MINIMAL[operation])
    assert decode_ask(operation, body, Limits(max_body=len(body)))
    with pytest.raises(TooLarge):
        decode_ask(operation, body, Limits(max_body=len(body) - 1))


def test_only_operations_that_generate_are_asked_for() -> None:
    assert refused(lambda: decode_ask("infer", b"{}")).code == "unknown_operation"


@pytest.mark.parametrize("operation", GENERATING)
def test_what_is_needed(operation: Any) -> None:
    needed = {"chat": "messages", "completions": "prompt", "responses": "input"}.get(operation, "text_input")
    for body in (b"{}", msgspec.json.encode({needed: None})):
        error = refused(lambda body=body: decode_ask(operation, body))  # type: ignore[misc]
        assert (error.param, error.code) == (needed, "missing_parameter")

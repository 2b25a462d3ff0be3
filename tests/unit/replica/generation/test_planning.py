"""What the engine is asked for: the request's own wishes, then the model's, then none."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from openmaas.core.errors import InvalidInput
from openmaas.core.generation import GenerationRequest, Grammar
from openmaas.protocols.generation import Ask
from openmaas.replica.generation.planning import DEFAULT_TOKENS, MAX_TOKENS, Planner
from tests.unit.replica.generation.writer import generator

PROMPT = [1, 2, 3]


def plan(
    ask: Ask, *prompts: list[int], honours: Any = (), grammar: Grammar | None = None, **fields: Any
) -> list[GenerationRequest]:
    planner = Planner(generator(**fields), "engine", frozenset(honours))
    planner.check(ask)
    return planner.plan(ask, prompts or [PROMPT], count(1), "salt", grammar)


def test_what_nobody_says() -> None:
    (one,) = plan(Ask())
    sampling = one.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.logprobs) == (1.0, 1.0, 0, -1)
    assert (one.max_tokens, one.end, one.salt) == (509, (256,), "salt")
    assert len({plan(Ask())[0].sampling.seed for _ in range(8)}) > 1


def test_the_model_s_defaults_stand_behind_the_request_s_wishes() -> None:
    defaults = {"temperature": 0.6, "top_k": 20.0, "repetition_penalty": 1.1}
    (one,) = plan(Ask(temperature=0.0, seed=5), defaults=defaults, honours=["repetition_penalty"])
    assert (one.sampling.temperature, one.sampling.top_k, one.sampling.repetition_penalty) == (0.0, 20, 1.1)
    assert isinstance(one.sampling.top_k, int)


def test_defaults_that_the_engine_cannot_follow_are_told() -> None:
    planner = Planner(generator(defaults={"temperature": 0.6, "min_p": 0.1}), "engine", frozenset())
    assert planner.defaults == {"temperature": 0.6}
    assert planner.ignored == {"min_p": 0.1}


def test_n_answers_to_each_prompt() -> None:
    requests = plan(Ask(n=2, seed=7, max_tokens=4), [1], [2])
    assert [(one.id, one.prompt, one.sampling.seed) for one in requests] == [(1, [1], 7), (2, [1], 8), (3, [2], 7), (4, [2], 8)]


def test_a_long_context_is_not_used_up_by_default() -> None:
    assert plan(Ask(), context=1_000_000)[0].max_tokens == DEFAULT_TOKENS
    assert plan(Ask(max_tokens=900_000), context=1_000_000)[0].max_tokens == 900_000
    with pytest.raises(InvalidInput, match=f"may have 1800000 tokens .* a request may ask for {MAX_TOKENS}"):
        plan(Ask(max_tokens=900_000, n=2), context=1_000_000)
    honours = ["logprobs", "top_logprobs"]
    with pytest.raises(InvalidInput, match=f"80000 tokens with 20 probabilities .* ask for {MAX_TOKENS}, and .* 1680000"):
        plan(Ask(max_tokens=5_000, n=16, logprobs=20), context=10_000, honours=honours)
    assert len(plan(Ask(max_tokens=3_000, n=16, logprobs=20), context=10_000, honours=honours)) == 16


@pytest.mark.parametrize(("length", "wanted", "left"), [(500, 13, 12), (512, None, 0), (600, 1, 0)])
def test_the_context(length: int, wanted: int | None, left: int) -> None:
    with pytest.raises(InvalidInput) as caught:
        plan(Ask(max_tokens=wanted), [1] * length)
    assert caught.value.code == "context_length_exceeded"
    assert f"context is 512 tokens. The prompt has {length} and its answer may have {wanted or 1}" in caught.value.message
    assert (f"at most {left}" if left else "less than 512") in (caught.value.next_step or "")


def test_prompts_without_or_with_impossible_tokens() -> None:
    with pytest.raises(InvalidInput, match="not a single token"):
        plan(Ask(), [])
    for wrong in (-1, 257):
        with pytest.raises(InvalidInput, match=f"{wrong} is no token id"):
            plan(Ask(), [1, wrong])


@pytest.mark.parametrize(
    ("ask", "name"),
    [
        (Ask(min_p=0.1), "min_p"),
        (Ask(repetition_penalty=0.9), "repetition_penalty"),
        (Ask(logprobs=0), "logprobs"),
        (Ask(logprobs=2, given=frozenset({"top_logprobs"})), "logprobs"),
        (Ask(schema="{}"), "response_format"),
        (Ask(schema="{}", given=frozenset({"text"})), "text"),
        (Ask(tools=[{}], tool_choice="required"), "tool_choice"),
        (Ask(tools=[{}], tool_choice="look"), "tool_choice"),
    ],
)
def test_what_an_engine_without_talents_refuses(ask: Ask, name: str) -> None:
    with pytest.raises(InvalidInput, match=f"engine cannot do '{name}'") as caught:
        plan(ask)
    assert caught.value.param == name


def test_what_every_engine_does() -> None:
    asked = Ask(temperature=0.5, top_p=0.9, top_k=3, seed=1, min_p=0.0, presence_penalty=0.0, repetition_penalty=1.0)
    assert plan(asked)[0].sampling.top_p == 0.9
    assert plan(Ask(tools=[{}], tool_choice="auto"))
    with pytest.raises(InvalidInput, match="cannot do 'top_logprobs'"):
        plan(Ask(logprobs=2, given=frozenset({"top_logprobs"})), honours=["logprobs"])


def test_the_grammar_goes_with_each() -> None:
    grammar = Grammar(schema="{}")
    assert [one.sampling.grammar for one in plan(Ask(n=2, schema="{}"), honours=["grammar"], grammar=grammar)] == [grammar] * 2

"""The fake that generates keeps what GenerationEngine promises."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from openmaas.core.errors import EngineFailed, Unavailable
from openmaas.core.generation import GenerationRequest, Progress, Sampling
from openmaas.core.manifest import Manifest
from openmaas.engines import EngineSpec, create_engine
from openmaas.engines.dummy_generator import DummyGenerator
from tests.unit.protocols.bodies import signature

END = 9


def engine(**options: Any) -> DummyGenerator:
    made = create_engine("dummy-generator")
    assert isinstance(made, DummyGenerator)
    manifest = Manifest(format="dummy", engine="dummy-generator", entry="", signature=signature(), files=(), options=options)
    made.load(EngineSpec(folder=Path("/nonexistent"), manifest=manifest))
    return made


def request(
    number: int = 1, prompt: Any = (1, 2, 3), max_tokens: int = 5, salt: str = "", **sampling: Any
) -> GenerationRequest:
    sampling = {"seed": 0, "temperature": 0.0} | sampling
    return GenerationRequest(
        id=number, prompt=list(prompt), max_tokens=max_tokens, end=(END,), sampling=Sampling(**sampling), salt=salt
    )


def run(one: DummyGenerator, *requests: GenerationRequest) -> dict[int, list[Progress]]:
    for wanted in requests:
        one.admit(wanted)
    given: dict[int, list[Progress]] = {}
    while one.busy:
        for progress in one.step():
            given.setdefault(progress.id, []).append(progress)
    return given


def tokens(given: list[Progress]) -> list[int]:
    return [token for progress in given for token in progress.tokens]


def test_the_prompt_round_and_round_without_what_would_end_it() -> None:
    given = run(engine(), request(1, (1, END, 2), 5), request(2, (7,), 2))
    assert tokens(given[1]) == [1, 2, 1, 2, 1]
    assert [progress.finish for progress in given[1]] == ["", "", "", "", "length"]
    assert tokens(given[2]) == [7, 7]


def test_a_seed_shifts_it_unless_the_likeliest_is_asked_for() -> None:
    given = run(engine(), request(1, seed=2, temperature=1.0), request(2, seed=2))
    assert tokens(given[1]) == [3, 1, 2, 3, 1]
    assert tokens(given[2]) == [1, 2, 3, 1, 2]


def test_its_own_text_ends_by_itself() -> None:
    given = run(engine(text=[4, 5], burst=2), request(1), request(2, max_tokens=1))
    assert [(progress.tokens, progress.finish) for progress in given[1]] == [([4, 5], ""), ([END], "stop")]
    assert [(progress.tokens, progress.finish) for progress in given[2]] == [([4], "length")]


def test_slots_and_cache_bound_what_runs() -> None:
    one = engine(slots=2, cache_tokens=20)
    for number in range(4):
        one.admit(request(number))
    one.step()
    load = one.load_now()
    assert (load.running, load.waiting, load.cache) == (2, 2, 16 / 20)
    one.cancel(0)
    one.cancel(3)
    one.cancel(77)
    assert {progress.id for progress in one.step()} == {1, 2}
    with pytest.raises(Unavailable, match="need 21 tokens of cache; it holds 20"):
        one.admit(request(9, max_tokens=18))
    while one.busy:
        one.step()
    assert one.load_now().cache == 0


def test_a_prefix_that_was_there_is_shared_within_its_salt_only() -> None:
    one = engine()
    cached = [
        run(one, request(number, prompt, salt=salt))[number][0].cached
        for number, (prompt, salt) in enumerate([((1, 2, 3), "a"), ((1, 2, 3), "a"), ((1, 2, 8, 7), "a"), ((1, 2, 8, 7), "b")])
    ]
    assert cached == [0, 2, 2, 0]


def test_logprobs_where_they_are_asked_for() -> None:
    given = run(engine(), request(1, max_tokens=1, logprobs=2), request(2, max_tokens=1, logprobs=0), request(3, max_tokens=1))
    (found,) = given[1][0].logprobs or ()
    assert found.logprob == found.top[0][1]
    assert [token for token, _ in found.top] == [1, 0]
    assert [len(one.top) for one in given[2][0].logprobs or ()] == [0]
    assert given[3][0].logprobs is None


def test_delays_are_kept() -> None:
    begun = time.monotonic()
    run(engine(token_delay=0.002, prefill_delay=0.01), request())
    assert time.monotonic() - begun >= 5 * 0.002 + 3 * 0.01


def test_it_fails_where_it_is_told_to() -> None:
    one = engine(fail_at=3)
    one.admit(request())
    one.step()
    one.step()
    with pytest.raises(RuntimeError, match="fails at token 3"):
        one.step()
    with pytest.raises(EngineFailed, match="no such luck"):
        engine(fail_load="no such luck")


def test_it_honours_what_its_options_say() -> None:
    assert engine(honours=["min_p"]).honours == {"min_p"}
    assert "grammar" in engine().honours

"""What every engine that generates text promises, as tests: a subclass gives the engine, and what its model can bear."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from openmaas.core.errors import InvalidInput, OpenMaaSError
from openmaas.core.generation import GenerationRequest, Grammar, Progress, Sampling
from openmaas.engines.base import GenerationEngine

GREEDY = Sampling(seed=0, temperature=0.0)


class Run:
    """Drives an engine as the replica's loop does, and holds every promise about progress to each step."""

    def __init__(self, engine: GenerationEngine) -> None:
        self.engine = engine
        self.tokens: dict[int, list[int]] = {}
        self.logprobs: dict[int, list[float]] = {}
        self.finish: dict[int, str] = {}
        self.errors: dict[int, OpenMaaSError] = {}
        self.steps = 0

    def admit(self, *requests: GenerationRequest) -> None:
        for request in requests:
            self.tokens[request.id] = []
            self.logprobs[request.id] = []
            self.engine.admit(request)

    def step(self) -> list[Progress]:
        self.steps += 1
        progresses = self.engine.step()
        for progress in progresses:
            assert progress.id in self.tokens
            assert progress.id not in self.finish and progress.id not in self.errors, "it had ended"
            assert not (progress.finish and progress.error)
            self.tokens[progress.id] += progress.tokens
            if progress.logprobs is not None:
                assert len(progress.logprobs) == len(progress.tokens)
                self.logprobs[progress.id] += [entry.logprob for entry in progress.logprobs]
            if progress.finish:
                self.finish[progress.id] = progress.finish
            if progress.error:
                self.errors[progress.id] = progress.error
        return progresses

    def until(self, ended: Iterable[int], seconds: float = 90.0) -> None:
        deadline, wanted = time.monotonic() + seconds, list(ended)
        while not all(each in self.finish or each in self.errors for each in wanted):
            assert time.monotonic() < deadline and self.engine.busy, "requests hang"
            self.step()

    def all(self, *requests: GenerationRequest) -> list[list[int]]:
        self.admit(*requests)
        self.until([request.id for request in requests])
        return [self.tokens[request.id] for request in requests]


class GenerationContract:
    """A subclass has a fixture `engine` (one loaded, the same for all tests), and ids that its model knows from 3 on."""

    vocabulary = 300
    context = 512
    _last_id = 0

    @pytest.fixture
    def run(self, engine: GenerationEngine) -> Iterable[Run]:
        run = Run(engine)
        yield run
        for request_id in run.tokens:
            engine.cancel(request_id)
        while engine.busy:
            engine.step()

    def prompt(self, length: int, seed: int = 0) -> list[int]:
        return [int(token) for token in np.random.default_rng(seed).integers(3, self.vocabulary, length)]

    def request(
        self, prompt: list[int] | None = None, max_tokens: int = 8, sampling: Sampling = GREEDY, **fields: Any
    ) -> GenerationRequest:
        GenerationContract._last_id += 1
        fields.setdefault("end", ())
        return GenerationRequest(
            id=GenerationContract._last_id,
            prompt=prompt or self.prompt(24),
            max_tokens=max_tokens,
            sampling=sampling,
            **fields,
        )

    def test_the_likeliest_token_is_the_same_each_time(self, run: Run) -> None:
        first, second = run.all(self.request()), run.all(self.request())
        assert first == second and len(first[0]) == 8
        assert set(run.finish.values()) == {"length"}

    def test_a_seed_repeats_and_another_does_not(self, run: Run) -> None:
        def drawn(seed: int) -> list[int]:
            return run.all(self.request(sampling=Sampling(seed=seed), max_tokens=16))[0]

        assert drawn(7) == drawn(7)
        assert drawn(7) != drawn(8)
        assert drawn(2**32 + 7) != drawn(7)

    def test_one_sampled_token_of_one_candidate_is_the_likeliest(self, run: Run) -> None:
        greedy, narrow, nucleus = run.all(
            self.request(),
            self.request(sampling=Sampling(seed=3, top_k=1)),
            self.request(sampling=Sampling(seed=3, top_p=1e-6)),
        )
        assert greedy == narrow == nucleus

    def test_ends_at_max_tokens(self, run: Run) -> None:
        requests = [self.request(max_tokens=length) for length in (1, 2, 17)]
        assert [len(tokens) for tokens in run.all(*requests)] == [1, 2, 17]
        assert {run.finish[request.id] for request in requests} == {"length"}

    def test_ends_at_the_context(self, run: Run) -> None:
        full = self.request(self.prompt(self.context - 3), max_tokens=3)
        assert len(run.all(full)[0]) == 3

    def test_an_end_token_ends_and_is_the_last(self, run: Run) -> None:
        free = run.all(self.request())[0]
        end = next(token for index, token in enumerate(free) if index and token not in free[:index])
        request = self.request(end=(end, self.vocabulary - 1))
        assert run.all(request)[0] == free[: free.index(end) + 1]
        assert run.finish[request.id] == "stop"

    def test_without_end_ids_the_models_own_do_not_end(self, run: Run) -> None:
        requests = [self.request(sampling=Sampling(seed=seed, temperature=2.0), max_tokens=100) for seed in range(4)]
        assert [len(tokens) for tokens in run.all(*requests)] == [100] * 4

    def test_requests_join_in_mid_flight(self, run: Run) -> None:
        first, second = self.request(max_tokens=40), self.request(self.prompt(40, 1), max_tokens=4)
        run.admit(first)
        while len(run.tokens[first.id]) < 5:
            run.step()
        run.admit(second)
        run.until([second.id])
        assert first.id not in run.finish  # the late one did not wait for the early one's end
        run.until([first.id])
        assert [len(run.tokens[request.id]) for request in (first, second)] == [40, 4]

    def test_company_changes_nothing(self, run: Run) -> None:
        prompts = [self.prompt(length, length) for length in (1, 2, 31, 32, 33, 64, 65, 130)]
        alone = [run.all(self.request(prompt, max_tokens=6))[0] for prompt in prompts]
        together = run.all(*(self.request(prompt, max_tokens=6) for prompt in prompts))
        assert together == alone

    @pytest.mark.parametrize("length", [1, 3, 37, 64])
    def test_conversations_that_fork_do_not_mix(self, run: Run, length: int) -> None:
        """Prompts that share a beginning, which ends anywhere in a cache's block, while it is in the cache or in use."""
        stem = self.prompt(length, 2)
        forks = [stem + self.prompt(more, more) for more in (1, 2, 3, 5, 11, 20, 27, 60)]
        alone = [run.all(self.request(prompt, salt=f"alone {index}"))[0] for index, prompt in enumerate(forks)]
        run.all(self.request(stem, max_tokens=1))
        assert run.all(*(self.request(prompt) for prompt in forks)) == alone
        runs_on = self.request(stem, max_tokens=60)
        run.admit(runs_on)
        run.step()
        assert run.all(*(self.request(prompt) for prompt in forks)) == alone

    def test_cancelled_at_any_moment_it_leaves_nothing_wrong(self, run: Run) -> None:
        prompt = self.prompt(300, 3)
        expected = run.all(self.request(prompt, salt="apart"))[0]
        for steps in range(5):
            request = self.request(prompt)
            run.admit(request)
            for _ in range(steps):
                run.step()
            run.engine.cancel(request.id)
            before = len(run.tokens[request.id])
            assert run.all(self.request(prompt))[0] == expected
            assert len(run.tokens[request.id]) == before, "a cancelled request went on"

    def test_cancel_frees_what_was_held(self, run: Run) -> None:
        for _ in range(20):
            requests = [self.request(self.prompt(100, seed), max_tokens=300) for seed in range(8)]
            run.admit(*requests)
            run.step()
            for request in requests:
                run.engine.cancel(request.id)
        deadline = time.monotonic() + 90
        while run.engine.busy:
            assert time.monotonic() < deadline
            run.step()
        load = run.engine.load_now()
        assert (load.running, load.waiting, load.cache) == (0, 0, 0.0)

    def test_cancelling_what_is_over_or_unknown_is_nothing(self, run: Run) -> None:
        request = self.request()
        run.all(request)
        run.engine.cancel(request.id)
        run.engine.cancel(10**9)
        assert not run.engine.busy
        assert run.engine.step() == []

    def test_load_tells_what_runs(self, run: Run) -> None:
        run.admit(*(self.request(max_tokens=30) for _ in range(3)))
        run.step()
        load = run.engine.load_now()
        assert load.running + load.waiting == 3 and load.running >= 1
        assert 0 < load.cache <= 1

    def test_another_salt_gives_the_same_answer(self, run: Run) -> None:
        prompt = self.prompt(200, 4)
        answers = [run.all(self.request(prompt, salt=salt))[0] for salt in ("", "a", "b", "a")]
        assert len(set(map(tuple, answers))) == 1

    def test_logprobs_are_of_the_chosen_tokens(self, run: Run) -> None:
        if "logprobs" not in run.engine.honours:
            pytest.skip("It does not know them.")
        request = self.request(sampling=Sampling(seed=0, temperature=0.0, logprobs=0))
        tokens = run.all(request)[0]
        logprobs = run.logprobs[request.id]
        assert len(logprobs) == len(tokens) and all(value <= 0 for value in logprobs)
        hot = self.request(sampling=Sampling(seed=0, temperature=0.0001, logprobs=0))
        assert run.all(hot)[0] == tokens
        # Of the model, before temperature: the sharp one's are no likelier.
        assert run.logprobs[hot.id] == pytest.approx(logprobs, abs=0.02)

    def test_a_penalty_keeps_from_repeating(self, run: Run) -> None:
        if "repetition_penalty" not in run.engine.honours:
            pytest.skip("It does not know them.")
        prompt = self.prompt(40, 5)
        plain = run.all(self.request(prompt, max_tokens=30))[0]
        harsh = Sampling(seed=0, temperature=0.0, repetition_penalty=50.0)
        tokens = run.all(self.request(prompt, max_tokens=30, sampling=harsh))[0]
        assert tokens != plain and len(set(tokens)) == 30
        assert run.all(self.request(prompt, max_tokens=30))[0] == plain

    def test_an_answer_follows_its_grammar(self, run: Run) -> None:
        import json

        if "grammar" not in run.engine.honours:
            pytest.skip("It does not know them.")
        schema = '{"type":"object","properties":{"a":{"enum":["x","y"]},"b":{"type":"boolean"}},"required":["a","b"],' + (
            '"additionalProperties":false}'
        )
        grammars = Grammar(schema=schema), Grammar(schema=schema, before="<call>", after="</call>")
        requests = [self.request(max_tokens=60, sampling=Sampling(seed=1, grammar=grammar), end=(2,)) for grammar in grammars]
        plain = self.request(max_tokens=10)
        run.all(*requests, plain)
        assert [run.finish[request.id] for request in requests] == ["stop", "stop"]
        bare, wrapped = (self.text(run.tokens[request.id][:-1]) for request in requests)
        assert json.loads(bare).keys() == {"a", "b"}
        assert wrapped.startswith("<call>") and wrapped.endswith("</call>")
        assert json.loads(wrapped[6:-7]).keys() == {"a", "b"}

    def test_a_grammar_that_does_not_compile_hurts_nobody(self, run: Run) -> None:
        if "grammar" not in run.engine.honours:
            pytest.skip("It does not know them.")
        other = self.request(max_tokens=20)
        run.admit(other)
        run.step()
        for schema in ("{", '{"$ref": "#/nowhere"}', '{"type": "nonsense"}'):
            request = self.request(sampling=Sampling(seed=0, grammar=Grammar(schema=schema)), end=(2,))
            with pytest.raises(InvalidInput):
                run.admit(request)
                run.until([request.id])
                raise run.errors[request.id]
        run.until([other.id])
        assert len(run.tokens[other.id]) == 20

    def text(self, tokens: list[int]) -> str:
        raise NotImplementedError

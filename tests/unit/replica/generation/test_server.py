"""A replica that generates, behind a real link: whole answers, streams, and what ends them early."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from typing import Any

import pytest

from openmaas.core.errors import DeadlineExceeded, EngineFailed, InvalidInput, Unavailable
from openmaas.core.generation import GenerationRequest
from openmaas.engines.dummy_generator import DummyGenerator
from openmaas.protocols.generation import Usage
from openmaas.replica.generation.generation import Generation
from tests.unit.replica.generation.writer import generator, head, ids, writer

CHAT = {"messages": [{"role": "user", "content": "hi"}], "temperature": 0}


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_whole_answer_and_its_usage() -> None:
    async with writer() as one:
        head, answer = await one.call("completions", {"prompt": "abc", "temperature": 0, "max_tokens": 5})
        assert (head.status, head.content_type) == (200, "application/json")
        assert head.timing is not None and head.timing.rows == 1
        (choice,) = answer["choices"]
        assert (choice["text"], choice["finish_reason"]) == ("abcab", "length")
        assert {name: answer["usage"][name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")} == {
            "prompt_tokens": 3,
            "completion_tokens": 5,
            "total_tokens": 8,
        }
        assert (answer["model"], (await one.health()).answered) == ("w", 1)


async def test_the_end_token_is_counted_and_not_read() -> None:
    async with writer(text=ids("done")) as one:
        answer = await one.complete("x", max_tokens=50)
        assert (answer["choices"][0]["text"], answer["choices"][0]["finish_reason"]) == ("done", "stop")
        assert answer["usage"]["completion_tokens"] == 5


async def test_a_conversation_goes_through_the_template() -> None:
    async with writer(declared=generator(chat_template="chat_template.jinja")) as one:
        _, answer = await one.call("chat", CHAT | {"max_tokens": 9})
        assert answer["choices"][0]["message"]["content"] == "user: hi\n"
        events = [event async for event in one.stream("chat", CHAT | {"max_tokens": 9})]
        assert "".join(event["choices"][0]["delta"].get("content") or "" for event in events) == "user: hi\n"
        assert events[-1]["choices"][0]["finish_reason"] == "length"
        assert (await one.call("tokenize", {"messages": CHAT["messages"]}))[1]["tokens"] == ids("user: hi\n")
        with_tools = CHAT | {"tools": [{"type": "function", "function": {"name": "look"}}]}
        with pytest.raises(InvalidInput, match="knows no tools") as caught:
            await one.call("chat", with_tools)
        assert caught.value.param == "tools"
        assert (await one.call("chat", with_tools | {"tool_choice": "none"}))[0].status == 200


async def test_a_conversation_without_a_template_is_refused() -> None:
    async with writer() as one:
        with pytest.raises(InvalidInput, match="no chat template") as caught:
            await one.call("chat", CHAT)
        assert caught.value.code == "no_chat_template"


async def test_a_stream_gives_whole_characters_in_their_order_and_its_usage() -> None:
    async with writer(text=ids("é🙂好")) as one:
        content = {"prompt": "x", "max_tokens": 20, "stream_options": {"include_usage": True}}
        events = [event async for event in one.stream("completions", content)]
        texts = [event["choices"][0]["text"] for event in events if event["choices"] and event["choices"][0]["text"]]
        assert texts == ["é", "🙂", "好"]
        assert events[-1]["choices"] == []
        assert events[-1]["usage"]["completion_tokens"] == 10


async def test_what_one_step_gives_a_request_is_written_at_once() -> None:
    async with writer(token_delay=0.01, burst=3) as one:
        content = {"prompt": "abcdef", "max_tokens": 9, "n": 2, "temperature": 0, "stream": True, "model": "w"}
        chunks = [chunk async for chunk in one.link.stream(head("completions"), json.dumps(content).encode())]
        assert [chunk.count(b"data: ") for chunk in chunks] == [2, 2, 5]  # the last with two ends and [DONE]


async def test_n_answers_have_seeds_one_after_the_other() -> None:
    async with writer() as one:
        answer = await one.complete("abcd", max_tokens=3, n=3, temperature=1.0, seed=1)
        assert [choice["text"] for choice in answer["choices"]] == ["bcd", "cda", "dab"]
        assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
        assert (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) == (4, 9)
        assert await one.text("abcd", max_tokens=3, temperature=1.0, seed=2) == "cda"


async def test_several_prompts_of_texts_and_of_tokens() -> None:
    async with writer() as one:
        answer = await one.complete(["ab", "xyz"], max_tokens=2, n=2)
        assert [choice["text"] for choice in answer["choices"]] == ["ab", "ab", "xy", "xy"]
        assert answer["usage"]["prompt_tokens"] == 5
        assert await one.text([ids("ok")], max_tokens=2) == "ok"
        with pytest.raises(InvalidInput, match="257 is no token id of this model: it has 257"):
            await one.complete([257], max_tokens=2)


async def test_an_echo_begins_with_the_prompt() -> None:
    async with writer() as one:
        assert await one.text("abc", max_tokens=2, echo=True) == "abcab"
        assert await one.text(ids("abc"), max_tokens=2, echo=True) == "abcab"
        content = {"prompt": "abc", "max_tokens": 2, "echo": True, "temperature": 0}
        texts = [event["choices"][0]["text"] async for event in one.stream("completions", content)]
        assert "".join(texts) == "abcab"


async def test_a_stop_text_over_several_tokens_ends_it_and_the_engine_s_work() -> None:
    async with writer(token_delay=0.01) as one:
        answer = await one.complete("one two three ", max_tokens=400, stop=["e t", "nope"])
        assert (answer["choices"][0]["text"], answer["choices"][0]["finish_reason"]) == ("on", "stop")
        assert answer["usage"]["completion_tokens"] == 5
        await one.until(lambda: not one.server.engine.busy)
        assert (await one.statistics())["generation"]["generation_tokens"] <= 8
        assert await one.text("abc", max_tokens=4, stop="cad") == "abca"  # held back until it could not come any more


async def test_logprobs_are_of_the_tokens_that_are_read() -> None:
    async with writer(text=ids("é!")) as one:
        answer = await one.complete("x", max_tokens=20, logprobs=2)
        found = answer["choices"][0]["logprobs"]
        assert len(found["tokens"]) == len(found["token_logprobs"]) == 3
        assert found["token_logprobs"] == [-0.25] * 3
        events = [event async for event in one.stream("completions", {"prompt": "x", "max_tokens": 20, "logprobs": 0})]
        told = [event["choices"][0]["logprobs"] for event in events if event["choices"][0]["logprobs"]]
        # Both bytes of é come with it; a busy event loop joins it with what follows.
        assert [len(one_told["tokens"]) for one_told in told] in ([2, 1], [3])


async def test_prefixes_are_shared_within_a_project_only() -> None:
    async with writer() as one:
        cached = [
            (await one.complete("the same", max_tokens=1, project=project))["usage"]["prompt_tokens_details"]["cached_tokens"]
            for project in ("a", "a", "b")
        ]
        assert cached == [0, 7, 0]
        assert (await one.statistics())["generation"]["cached_tokens"] == 7


async def test_tokens_and_back() -> None:
    async with writer() as one:
        _, answer = await one.call("tokenize", {"prompt": "aé", "return_token_strs": True})
        assert answer["tokens"] == ids("aé")
        assert (answer["count"], answer["max_model_len"], len(answer["token_strs"])) == (3, 512, 3)
        assert (await one.call("detokenize", {"tokens": ids("aé")}))[1] == {"prompt": "aé"}


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_context_s_refusal_has_both_numbers() -> None:
    async with writer() as one:
        with pytest.raises(InvalidInput, match=r"is 512 tokens\. The prompt has 500 and its answer may have 13") as caught:
            await one.complete("x" * 500, max_tokens=13)
        assert caught.value.code == "context_length_exceeded"
        assert len(await one.text("x" * 500, max_tokens=12)) == 12
        with pytest.raises(InvalidInput, match=r"is 512 tokens\. The prompt has 512 and"):
            await one.complete("x" * 512)
        with pytest.raises(InvalidInput, match=r"is 512 tokens\. The prompt has at least 600"):
            await one.complete("x" * 3000)


async def test_of_a_text_that_is_far_too_long_the_beginning_is_tokenised() -> None:
    async with writer() as one:
        codec, seen = one.server._text.codec, []
        real = codec.encode

        def encode(text: str, *, special: bool = True) -> list[int]:
            seen.append(len(text))
            return real(text, special=special)

        codec.encode = encode  # type: ignore[method-assign]
        codec.least_tokens = lambda text: 1  # type: ignore[method-assign]
        with pytest.raises(InvalidInput, match="at least 1024"):
            await one.complete("x" * 500_000)
        assert seen == [2048]
        with pytest.raises(InvalidInput, match="at least 1024"):
            await one.call("tokenize", {"prompt": " " * 100 + "x" * 1024 + "y" * 400_000})
        codec.least_tokens = lambda text: 0  # type: ignore[method-assign]
        seen.clear()
        with pytest.raises(InvalidInput, match="The prompt has 5000 and"):
            await one.complete("x" * 5000)
        assert seen == [5000]


async def test_what_the_engine_cannot_do_is_refused_by_name() -> None:
    async with writer(honours=["logprobs"]) as one:
        for name, value in {"min_p": 0.1, "presence_penalty": 1, "frequency_penalty": -1, "repetition_penalty": 1.1}.items():
            with pytest.raises(InvalidInput, match=f"dummy-generator cannot do '{name}'") as caught:
                await one.complete("x", **{name: value})
            assert caught.value.param == name
        with pytest.raises(InvalidInput, match="cannot do 'response_format'"):
            await one.complete("x", response_format={"type": "json_object"})
        with pytest.raises(InvalidInput, match="cannot do 'logprobs'"):
            await one.complete("x", logprobs=1)
        assert await one.text("x", logprobs=0, presence_penalty=0, repetition_penalty=1, max_tokens=1) == "x"
        assert (await one.statistics())["generation"]["generation_tokens"] == 1


async def test_tensors_are_refused_with_the_routes_to_use() -> None:
    async with writer() as one:
        for operation in ("infer", "predict", "v1_predict"):
            with pytest.raises(InvalidInput, match="/v1/chat/completions") as caught:
                await one.call(operation, {})
            assert caught.value.code == "generates_text"
        with pytest.raises(InvalidInput, match="cannot do 'embeddings'"):
            await one.call("embeddings", {"input": "x"})
        assert (await one.call("metadata", {}))[1]["inputs"][0]["name"] == "text_input"
        assert (await one.call("config", {}))[1]["name"] == "w"


async def test_a_cache_that_can_never_hold_it() -> None:
    async with writer(cache_tokens=100) as one:
        with pytest.raises(Unavailable, match="it holds 100"):
            await one.complete("x", max_tokens=200)
        assert await one.text("x", max_tokens=2) == "xx"


async def test_a_full_line_is_said_at_once() -> None:
    async with writer(token_delay=0.01, max_batch=2, max_queue=3) as one:
        calls = [asyncio.create_task(one.text("x", max_tokens=60)) for _ in range(5)]
        while (await one.health()).queued < 3:
            await asyncio.sleep(0.005)
        begun = time.monotonic()
        with pytest.raises(Unavailable, match="3 requests wait already") as caught:
            await one.text("x")
        assert time.monotonic() - begun < 0.5
        assert (caught.value.code, (caught.value.retry_after or 0) >= 1) == ("queue_full", True)
        assert [len(text) for text in await asyncio.gather(*calls)] == [60] * 5
        statistics = await one.statistics()
        assert statistics["rejected"] == 1


async def test_who_wants_many_answers_holds_up_nobody() -> None:
    async with writer(token_delay=0.005, max_batch=1) as one:
        ended: list[str] = []

        async def ask(name: str, **content: Any) -> None:
            await one.text("x", max_tokens=4, **content)
            ended.append(name)

        many = asyncio.create_task(ask("many", n=16))
        await asyncio.sleep(0.01)
        await asyncio.gather(many, *(ask("single") for _ in range(3)))
        assert ended == ["single"] * 3 + ["many"]


# ── early ends ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_deadline_in_mid_stream_is_an_error_and_frees_the_engine() -> None:
    async with writer(token_delay=0.01) as one:
        seen = 0
        with pytest.raises(DeadlineExceeded, match=r"0\.4 s were over"):
            async for _ in one.stream("completions", {"prompt": "x", "max_tokens": 500}, timeout=0.4):
                seen += 1
        assert seen > 2
        await one.until(lambda: not one.server.engine.busy)
        assert (await one.health()).in_flight == 0
        with pytest.raises(DeadlineExceeded):
            await one.text("x", max_tokens=500, timeout=0.05)


async def test_one_that_waits_has_a_deadline_too() -> None:
    async with writer(token_delay=0.01, max_batch=1) as one:
        first = asyncio.create_task(one.text("x", max_tokens=100))
        await one.until(lambda: one.server.engine.busy)
        begun = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            await one.text("x", timeout=0.05)
        assert time.monotonic() - begun < 0.8
        assert len(await first) == 100
        assert (await one.statistics())["generation"]["generation_tokens"] == 100


async def test_a_caller_that_leaves_ends_its_work_within_a_token() -> None:
    async with writer(token_delay=0.2) as one:
        events = one.stream("completions", {"prompt": "x", "max_tokens": 500})
        async for _ in events:
            break
        await events.aclose()  # type: ignore[attr-defined]
        await one.until(lambda: not one.server.engine.busy)
        statistics = (await one.statistics())["generation"]
        assert statistics["generation_tokens"] <= 3
        assert statistics["finished"]["cancelled"] == 1
        assert (await one.health()).in_flight == 0


async def test_an_engine_that_breaks_ends_each_request_once_and_the_replica() -> None:
    async with writer(fail_at=10, token_delay=0.005, max_batch=2) as one:
        streamed = 0

        async def stream() -> None:
            nonlocal streamed
            async for _ in one.stream("completions", {"prompt": "x", "max_tokens": 50}):
                streamed += 1

        results = await asyncio.gather(
            stream(), one.text("x", max_tokens=60), one.text("x", max_tokens=60), return_exceptions=True
        )
        assert [type(result) for result in results] == [EngineFailed, EngineFailed, Unavailable]  # the third was waiting
        assert "the dummy fails at token 10" in str(results[0])
        assert streamed >= 8
        assert [type(error) for error in one.broken] == [EngineFailed]
        health = await one.health()
        assert (health.ready, health.in_flight) == (False, 0)
        with pytest.raises(Unavailable, match="stopping"):
            await one.text("x")


async def test_a_step_that_hangs_shows_while_deadlines_are_kept() -> None:
    class Hanging(DummyGenerator):
        def step(self) -> Any:
            time.sleep(0.5)
            return super().step()

    async with writer(Hanging()) as one:
        with pytest.raises(DeadlineExceeded):
            await one.text("x", timeout=0.2)
        health = await one.health()
        assert health.stalled >= 0.15
        assert health.in_flight == 0
        assert (await one.health()).ready


async def test_what_an_engine_does_not_take_fails_alone() -> None:
    class Choosy(DummyGenerator):
        def admit(self, request: GenerationRequest) -> None:
            if request.max_tokens == 7:
                raise ValueError("seven is no number for /home/me/engine")
            super().admit(request)

    async with writer(Choosy()) as one:
        good, bad = await asyncio.gather(one.text("ab", max_tokens=4), one.text("ab", max_tokens=7), return_exceptions=True)
        assert good == "abab"
        assert isinstance(bad, EngineFailed)
        assert "/home" not in str(bad)
        assert one.broken == []


async def test_closing_ends_what_runs() -> None:
    async with writer(token_delay=0.01) as one:
        running = asyncio.create_task(one.text("x", max_tokens=500))
        await asyncio.sleep(0.05)
        one.server.close()
        with pytest.raises(Unavailable, match="stopping"):
            await running


# ── the event loop ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_others_are_served_while_a_long_text_is_tokenised() -> None:
    async with writer(declared=generator(context=3_000_000)) as one:
        begun = time.monotonic()
        long = asyncio.create_task(one.text("lorem ipsum " * 40_000, max_tokens=1))
        slowest = 0.0
        while not long.done():
            sent = time.monotonic()
            await one.health()
            slowest = max(slowest, time.monotonic() - sent)
        await long
        assert slowest < 0.6 * (time.monotonic() - begun)


async def test_the_engine_does_not_wait_for_a_busy_event_loop() -> None:
    async with writer(token_delay=0.001, declared=generator(context=10_000)) as one:
        events = one.stream("completions", {"prompt": "abc", "max_tokens": 400, "temperature": 0})
        texts = [(await anext(events))["choices"][0]["text"]]
        before = one.server.scheduler.steps
        until = time.monotonic() + 60
        while one.server.scheduler.steps <= before + 40:  # it is the event loop that is held up
            assert time.monotonic() < until
            time.sleep(0.01)
        texts += [event["choices"][0]["text"] async for event in events]
        assert "".join(texts) == ("abc" * 134)[:400]
        assert len(texts) < 400 - 20  # what had piled up came together
        assert (await one.statistics())["generation"]["cache_usage"] == 0


async def test_what_is_tokenised_for_callers_who_left_is_bounded() -> None:
    async with writer(max_batch=1, max_queue=3, declared=generator(context=3_000_000)) as one:
        body = json.dumps({"model": "w", "prompt": "lorem ipsum " * 40_000}).encode()
        calls = [asyncio.create_task(one.link.call(head(operation), body)) for operation in ("completions", "tokenize") * 2]
        await one.until(lambda: len(one.server._tasks) == 4)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await one.until(lambda: one.server.scheduler.in_flight == 0)
        for operation in ("completions", "tokenize", "detokenize"):
            with pytest.raises(Unavailable, match="4 requests are being tokenised already") as caught:
                await one.call(operation, {"prompt": "x"})
            assert caught.value.code == "queue_full"
        for _ in range(600):
            if not one.server._tasks:
                break
            await asyncio.sleep(0.1)
        assert await one.text("ab", max_tokens=2) == "ab"


async def test_the_strings_of_many_tokens_hold_up_nobody() -> None:
    async with writer(declared=generator(context=3_000_000)) as one:
        codec = one.server._text.codec
        real, threads = codec.token, set()

        def token(token_id: int) -> tuple[str, bytes]:
            threads.add(threading.current_thread())
            return real(token_id)

        codec.token = token  # type: ignore[method-assign, assignment]
        _, answer = await one.call("tokenize", {"prompt": "x" * 5000, "return_token_strs": True})
        assert (answer["count"], answer["token_strs"]) == (5000, ["x"] * 5000)
        assert threading.current_thread() not in threads


async def test_nothing_is_tokenised_for_callers_who_left() -> None:
    async with writer(declared=generator(context=3_000_000)) as one:
        codec, turn = one.server._text.codec, threading.Event()
        real, seen = codec.encode, 0

        def encode(text: str, *, special: bool = True) -> list[int]:
            nonlocal seen
            seen += 1
            turn.wait(60)
            return real(text, special=special)

        codec.encode = encode  # type: ignore[method-assign]
        body = json.dumps({"model": "w", "prompt": "x" * 5000}).encode()
        calls = [asyncio.create_task(one.link.call(head(operation), body)) for operation in ("completions", "tokenize") * 20]
        await one.until(lambda: len(one.server._tasks) == 40)
        await one.until(lambda: seen == len(os.sched_getaffinity(0)))
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await one.health()  # it has read that they left
        turn.set()
        await one.until(lambda: not one.server._tasks)
        assert seen == len(os.sched_getaffinity(0))


async def test_an_answer_of_many_probabilities_is_written_beside_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    real, threads, turn = Generation._whole, [], threading.Event()

    def whole(generation: Generation, usage: Usage) -> tuple[bytes, str]:
        threads.append(threading.current_thread())
        if threads[-1] is not threading.main_thread():
            turn.wait(60)
        return real(generation, usage)

    monkeypatch.setattr(Generation, "_whole", whole)
    async with writer(declared=generator(context=10_000)) as one:
        few = await one.complete("abc", max_tokens=3, logprobs=5)
        assert (threads, len(few["choices"][0]["logprobs"]["tokens"])) == ([threading.main_thread()], 3)
        many = [asyncio.create_task(one.complete("abc", max_tokens=2000, logprobs=5)) for _ in range(2)]
        await one.until(lambda: len(threads) == 3)
        assert threading.main_thread() not in threads[1:]
        many[0].cancel()
        await one.until(lambda: one.server.scheduler.in_flight == 1)
        turn.set()
        assert len((await many[1])["choices"][0]["logprobs"]["tokens"]) == 2000
        statistics = await one.statistics()
        assert (statistics["inference_stats"]["success"]["count"], statistics["cancelled"]) == (2, 1)

"""Sequences of different lengths in one batch: whoever their neighbours are, everybody gets what he would have got alone."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openmaas.core.errors import DeadlineExceeded, EngineFailed
from openmaas.core.manifest import Manifest
from openmaas.core.processing import Padding
from openmaas.core.types import Signature, TensorSpec
from openmaas.engines import EngineSpec, Tensors
from openmaas.engines.dummy import DummyEngine
from openmaas.replica.batcher import Batcher
from openmaas.replica.sequences import slices
from openmaas.replica.waiting import Limits
from tests.unit.replica.test_batcher import Request

POISON = 13
IDS = TensorSpec(name="ids", datatype="INT64", shape=(-1, -1))
SIGNATURE = Signature(
    inputs=(IDS,),
    outputs=(
        TensorSpec(name="each", datatype="INT64", shape=(-1, -1)),
        TensorSpec(name="whole", datatype="INT64", shape=(-1, 1)),
    ),
)
POOLED = Padding(pad={"ids": 0})
TOKENS = Padding(pad={"ids": 0}, trim=("each",))


class Recording(DummyEngine):
    """Remembers the shapes of its calls. outputs: which of "each" and "whole" it has."""

    def __init__(self, *outputs: str, **options: Any) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []
        signature = Signature(inputs=SIGNATURE.inputs, outputs=tuple(o for o in SIGNATURE.outputs if o.name in outputs))
        manifest = Manifest(
            format="dummy",
            engine="dummy",
            entry="",
            signature=signature,
            files=(),
            batchable=True,
            options={"factor": 3, "poison": POISON, "pooled": ["whole"]} | options,
        )
        self.load(EngineSpec(folder=None, manifest=manifest))  # type: ignore[arg-type]  # the dummy reads no files

    def run(self, inputs: Tensors) -> Tensors:
        self.shapes.append(inputs["ids"].shape)
        answer = super().run(inputs)
        return answer if "each" in self._outputs else {"whole": answer["whole"]}


class Sentence(Request):
    __slots__ = ()

    def __init__(self, ids: Any, timeout: float = 30.0) -> None:
        super().__init__([[0.0]], timeout)
        self.inputs = {"ids": np.atleast_2d(np.asarray(ids, np.int64))}
        self.rows = len(self.inputs["ids"])

    async def outputs(self) -> Any:
        await asyncio.wait_for(self.finished.wait(), 60)
        (end,) = self.ends
        return end


@asynccontextmanager
async def batching(engine: DummyEngine, padding: Padding = POOLED, **options: Any) -> AsyncIterator[Batcher]:
    batcher = Batcher(engine.run, batchable=True, padding=padding, **options)
    try:
        yield batcher
    finally:
        batcher.close()
        batcher._thread.shutdown()


def sentence(length: int, *, first: int = 1) -> list[int]:
    return [first + n for n in range(length)]


async def answer_all(batcher: Batcher, works: list[Sentence]) -> list[Any]:
    for work in works:
        batcher.submit(work)
    return [await work.outputs() for work in works]


# ── what is joined ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_neighbours_in_length_share_a_call_and_get_their_own_answers() -> None:
    engine = Recording("whole")
    async with batching(engine) as batcher:
        works = [Sentence(sentence(length, first=20)) for length in (7, 8, 6, 8)]
        answers = await answer_all(batcher, works)
    assert engine.shapes == [(4, 8)]
    for work, answer in zip(works, answers, strict=True):
        ids = work.inputs["ids"]
        assert answer["whole"].tolist() == [[3 * int((ids * np.arange(1, ids.shape[1] + 1)).sum())]]
    assert (batcher.statistics.tokens, batcher.statistics.padding_tokens) == (29, 3)


async def test_outputs_along_the_sequence_are_cut_back() -> None:
    engine = Recording("each", "whole")
    async with batching(engine, TOKENS) as batcher:
        works = [Sentence(sentence(length, first=20)) for length in (5, 9, 7)]
        answers = await answer_all(batcher, works)
    assert engine.shapes == [(3, 9)]
    for work, answer in zip(works, answers, strict=True):
        assert answer["each"].tolist() == (work.inputs["ids"] * 3).tolist()


async def test_far_apart_in_length_they_do_not_pay_for_each_other() -> None:
    """The oldest is long, the others short: it goes first and alone, they go together."""
    engine = Recording("whole")
    async with batching(engine) as batcher:
        works = [Sentence(sentence(400, first=20)), *(Sentence(sentence(10, first=20)) for _ in range(20))]
        await answer_all(batcher, works)
    assert engine.shapes == [(1, 400), (20, 10)]
    assert batcher.statistics.padding_tokens == 0


async def test_the_budget_counts_padding() -> None:
    engine = Recording("whole")
    async with batching(engine, max_tokens=100) as batcher:
        await answer_all(batcher, [Sentence(sentence(30, first=20)) for _ in range(7)])
    assert engine.shapes == [(3, 30), (3, 30), (1, 30)]


async def test_a_row_longer_than_the_budget_runs_alone() -> None:
    engine = Recording("whole")
    async with batching(engine, max_tokens=100) as batcher:
        await answer_all(batcher, [Sentence(sentence(250, first=20)), Sentence(sentence(250, first=20))])
    assert engine.shapes == [(1, 250), (1, 250)]


async def test_a_request_s_own_rows_are_cut_by_length_and_answered_in_order() -> None:
    """What the caller filled up with padding is taken off again before it costs anything."""
    lengths = [3, 200, 4, 190, 5, 3]
    ids = np.zeros((6, 200), np.int64)
    for row, length in enumerate(lengths):
        ids[row, :length] = sentence(length, first=20 + row)
    engine = Recording("whole")
    async with batching(engine) as batcher:
        (answer,) = await answer_all(batcher, [Sentence(ids)])
    assert sorted(engine.shapes) == [(2, 200), (4, 5)]
    alone = Recording("whole").run({"ids": ids})
    assert answer["whole"].tolist() == alone["whole"].tolist()
    assert (batcher.statistics.tokens, batcher.statistics.padding_tokens) == (sum(lengths), 5 + 10)


async def test_a_caller_s_own_padding_stays_where_outputs_tell_of_it() -> None:
    ids = [*sentence(4, first=20), 0, 0, 0]
    engine = Recording("each", "whole")
    async with batching(engine, TOKENS) as batcher:
        (answer,) = await answer_all(batcher, [Sentence(ids)])
    assert engine.shapes == [(1, 7)]
    assert answer["each"].shape == (1, 7)


async def test_rows_whose_lengths_are_known_are_cut_and_their_outputs_filled_up() -> None:
    ids = np.full((3, 90), 50, np.int64)  # beyond its length a row may hold anything
    work = Sentence(ids)
    work.lengths = (2, 90, 3)
    engine = Recording("each", "whole")
    async with batching(engine, TOKENS) as batcher:
        (answer,) = await answer_all(batcher, [work])
    assert sorted(engine.shapes) == [(1, 90), (2, 3)]
    assert answer["each"].shape == (3, 90)
    expected = np.zeros((3, 90), np.int64)
    for row, length in enumerate(work.lengths):
        expected[row, :length] = 150
    assert answer["each"].tolist() == expected.tolist()


async def test_the_padding_value_and_the_other_axes_are_the_model_s_own() -> None:
    seen: list[Tensors] = []

    def run(inputs: Tensors) -> Tensors:
        seen.append(inputs)
        return {"y": inputs["weight"].copy()}

    works = [Sentence([1]), Sentence([1])]
    for work, length in zip(works, (2, 4), strict=True):
        work.inputs = {
            "ids": np.full((1, length), 9, np.int64),
            "vectors": np.full((1, length, 3), 0.5, np.float32),
            "weight": np.full((1, 2), float(length), np.float32),
        }
    batcher = Batcher(run, batchable=True, padding=Padding(pad={"ids": 1, "vectors": 0}))
    answers = await answer_all(batcher, works)
    batcher.close()
    (call,) = seen
    assert call["ids"].tolist() == [[9, 9, 1, 1], [9, 9, 9, 9]]
    assert call["vectors"].shape == (2, 4, 3)
    assert call["vectors"].dtype == np.float32
    assert call["vectors"][0, 2:].tolist() == [[0.0] * 3] * 2
    assert [answer["y"].tolist() for answer in answers] == [[[2.0, 2.0]], [[4.0, 4.0]]]


async def test_inputs_that_differ_in_length_reach_the_model_as_they_are() -> None:
    def run(inputs: Tensors) -> Tensors:
        if inputs["a"].shape != inputs["b"].shape:
            raise ValueError("lengths differ")
        return {"y": inputs["a"]}

    odd, empty, good = Sentence([1]), Sentence([1]), Sentence([1])
    odd.inputs = {"a": np.ones((1, 5)), "b": np.ones((1, 7))}
    empty.inputs = {"a": np.ones((1, 0)), "b": np.ones((1, 0))}
    good.inputs = {"a": np.ones((1, 5)), "b": np.ones((1, 5))}
    batcher = Batcher(run, batchable=True, padding=Padding(pad={"a": 0, "b": 0}, trim=("y",)))
    failed, nothing, answered = await answer_all(batcher, [odd, empty, good])
    batcher.close()
    assert isinstance(failed, EngineFailed)
    assert nothing["y"].shape == (1, 0)
    assert answered["y"].tolist() == [[1.0] * 5]


async def test_an_output_that_is_not_as_long_as_its_batch_is_asked_for_one_by_one() -> None:
    def run(inputs: Tensors) -> Tensors:
        ids = inputs["ids"]
        return {"each": ids if len(ids) == 1 else ids[:, :-1]}

    batcher = Batcher(run, batchable=True, padding=TOKENS)
    works = [Sentence(sentence(length)) for length in (5, 6, 7)]
    answers = await answer_all(batcher, works)
    batcher.close()
    assert [answer["each"].tolist() for answer in answers] == [work.inputs["ids"].tolist() for work in works]


async def test_a_long_request_is_given_up_between_its_calls() -> None:
    engine = Recording("whole", delay=0.02)
    async with batching(engine, max_tokens=50) as batcher:
        (late,) = await answer_all(batcher, [Sentence([sentence(50, first=20)] * 100, timeout=0.1)])
    assert isinstance(late, DeadlineExceeded)
    assert 2 <= len(engine.shapes) <= 20


async def test_enough_tokens_end_the_waiting_for_batch_mates() -> None:
    engine = Recording("whole")
    async with batching(engine, max_wait=30.0, max_tokens=100) as batcher:
        begun = time.monotonic()
        await answer_all(batcher, [Sentence(sentence(50, first=20)), Sentence(sentence(50, first=20))])
        assert time.monotonic() - begun < 60
    assert engine.shapes == [(2, 50)]


async def test_nobody_starves_behind_more_popular_lengths() -> None:
    """One long sentence among short ones that never stop coming: only those that were there before it are answered first."""
    engine = Recording("whole", delay=0.002)
    async with batching(engine, max_batch=4) as batcher:
        works = [Sentence(sentence(5, first=20)) for _ in range(8)]
        for work in works:
            batcher.submit(work)
        odd = Sentence(sentence(300, first=20))
        batcher.submit(odd)
        while not odd.ends:
            if batcher.queued < 12:
                batcher.submit(Sentence(sentence(5, first=20)))
            await asyncio.sleep(0)
    before = engine.shapes[: engine.shapes.index((1, 300))]
    assert len(before) <= 3


# ── slices ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=9),
    st.integers(1, 6),
    st.integers(1, 700),
)
def test_slices_are_the_cheapest_within_the_limits(lengths: list[int], rows: int, tokens: int) -> None:
    """Held against every way to cut the sorted rows."""
    found = slices(np.asarray(lengths), Limits(rows, tokens))
    assert sorted(np.concatenate(found).tolist()) == list(range(len(lengths)))
    assert all(part.tolist() == sorted(part.tolist()) for part in found)

    def cost(parts: list[list[int]]) -> int:
        fits = all(len(part) == 1 or (len(part) <= rows and len(part) * max(part) <= tokens) for part in parts)
        return sum(len(part) * max(part) + 32 for part in parts) if fits else 10**9

    ascending = sorted(lengths)
    places = range(1, len(lengths))
    ways = itertools.chain.from_iterable(itertools.combinations(places, count) for count in range(len(lengths)))
    cheapest = min(cost([ascending[a:b] for a, b in itertools.pairwise([0, *cuts, len(lengths)])]) for cuts in ways)
    assert cost([[lengths[row] for row in part] for part in found]) == cheapest


# ── anything, in any order ───────────────────────────────────────────────────────────────────────────────────────────

ROWS = st.lists(st.lists(st.integers(14, 99), min_size=1, max_size=24), min_size=1, max_size=5)
ONE = st.fixed_dictionaries({
    "rows": ROWS,
    "filled": st.integers(0, 6),
    "poison": st.sampled_from([False] * 7 + [True]),
    "known": st.booleans(),
    "end": st.sampled_from(["answer"] * 6 + ["cancel", "late", "cancel later"]),
    "pause": st.sampled_from([None, None, 0.0, 0.001]),
})  # fmt: skip


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(ONE, min_size=1, max_size=14),
    st.sampled_from([POOLED, TOKENS]),
    st.integers(1, 8),
    st.integers(1, 90),
    st.sampled_from([0.0, 0.0, 0.001]),
)
def test_everybody_gets_what_he_would_have_got_alone(
    plans: list[dict[str, Any]], padding: Padding, max_batch: int, max_tokens: int, max_wait: float
) -> None:
    asyncio.run(_scenario(plans, padding, max_batch=max_batch, max_tokens=max_tokens, max_wait=max_wait))


async def _scenario(plans: list[dict[str, Any]], padding: Padding, **options: Any) -> None:
    outputs = ("each", "whole") if padding.trim else ("whole",)
    engine = Recording(*outputs)
    works: list[Sentence] = []
    async with batching(engine, padding, **options) as batcher:
        for plan in plans:
            works.append(_planned(plan))
            batcher.submit(works[-1])
            if plan["end"] == "cancel":
                batcher.cancel(works[-1])
            if plan["pause"] is not None:
                await asyncio.sleep(plan["pause"])
            if plan["end"] == "cancel later" and not works[-1].ends:
                batcher.cancel(works[-1])
        for plan, work in zip(plans, works, strict=True):
            if not work.cancelled:
                _check(plan, work, await work.outputs(), Recording(*outputs))
        for _ in range(3):
            await asyncio.sleep(0)
        assert batcher.queued == 0
    assert all(
        len(work.ends) <= (1 if plan["end"] == "cancel later" else not work.cancelled)
        for plan, work in zip(plans, works, strict=True)
    )
    for rows, length in engine.shapes:
        assert rows == 1 or (rows <= options["max_batch"] and rows * length <= options["max_tokens"])


def _planned(plan: dict[str, Any]) -> Sentence:
    longest = max(map(len, plan["rows"])) + plan["filled"]
    ids = np.zeros((len(plan["rows"]), longest), np.int64)
    for row, values in enumerate(plan["rows"]):
        ids[row, : len(values)] = values
    if plan["poison"]:
        ids[-1, 0] = POISON
    work = Sentence(ids, timeout=0.0 if plan["end"] == "late" else 30.0)
    if plan["known"]:
        work.lengths = [len(values) for values in plan["rows"]]
    return work


def _check(plan: dict[str, Any], work: Sentence, end: Any, alone: Recording) -> None:
    if plan["end"] == "late":
        assert isinstance(end, DeadlineExceeded)
    elif plan["poison"]:
        assert isinstance(end, EngineFailed)
        assert "poison" in end.message
    else:
        expected = alone.run(work.inputs)
        assert end.keys() == expected.keys()
        for name, array in expected.items():
            assert end[name].dtype == array.dtype
            assert end[name].tolist() == array.tolist()


@pytest.mark.parametrize("padding", [POOLED, TOKENS])
async def test_one_poisoned_sentence_spoils_no_other(padding: Padding) -> None:
    engine = Recording("each", "whole") if padding.trim else Recording("whole")
    async with batching(engine, padding) as batcher:
        works = [Sentence(sentence(length, first=20)) for length in range(30, 46)]
        works[5].inputs["ids"][0, 3] = POISON
        answers = await answer_all(batcher, works)
    assert [isinstance(answer, EngineFailed) for answer in answers] == [n == 5 for n in range(16)]

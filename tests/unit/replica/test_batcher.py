"""The batcher before a fake engine: what is joined, and that every piece of work ends exactly once, whatever happens."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from openmaas.core.contracts import Timing
from openmaas.core.errors import DeadlineExceeded, EngineFailed, InvalidInput, OpenMaaSError, Unavailable
from openmaas.replica import batcher as module
from openmaas.replica.batcher import Batcher, Tensors, Work, engine_error

POISON = -1.0


class Request(Work):
    """A piece of work that remembers how often, and how, it ended."""

    __slots__ = ("ends", "finished", "timing")

    def __init__(self, values: Any, timeout: float = 30.0) -> None:
        array = np.asarray(values, np.float64)
        super().__init__({"x": array}, len(array), timeout)
        self.ends: list[Tensors | OpenMaaSError] = []
        self.finished = asyncio.Event()
        self.timing: Timing | None = None

    def done(self, result: Tensors | OpenMaaSError, timing: Timing) -> None:
        self.ends.append(result)
        self.timing = timing
        self.finished.set()

    async def result(self) -> Any:
        await asyncio.wait_for(self.finished.wait(), 60)
        (end,) = self.ends
        return end["y"].tolist() if isinstance(end, dict) else end


class Engine:
    """Doubles its input. `gate` holds it back; `calls` are the rows of each call; a row of POISON makes it raise."""

    def __init__(self, delay: float = 0.0) -> None:
        self.calls: list[Any] = []
        self.gate = threading.Event()
        self.gate.set()
        self.delay = delay
        self.at_once = 0
        self.most_at_once = 0

    def __call__(self, inputs: Tensors) -> Tensors:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            self.calls.append(inputs["x"].copy())
            self.gate.wait(60)
            if self.delay:
                time.sleep(self.delay)
            if (inputs["x"] == POISON).any():
                raise ValueError("poison")
            return {"y": inputs["x"] * 2}
        finally:
            self.at_once -= 1

    @property
    def sizes(self) -> list[int]:
        return [len(call) for call in self.calls]


Make = Callable[..., Batcher]


@pytest.fixture(params=["thread", "inline"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to call the engine: in its thread, and on the event loop."""
    monkeypatch.setattr(module, "INLINE_BELOW", -1.0 if request.param == "thread" else 1e9)
    return str(request.param)


@pytest.fixture
async def make(path: str) -> Any:
    made: list[Batcher] = []

    def create(run: Any, **options: Any) -> Batcher:
        batcher = Batcher(run, **({"batchable": True} | options))
        if path == "inline":
            batcher._typical = 0.0
        made.append(batcher)
        return batcher

    yield create
    for batcher in made:
        batcher.close()
        batcher._thread.shutdown()


@pytest.fixture
async def threaded(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Always in the thread, where the engine can be held back."""
    monkeypatch.setattr(module, "INLINE_BELOW", -1.0)
    engine = Engine()
    made: list[Batcher] = []

    def create(**options: Any) -> tuple[Batcher, Engine]:
        made.append(Batcher(engine, **({"batchable": True} | options)))
        return made[-1], engine

    yield create
    engine.gate.set()
    for batcher in made:
        batcher.close()
        batcher._thread.shutdown()


async def busy(batcher: Batcher, engine: Engine) -> Request:
    """A request that the engine is busy with until its gate opens."""
    engine.gate.clear()
    first = Request([[0]])
    before = len(engine.calls)
    batcher.submit(first)
    while len(engine.calls) == before:
        await asyncio.sleep(0.001)
    return first


# ── joining ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_one_request_gets_its_answer_and_its_timing(make: Make) -> None:
    batcher = make(Engine(delay=0.01))
    request = Request([[1, 2], [3, 4]])
    batcher.submit(request)
    assert await request.result() == [[2, 4], [6, 8]]
    assert request.timing is not None
    assert request.timing.rows == 2
    assert 0.01 <= request.timing.model < 5
    assert 0 <= request.timing.queue < 5


async def test_what_comes_in_one_turn_shares_a_batch(make: Make) -> None:
    engine = Engine()
    batcher = make(engine)
    requests = [Request([[n]]) for n in range(10)]
    for request in requests:
        batcher.submit(request)
    assert [await request.result() for request in requests] == [[[2 * n]] for n in range(10)]
    assert engine.sizes == [10]


async def test_what_waits_while_the_engine_runs_is_joined_the_moment_it_is_free(threaded: Any) -> None:
    batcher, engine = threaded(max_batch=8)
    first = await busy(batcher, engine)
    requests = [Request([[n]]) for n in range(1, 21)]
    for request in requests:
        batcher.submit(request)
    assert (batcher.queued, batcher.in_flight) == (20, 21)
    engine.gate.set()
    assert [await request.result() for request in [first, *requests]] == [[[2 * n]] for n in range(21)]
    assert engine.sizes == [1, 8, 8, 4]
    assert (batcher.queued, batcher.in_flight, batcher.stalled) == (0, 0, 0)


async def test_no_call_has_more_than_max_batch_rows(threaded: Any) -> None:
    batcher, engine = threaded(max_batch=8)
    await busy(batcher, engine)
    sizes = [3, 3, 3, 8, 1, 7, 2, 20, 1]
    requests = [Request(np.full((size, 1), float(n))) for n, size in enumerate(sizes)]
    for request in requests:
        batcher.submit(request)
    engine.gate.set()
    for n, request in enumerate(requests):
        assert await request.result() == [[2.0 * n]] * sizes[n]
    assert engine.sizes == [1, 6, 3, 8, 8, 2, 8, 8, 4, 1]  # in the order of arrival; twenty rows go in slices
    assert max(engine.sizes) == 8


async def test_only_equal_shapes_share_a_batch_and_the_oldest_goes_first(threaded: Any) -> None:
    batcher, engine = threaded()
    await busy(batcher, engine)
    requests = [Request(np.full((1, width), 1.0)) for width in (3, 5, 3, 5, 7, 3)]
    for request in requests:
        batcher.submit(request)
    engine.gate.set()
    for request in requests:
        assert np.asarray(await request.result()).shape == request.inputs["x"].shape
    assert [call.shape for call in engine.calls[1:]] == [(3, 3), (2, 5), (1, 7)]


async def test_a_model_without_batches_gets_one_request_a_call(threaded: Any) -> None:
    batcher, engine = threaded(batchable=False)
    await busy(batcher, engine)
    requests = [Request([[n], [n]]) for n in range(3)]
    for request in requests:
        request.rows = 1
        batcher.submit(request)
    engine.gate.set()
    assert [await request.result() for request in requests] == [[[0], [0]], [[2], [2]], [[4], [4]]]
    assert engine.sizes == [1, 2, 2, 2]


async def test_the_engine_is_never_called_twice_at_a_time(make: Make) -> None:
    engine = Engine(delay=0.001)
    batcher = make(engine, max_batch=4)
    requests = []
    for n in range(60):
        requests.append(Request([[n]]))
        batcher.submit(requests[-1])
        if n % 7 == 0:
            await asyncio.sleep(0.0005)
    assert [await request.result() for request in requests] == [[[2 * n]] for n in range(60)]
    assert engine.most_at_once == 1


async def test_inputs_in_another_order_still_get_their_own_answers(make: Make) -> None:
    """Two requests whose inputs are named in different order; joined by name, or apart where the shapes do not fit."""
    batcher = make(lambda inputs: {"y": inputs["a"].sum(axis=1) + 100 * inputs["b"].sum(axis=1)})
    one, two, three = Request([[0]]), Request([[0]]), Request([[0]])
    one.inputs = {"a": np.ones((1, 2)), "b": np.full((1, 2), 2.0)}
    two.inputs = {"b": np.full((1, 2), 3.0), "a": np.full((1, 2), 4.0)}
    three.inputs = {"b": np.full((1, 3), 1.0), "a": np.full((1, 2), 1.0)}
    for request in (one, two, three):
        request.key = tuple(array.shape[1:] for array in request.inputs.values())
        batcher.submit(request)
    assert [await request.result() for request in (one, two, three)] == [[402.0], [608.0], [302.0]]


# ── patience ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_max_wait_holds_a_request_for_batch_mates(make: Make) -> None:
    engine = Engine()
    batcher = make(engine, max_wait=0.2)
    one, two = Request([[1]]), Request([[2]])
    batcher.submit(one)
    for _ in range(5):
        await asyncio.sleep(0)
    assert engine.calls == []
    batcher.submit(two)
    assert await one.result() == [[2]]
    assert await two.result() == [[4]]
    assert engine.sizes == [2]


async def test_a_full_batch_does_not_wait(make: Make) -> None:
    engine = Engine()
    batcher = make(engine, max_wait=30.0, max_batch=8)
    requests = [Request([[1.0]] * 4), Request([[2.0]] * 4)]  # by rows, not by requests
    for request in requests:
        batcher.submit(request)
        await asyncio.sleep(0.01)
    for request in requests:
        await request.result()
    assert engine.sizes == [8]


async def test_a_full_group_does_not_wait_for_the_patience_of_another(make: Make) -> None:
    engine = Engine()
    batcher = make(engine, max_wait=30.0, max_batch=2)
    lonely = Request([[1.0, 1.0]])
    batcher.submit(lonely)
    await asyncio.sleep(0.01)
    pair = [Request([[1.0]]), Request([[2.0]])]
    for request in pair:
        batcher.submit(request)
    for request in pair:
        await request.result()
    assert not lonely.ends
    batcher.close()
    assert isinstance(await lonely.result(), Unavailable)


async def test_a_cancelled_head_does_not_disturb_those_who_wait(make: Make) -> None:
    engine = Engine()
    batcher = make(engine, max_wait=0.03)
    one, two = Request([[1]]), Request([[2]])
    batcher.submit(one)
    batcher.submit(two)
    batcher.cancel(one)
    assert await two.result() == [[4]]
    three = Request([[3]])
    batcher.submit(three)
    batcher.cancel(three)
    await asyncio.sleep(0.05)
    four = Request([[4]])
    batcher.submit(four)
    assert await four.result() == [[8]]
    assert engine.sizes == [1, 1]


# ── failing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("culprits", [{0}, {9}, {4}, {0, 9}, {2, 3, 7}, set(range(10))])
async def test_only_the_culprits_fail(make: Make, culprits: set[int]) -> None:
    engine = Engine()
    batcher = make(engine)
    requests = [Request([[POISON if n in culprits else n]]) for n in range(10)]
    for request in requests:
        batcher.submit(request)
    for n, request in enumerate(requests):
        result = await request.result()
        if n in culprits:
            assert isinstance(result, EngineFailed)
            assert "poison" in result.message
        else:
            assert result == [[2 * n]]
    assert len(engine.calls) <= 2 * 10 - 1
    if len(culprits) == 1:
        assert len(engine.calls) <= 2 * 4 + 1


async def test_a_poisoned_slice_fails_its_whole_request_and_no_other(make: Make) -> None:
    batcher = make(Engine(), max_batch=4)
    large = Request([[1.0]] * 9 + [[POISON]])
    small = Request([[5.0]])
    batcher.submit(large)
    batcher.submit(small)
    assert isinstance(await large.result(), EngineFailed)
    assert await small.result() == [[10]]


class Panic(BaseException):
    """As libraries in other languages raise."""


@pytest.mark.parametrize(
    "raised",
    [
        Panic("rust"),
        SystemExit(3),
        KeyboardInterrupt(),
        asyncio.CancelledError(),
        GeneratorExit(),
        StopIteration(),
        RecursionError(),
    ],
)
async def test_whatever_an_engine_raises_is_that_request_s_error(make: Make, raised: BaseException) -> None:
    def run(inputs: Tensors) -> Tensors:
        if (inputs["x"] == POISON).any():
            raise raised
        return {"y": inputs["x"]}

    batcher = make(run)
    bad, good = Request([[POISON]]), Request([[1.0]])
    batcher.submit(bad)
    batcher.submit(good)
    assert isinstance(await bad.result(), EngineFailed)
    assert await good.result() == [[1]]
    after = Request([[2.0]])
    batcher.submit(after)
    assert await after.result() == [[2]]


async def test_an_error_of_ours_passes_as_it_is(make: Make) -> None:
    refusal = InvalidInput("this word is unknown", code="unknown_word")

    def run(_: Tensors) -> Tensors:
        raise refusal

    request = Request([[1.0]])
    make(run).submit(request)
    assert await request.result() is refusal


async def test_out_of_memory_in_a_batch_is_tried_in_halves(make: Make) -> None:
    def run(inputs: Tensors) -> Tensors:
        if len(inputs["x"]) > 2:
            raise MemoryError
        return {"y": inputs["x"]}

    batcher = make(run)
    requests = [Request([[n]]) for n in range(7)] + [Request([[1.0]] * 3)]
    for request in requests:
        batcher.submit(request)
    assert [await request.result() for request in requests[:7]] == [[[n]] for n in range(7)]
    refused = await requests[7].result()
    assert isinstance(refused, Unavailable)
    assert refused.code == "out_of_memory"


@pytest.mark.parametrize(
    "wrong", [lambda x: x[:-1], lambda x: x.sum(), lambda x: np.concatenate([x, x]), lambda x: np.zeros((1, len(x)))]
)
async def test_outputs_that_cannot_be_told_apart_are_asked_for_one_by_one(make: Make, wrong: Any) -> None:
    """A model that was wrongly said to be batchable: each still gets what it would have got alone."""
    batcher = make(lambda inputs: {"y": wrong(inputs["x"]) if len(inputs["x"]) > 1 else inputs["x"]})
    requests = [Request([[n]]) for n in range(5)]
    for request in requests:
        batcher.submit(request)
    assert [await request.result() for request in requests] == [[[n]] for n in range(5)]


async def test_a_large_request_whose_slices_cannot_be_joined_fails(make: Make) -> None:
    batcher = make(lambda inputs: {"y": inputs["x"][:1]}, max_batch=4)
    request = Request([[1.0]] * 10)
    batcher.submit(request)
    failed = await request.result()
    assert isinstance(failed, EngineFailed)
    assert failed.code == "output_not_batched"


async def test_an_engine_that_returns_no_tensors_ends_the_request_with_what_it_gave(make: Make) -> None:
    batcher = make(lambda inputs: None)
    requests = [Request([[1.0]]), Request([[2.0]])]
    for request in requests:
        batcher.submit(request)
    for request in requests:
        await asyncio.wait_for(request.finished.wait(), 60)
        assert len(request.ends) == 1


async def test_a_done_that_raises_does_not_take_the_others_with_it(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    class Broken(Request):
        __slots__ = ()

        def done(self, result: Any, timing: Any) -> None:
            raise RuntimeError("cannot be sent")

    batcher = make(Engine())
    requests = [Broken([[1.0]]), Request([[2.0]])]
    for request in requests:
        batcher.submit(request)
    assert await requests[1].result() == [[4]]
    after = Request([[3.0]])
    batcher.submit(after)
    assert await after.result() == [[6]]


def test_an_error_does_not_tell_where_things_lie() -> None:
    error = engine_error(OSError("cannot open /home/somebody/models/m.onnx\nline two"))
    assert error.message == "The model failed on this input: OSError: cannot open m.onnx line two."


# ── cancelling and deadlines ─────────────────────────────────────────────────────────────────────────────────────────


async def test_cancelled_work_that_waits_gives_its_place_back_and_is_never_run(threaded: Any) -> None:
    batcher, engine = threaded(max_queue=4)
    first = await busy(batcher, engine)
    waiting = [Request([[n]]) for n in range(1, 5)]
    for request in waiting:
        batcher.submit(request)
    with pytest.raises(Unavailable):
        batcher.submit(Request([[9]]))
    for request in waiting[:3]:
        batcher.cancel(request)
        batcher.cancel(request)
    assert batcher.queued == 1
    late = Request([[7]])
    batcher.submit(late)
    engine.gate.set()
    assert await first.result() == [[0]]
    assert await waiting[3].result() == [[8]]
    assert await late.result() == [[14]]
    assert all(not request.ends for request in waiting[:3])
    assert sorted(engine.calls[1].ravel().tolist()) == [4, 7]
    assert batcher.statistics.cancelled == 3


async def test_cancelled_work_that_runs_is_dropped_and_its_batch_mates_are_not(threaded: Any) -> None:
    batcher, engine = threaded()
    await busy(batcher, engine)
    requests = [Request([[n]]) for n in range(3)]
    for request in requests:
        batcher.submit(request)
    engine.gate.set()
    while len(engine.calls) < 2:
        await asyncio.sleep(0)
    batcher.cancel(requests[1])
    assert await requests[0].result() == [[0]]
    assert await requests[2].result() == [[4]]
    assert not requests[1].ends
    assert batcher.statistics.cancelled == 1
    batcher.cancel(requests[0])  # too late: it has ended
    assert batcher.statistics.cancelled == 1


async def test_work_whose_time_is_over_is_not_started(threaded: Any) -> None:
    batcher, engine = threaded()
    await busy(batcher, engine)
    late, good = Request([[1]], timeout=0.02), Request([[2]])
    batcher.submit(late)
    batcher.submit(good)
    await asyncio.sleep(0.05)
    engine.gate.set()
    assert isinstance(await late.result(), DeadlineExceeded)
    assert await good.result() == [[4]]
    assert engine.calls[1].tolist() == [[2]]


async def test_work_that_came_too_late_is_refused_by_its_own_error(make: Make) -> None:
    engine = Engine()
    batcher = make(engine)
    for timeout in (0.0, -5.0):
        request = Request([[1]], timeout=timeout)
        batcher.submit(request)
        assert isinstance(await request.result(), DeadlineExceeded)
    assert engine.calls == []
    assert batcher.queued == 0


async def test_a_large_request_is_given_up_between_its_slices(threaded: Any) -> None:
    batcher, engine = threaded(max_batch=2)
    engine.delay = 0.02
    late, left = Request([[1.0]] * 200, timeout=0.4), Request([[2.0]] * 200)
    batcher.submit(late)
    batcher.submit(left)
    assert isinstance(await late.result(), DeadlineExceeded)
    assert 2 <= len(engine.calls) <= 80
    before = len(engine.calls)
    while len(engine.calls) < before + 2:
        await asyncio.sleep(0.005)
    batcher.cancel(left)
    small = Request([[3.0]])
    batcher.submit(small)
    assert await small.result() == [[6]]
    assert len(engine.calls) < before + 60
    assert not left.ends


# ── full, closing ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_full_queue_refuses_at_once_and_says_when_to_come_back(threaded: Any) -> None:
    batcher, engine = threaded(max_queue=3, max_batch=2)
    await busy(batcher, engine)
    for n in range(3):
        batcher.submit(Request([[n]]))
    begun = time.monotonic()
    with pytest.raises(Unavailable) as caught:
        batcher.submit(Request([[9]]))
    assert time.monotonic() - begun < 1
    assert caught.value.code == "queue_full"
    assert "max_queue" in caught.value.message
    assert caught.value.retry_after is not None
    assert 1 <= caught.value.retry_after <= 60
    assert batcher.statistics.rejected == 1


async def test_closing_ends_what_waits_and_lets_what_runs_end(threaded: Any) -> None:
    batcher, engine = threaded()
    first = await busy(batcher, engine)
    waiting = [Request([[n]]) for n in range(5)]
    for request in waiting:
        batcher.submit(request)
    batcher.close()
    for request in waiting:
        assert isinstance(await request.result(), Unavailable)
    with pytest.raises(Unavailable):
        batcher.submit(Request([[1]]))
    engine.gate.set()
    assert await first.result() == [[0]]
    assert len(engine.calls) == 1
    batcher.close()


async def test_stalled_says_how_long_the_engine_has_been_at_it(threaded: Any) -> None:
    batcher, engine = threaded()
    assert batcher.stalled == 0
    first = await busy(batcher, engine)
    await asyncio.sleep(0.02)
    assert 0.02 <= batcher.stalled < 5
    engine.gate.set()
    await first.result()
    assert batcher.stalled == 0


# ── the thread or the event loop ─────────────────────────────────────────────────────────────────────────────────────


async def test_short_calls_leave_the_thread_and_long_ones_go_back_to_it() -> None:
    threads: list[str] = []
    delay = 0.0

    def run(inputs: Tensors) -> Tensors:
        threads.append(threading.current_thread().name)
        time.sleep(delay)
        return {"y": inputs["x"]}

    batcher = Batcher(run, batchable=True, max_batch=8)

    async def call(values: Any) -> None:
        request = Request(values)
        batcher.submit(request)
        await request.result()

    await call([[1]])
    assert threads[-1].startswith("engine")  # unknown at first
    for _ in range(3000):  # enough also where the machine is busy with other things
        await call([[1]])
        if threads[-1] == "MainThread":
            break
    assert threads[-1] == "MainThread"
    await call([[1.0]] * 9)
    assert threads[-1].startswith("engine")  # more rows than a batch: many calls in a row
    await call(np.zeros((1, 10_000)))
    assert threads[-1].startswith("engine")  # so much larger than the others that their time says nothing
    delay = 0.01
    await call([[1]])
    await call([[1]])
    assert threads[-1].startswith("engine")
    batcher.close()


async def test_quick_failures_do_not_make_a_slow_model_look_quick() -> None:
    threads: list[str] = []

    def run(inputs: Tensors) -> Tensors:
        if (inputs["x"] == POISON).any():
            raise ValueError
        threads.append(threading.current_thread().name)
        time.sleep(0.01)
        return {"y": inputs["x"]}

    batcher = Batcher(run, batchable=True)
    for value in [1.0] + [POISON] * 60 + [1.0]:
        request = Request([[value]])
        batcher.submit(request)
        await request.result()
    assert all(name.startswith("engine") for name in threads)
    batcher.close()


# ── thousands ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("seed", range(4))
async def test_every_work_ends_exactly_once(make: Make, path: str, seed: int) -> None:
    """Random sizes, shapes, poison, cancellations, deadlines, a full queue: the right answer, an error, or nothing."""
    source = random.Random(seed)
    engine = Engine()
    batcher = make(engine, max_batch=source.choice([1, 4, 16]), max_queue=64, max_wait=source.choice([0.0, 0.002]))
    accepted: list[Request] = []
    cancelled: set[int] = set()
    refused = 0
    for _ in range(1500):
        values = np.array([[float(source.randint(0, 99))] * source.choice([1, 1, 1, 2, 3])] * source.choice([1, 1, 2, 5, 20]))
        if source.random() < 0.05:
            values[0, 0] = POISON
        request = Request(values, timeout=source.choice([30.0, 30.0, 30.0, 0.001, 0.0]))
        try:
            batcher.submit(request)
        except Unavailable:
            refused += 1
            await asyncio.sleep(0.003)
            continue
        accepted.append(request)
        if source.random() < 0.1:
            victim = source.choice(accepted[-50:])
            if not victim.ends:
                cancelled.add(id(victim))
                batcher.cancel(victim)
        if source.random() < 0.2:
            await asyncio.sleep(source.choice([0, 0, 0.001]))
    for request in accepted:
        if id(request) in cancelled:
            assert request.ends == []
            continue
        result = await request.result()
        poisoned = bool((request.inputs["x"] == POISON).any())
        if isinstance(result, list):
            assert not poisoned
            assert np.array_equal(result, request.inputs["x"] * 2)
        else:
            assert isinstance(
                result, EngineFailed if poisoned and not isinstance(result, DeadlineExceeded) else DeadlineExceeded
            )
    await asyncio.sleep(0.01)
    assert all(len(request.ends) == (0 if id(request) in cancelled else 1) for request in accepted)
    assert (batcher.queued, batcher.in_flight, batcher._waiting.oldest()) == (0, 0, None)
    assert batcher.statistics.cancelled == len(cancelled)
    assert batcher.statistics.rejected == refused
    assert max(engine.sizes) <= batcher._max_batch
    assert len(accepted) > 300

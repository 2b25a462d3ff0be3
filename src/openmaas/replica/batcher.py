"""Joins requests that wait into one engine call, and hands each its own part of the answer.

The engine is started the moment it is free; nothing waits for batch-mates unless `max_wait` asks for it. Work whose caller left
leaves the queue at once, work whose deadline passed when its turn comes. A batch that fails is split until only the culprit
fails. Every piece of work ends exactly once.
"""

from __future__ import annotations

import asyncio
import math
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from openmaas.core.contracts import Timing
from openmaas.core.errors import DeadlineExceeded, EngineFailed, OpenMaaSError, Unavailable, without_paths
from openmaas.core.log import get_logger
from openmaas.replica.statistics import Statistics

Tensors: TypeAlias = dict[str, NDArray[np.generic]]
Run: TypeAlias = Callable[[Tensors], Tensors]

# An engine call shorter than this runs on the event loop: handing it to a thread and back costs more than it saves.
INLINE_BELOW: Final = 0.0005
# Bytes of input up to which the time of other calls says how long this one takes.
INLINE_BYTES: Final = 64 * 1024


class Work(ABC):
    """One request on its way through the batcher.

    rows: along the batch axis. key: what must be equal to share a batch. timeout: seconds that it may wait and run.
    """

    __slots__ = ("arrived", "cancelled", "deadline", "inputs", "key", "rows")

    def __init__(self, inputs: Tensors, rows: int, timeout: float) -> None:
        self.inputs = inputs
        self.rows = rows
        self.key: Hashable = tuple([array.shape[1:] for array in inputs.values()])
        self.arrived = time.monotonic()
        self.deadline = self.arrived + timeout
        self.cancelled = False

    @abstractmethod
    def done(self, result: Tensors | OpenMaaSError, timing: Timing) -> None:
        """Called exactly once, unless it was cancelled before: the outputs or the error, and where the time went."""


class _Group:
    """Works that may share a batch, in the order of their arrival, and their rows."""

    __slots__ = ("rows", "works")

    def __init__(self) -> None:
        self.works: deque[Work] = deque()
        self.rows = 0


class _Outcome:
    """What one engine call gave for the works in it."""

    __slots__ = ("answers", "batch", "calls", "failed", "model", "started")

    def __init__(self) -> None:
        self.answers: list[Tensors | OpenMaaSError] = []
        self.started = time.monotonic()
        self.calls: list[tuple[int, float]] = []  # rows and seconds of each call
        self.failed = False
        self.model = 0.0
        self.batch = 0.0


class Batcher:
    """The queue before one engine. All methods belong to the event loop's thread.

    run: the engine's own call; blocks, and is never called twice at a time. max_batch: rows a call. max_queue: requests
    waiting. max_wait: seconds that a request may wait for batch-mates while the engine is free.
    """

    def __init__(
        self,
        run: Run,
        *,
        batchable: bool,
        max_batch: int = 32,
        max_queue: int = 1024,
        max_wait: float = 0.0,
        statistics: Statistics | None = None,
    ) -> None:
        self._run = run
        self._batchable = batchable
        self._max_batch = max_batch if batchable else 1
        self._max_queue = max_queue
        self._max_wait = max_wait
        self.statistics = statistics or Statistics()
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._groups: dict[Hashable, _Group] = {}
        self._waiting = 0
        self._running: list[Work] = []
        self._started = 0.0
        self._scheduled: asyncio.Handle | None = None
        self._patient = False  # what is scheduled waits for batch-mates
        self._typical = math.inf  # seconds of an engine call, smoothed; unknown at first, so the first call gets the thread
        self._closed = False

    @property
    def queued(self) -> int:
        """Requests that wait."""
        return self._waiting

    @property
    def in_flight(self) -> int:
        """Requests that wait or run."""
        return self._waiting + len(self._running)

    @property
    def stalled(self) -> float:
        """Seconds that the running engine call has taken so far; 0 when none runs."""
        return time.monotonic() - self._started if self._running else 0.0

    def check_room(self) -> None:
        """Raise Unavailable when the queue is full or the replica is closing: before a request is even read."""
        if self._closed:
            raise Unavailable("The replica is stopping.", code="stopping", retry_after=1.0)
        # What a free engine takes in a moment does not count as waiting.
        if self._waiting >= self._max_queue + (0 if self._running else self._max_batch):
            self.statistics.rejected += 1
            raise Unavailable(
                f"{self._waiting} requests wait already, the limit (max_queue) is {self._max_queue}.",
                code="queue_full",
                retry_after=self._seconds_to_clear(),
                next_step="Try again later, or deploy with more --replicas.",
            )

    def submit(self, work: Work) -> None:
        """Queue one piece of work. Raises Unavailable at once when there is no room."""
        self.check_room()
        group = self._groups.get(work.key)
        if group is None:
            group = self._groups[work.key] = _Group()
        group.works.append(work)
        group.rows += work.rows
        self._waiting += 1
        if self._running or (self._scheduled is not None and not self._patient):
            return
        if self._patient and group.rows < self._max_batch:
            return
        self._schedule()

    def cancel(self, work: Work) -> None:
        """Nobody waits for it any more: it gives its place in the queue back; where it runs already, its answer is dropped."""
        work.cancelled = True
        group = self._groups.get(work.key)
        if group is None:
            return
        try:
            group.works.remove(work)
        except ValueError:
            return
        self._left(group, work)
        self.statistics.cancelled += 1

    def close(self) -> None:
        """End everything that waits with an error; what runs ends by itself."""
        self._closed = True
        if self._scheduled is not None:
            self._scheduled.cancel()
        groups, self._groups, self._waiting = self._groups, {}, 0
        for group in groups.values():
            for work in group.works:
                self._end(
                    work, Unavailable("The replica stopped before it came to this request.", code="stopping", retry_after=1.0)
                )
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _seconds_to_clear(self) -> float:
        seconds = self._typical * self._waiting / self._max_batch
        return max(1.0, min(60.0, seconds))

    # taking from the queue

    def _schedule(self, delay: float = 0.0) -> None:
        """Dispatch one turn later (by then all that came in the same read of the socket is queued), or after `delay` s."""
        if self._scheduled is not None:
            self._scheduled.cancel()
        self._patient = delay > 0
        self._scheduled = self._loop.call_later(delay, self._dispatch) if delay > 0 else self._loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._scheduled = None
        self._patient = False
        works = self._take()
        if not works:
            return
        self._running = works
        self._started = time.monotonic()
        if self._typical < INLINE_BELOW and self._is_small(works):
            outcome = self._execute(works)
            self._running = []
            self._learn(outcome)
            if self._waiting:
                self._schedule()
            self._deliver(works, outcome)
        else:
            self._loop.run_in_executor(self._thread, self._execute, works).add_done_callback(self._executed)

    def _is_small(self, works: Sequence[Work]) -> bool:
        """Whether it can be believed that this call is as short as the others were."""
        size = sum([array.nbytes for work in works for array in work.inputs.values()])
        return size <= INLINE_BYTES and works[0].rows <= self._max_batch

    def _executed(self, future: asyncio.Future[_Outcome]) -> None:
        works, self._running = self._running, []
        if future.cancelled():
            outcome = _Outcome()
            outcome.answers = [Unavailable("The replica is stopping.", code="stopping", retry_after=1.0) for _ in works]
        else:
            outcome = future.result()
        self._learn(outcome)
        # The engine gets its next batch before the answers of this one are encoded.
        self._dispatch()
        self._deliver(works, outcome)

    def _learn(self, outcome: _Outcome) -> None:
        """Counts, and how long a call takes: a slower one counts at once, a faster one by and by, and only if it succeeded."""
        for rows, seconds in outcome.calls:
            self.statistics.executed(rows, seconds)
            if seconds >= self._typical:
                self._typical = seconds
            elif not outcome.failed:
                self._typical = self._typical + 0.2 * (seconds - self._typical) if self._typical < math.inf else seconds

    def _take(self) -> list[Work]:
        """The next batch: of those that may share one, the group whose head has waited longest."""
        now = time.monotonic()
        while self._groups:
            group = next(iter(self._groups.values()))
            if len(self._groups) > 1:
                group = min(self._groups.values(), key=_head_arrived)
            if self._max_wait and (delay := self._patience(group, now)) > 0:
                full = next((other for other in self._groups.values() if other.rows >= self._max_batch), None)
                if full is None:
                    self._schedule(delay)
                    return []
                group = full
            works = self._pop(group, now)
            if works:
                return works
        return []

    def _patience(self, group: _Group, now: float) -> float:
        """Seconds that this group may still wait for batch-mates."""
        if group.rows >= self._max_batch:
            return 0.0
        return group.works[0].arrived + self._max_wait - now

    def _pop(self, group: _Group, now: float) -> list[Work]:
        works: list[Work] = []
        rows = 0
        while group.works and rows < self._max_batch:
            work = group.works[0]
            late = work.deadline <= now
            if works and not late and rows + work.rows > self._max_batch:
                break
            group.works.popleft()
            self._left(group, work)
            if late:
                self._end(work, _late())
            else:
                works.append(work)
                rows += work.rows
        return works

    def _left(self, group: _Group, work: Work) -> None:
        """A piece of work is out of the queue."""
        self._waiting -= 1
        group.rows -= work.rows
        if not group.works:
            del self._groups[work.key]

    # running, in the engine's thread or inline

    def _execute(self, works: list[Work]) -> _Outcome:
        outcome = _Outcome()
        self._run_group(works, outcome)
        outcome.batch = max(0.0, time.monotonic() - outcome.started - outcome.model)
        return outcome

    def _run_group(self, works: Sequence[Work], outcome: _Outcome) -> None:
        """Answers in the order of `works`. A failing group is halved, so that only the culprit keeps its error."""
        try:
            answers = self._run_together(works, outcome)
        except BaseException as error:  # also what libraries written in other languages throw, as a panic in Rust
            outcome.failed = True
            if len(works) == 1:
                outcome.answers.append(engine_error(error))
                return
            middle = len(works) // 2
            self._run_group(works[:middle], outcome)
            self._run_group(works[middle:], outcome)
        else:
            outcome.answers += answers

    def _run_together(self, works: Sequence[Work], outcome: _Outcome) -> list[Tensors]:
        if len(works) == 1:
            (work,) = works
            if work.rows > self._max_batch and self._batchable:
                return [self._run_in_slices(work, outcome)]
            return [self._call(work.inputs, work.rows, outcome)]
        first = works[0].inputs
        joined = {name: np.concatenate([work.inputs[name] for work in works]) for name in first}
        rows = sum(work.rows for work in works)
        return _split(self._call(joined, rows, outcome), [work.rows for work in works], rows)

    def _run_in_slices(self, work: Work, outcome: _Outcome) -> Tensors:
        """A request with more rows than a batch may have. It is given up between two calls when nobody needs it any more."""
        parts: list[Tensors] = []
        for start in range(0, work.rows, self._max_batch):
            if work.cancelled or work.deadline <= time.monotonic():
                raise _late()
            piece = {name: array[start : start + self._max_batch] for name, array in work.inputs.items()}
            rows = min(self._max_batch, work.rows - start)
            parts += _split(self._call(piece, rows, outcome), [rows], rows)
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _call(self, inputs: Tensors, rows: int, outcome: _Outcome) -> Tensors:
        begun = time.monotonic()
        try:
            return self._run(inputs)
        finally:
            seconds = time.monotonic() - begun
            outcome.model += seconds
            outcome.calls.append((rows, seconds))

    # handing out

    def _deliver(self, works: Sequence[Work], outcome: _Outcome) -> None:
        self.statistics.touch()
        for work, answer in zip(works, outcome.answers, strict=True):
            queue = max(0.0, outcome.started - work.arrived)
            self._end(work, answer, Timing(queue, outcome.batch, outcome.model, work.rows))

    def _end(self, work: Work, answer: Tensors | OpenMaaSError, timing: Timing | None = None) -> None:
        if work.cancelled:
            self.statistics.cancelled += 1
            return
        try:
            work.done(answer, timing or Timing(queue=time.monotonic() - work.arrived, rows=work.rows))
        except Exception:
            get_logger("batcher").exception("done_failed")  # and those after it still get their answers


def _split(outputs: Tensors, rows: Sequence[int], total: int) -> list[Tensors]:
    """Each request's own rows. Raises EngineFailed when an output does not have the batch's rows: it cannot be told apart."""
    for name, array in outputs.items():
        if array.ndim == 0 or len(array) != total:
            raise EngineFailed(
                f"Output {name!r} has shape {list(array.shape)} for a batch of {total} rows.", code="output_not_batched"
            )
    parts: list[Tensors] = []
    start = 0
    for count in rows:
        parts.append({name: array[start : start + count] for name, array in outputs.items()})
        start += count
    return parts


def _head_arrived(group: _Group) -> float:
    return group.works[0].arrived


def _late() -> DeadlineExceeded:
    return DeadlineExceeded(
        "The request's time was over before the model was through with it.",
        next_step="Allow it more time, or deploy with more --replicas.",
    )


def engine_error(error: BaseException, what: str = "The model failed on this input") -> OpenMaaSError:
    """What an engine or a library raised, as an error of ours."""
    if isinstance(error, OpenMaaSError):
        return error
    if isinstance(error, MemoryError):
        return Unavailable(
            "The model ran out of memory on this input.",
            code="out_of_memory",
            retry_after=1.0,
            next_step="Send fewer rows a request, or deploy with more --memory.",
        )
    text = without_paths(" ".join(str(error).split())[:500])
    return EngineFailed(f"{what}: {type(error).__name__}: {text}.")

"""Joins requests that wait into one engine call, and hands each its own part of the answer.

The engine is started the moment it is free; nothing waits for batch-mates unless `max_wait` asks for it. Work whose caller left
leaves the queue at once, work whose deadline passed when its turn comes. A batch that fails is split until only the culprit
fails. Every piece of work ends exactly once.
"""

from __future__ import annotations

import asyncio
import math
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from openmaas.core.contracts import Timing
from openmaas.core.errors import OpenMaaSError, Unavailable
from openmaas.core.log import get_logger
from openmaas.core.processing import Padding
from openmaas.replica import sequences
from openmaas.replica.pace import Pace
from openmaas.replica.running import Batch, Run, Runner, engine_error, late
from openmaas.replica.statistics import Statistics
from openmaas.replica.waiting import Group, Limits, Waiting
from openmaas.replica.work import Tensors, Work

__all__ = ["Batcher", "Tensors", "Work", "engine_error"]

# An engine call shorter than this runs on the event loop: handing it to a thread and back costs more than it saves.
INLINE_BELOW: Final = 0.0005
# Bytes of input up to which the time of other calls says how long this one takes.
INLINE_BYTES: Final = 64 * 1024
# Tokens of one batch for each of its rows, where nobody says how many.
TOKENS_A_ROW: Final = 128
# A batch with this share of what it may have is full.
_FULL: Final = 0.75


class Batcher:
    """The queue before one engine. All methods belong to the event loop's thread.

    run: the engine's own call; blocks, and is never called twice at a time. max_batch: rows a call. max_queue: requests
    waiting. max_wait: seconds that a request may wait for batch-mates while the engine is free. padding: how rows of different
    lengths may share a call, and then max_tokens: its rows times the longest of them, 0 for a default; one row may be longer.
    """

    def __init__(
        self,
        run: Run,
        *,
        batchable: bool,
        max_batch: int = 32,
        max_queue: int = 1024,
        max_wait: float = 0.0,
        padding: Padding | None = None,
        max_tokens: int = 0,
        statistics: Statistics | None = None,
    ) -> None:
        self._max_batch = max_batch if batchable else 1
        self._limits = Limits(self._max_batch, max_tokens or TOKENS_A_ROW * self._max_batch)
        self._max_queue = max_queue
        self._max_wait = max_wait
        self._padding = padding if batchable else None
        self.statistics = statistics or Statistics()
        self._runner = Runner(run, batchable=batchable, padding=self._padding)
        self._pace = Pace(self._max_batch)
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._waiting = Waiting()
        self._running: list[Work] = []
        self._started = 0.0
        self._scheduled: asyncio.Handle | None = None
        self._patient = False  # what is scheduled waits for batch-mates
        self._typical = math.inf  # seconds of an engine call, smoothed; unknown at first, so the first call gets the thread
        self._closed = False

    @property
    def queued(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    @property
    def in_flight(self) -> int:
        """Requests that wait or run."""
        return len(self._waiting) + len(self._running)

    @property
    def stalled(self) -> float:
        """Seconds that the running engine call has taken so far; 0 when none runs."""
        return time.monotonic() - self._started if self._running else 0.0

    def check_room(self) -> None:
        """Raise Unavailable when the queue is full or the replica is closing: before a request is even read."""
        if self._closed:
            raise Unavailable("The replica is stopping.", code="stopping", retry_after=1.0)
        waiting = len(self._waiting)
        # What a free engine takes in a moment does not count as waiting.
        if waiting >= self._max_queue + (0 if self._running else self._max_batch):
            self.statistics.rejected += 1
            raise Unavailable(
                f"{waiting} requests wait already, the limit (max_queue) is {self._max_queue}.",
                code="queue_full",
                retry_after=max(1.0, min(60.0, self._typical * waiting / self._max_batch)),
                next_step="Try again later, or deploy with more --replicas.",
            )

    def submit(self, work: Work) -> None:
        """Queue one piece of work. Raises Unavailable at once when there is no room."""
        self.check_room()
        if self._padding is not None:
            sequences.measure(work, self._padding)
        group = self._waiting.add(work)
        if self._running or (self._scheduled is not None and not self._patient):
            return
        if self._patient and not group.is_full(self._limits):
            return
        self._schedule()

    def cancel(self, work: Work) -> None:
        """Nobody waits for it any more: it gives its place in the queue back; where it runs already, its answer is dropped."""
        work.cancelled = True
        if self._waiting.remove(work):
            self.statistics.cancelled += 1

    def close(self) -> None:
        """End everything that waits with an error; what runs ends by itself."""
        self._closed = True
        if self._scheduled is not None:
            self._scheduled.cancel()
        for work in self._waiting.clear():
            self._end(
                work, Unavailable("The replica stopped before it came to this request.", code="stopping", retry_after=1.0)
            )
        self._thread.shutdown(wait=False, cancel_futures=True)

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
        batch = self._take()
        if batch is None:
            return
        self._running = batch.works
        self._started = time.monotonic()
        if self._typical < INLINE_BELOW and self._is_small(batch.works):
            self._runner.execute(batch)
            self._running = []
            self._learn(batch)
            if self._waiting:
                self._schedule()
            self._deliver(batch)
        else:
            self._loop.run_in_executor(self._thread, self._runner.execute, batch).add_done_callback(
                lambda future: self._executed(batch, future)
            )

    def _is_small(self, works: list[Work]) -> bool:
        """Whether it can be believed that this call is as short as the others were."""
        size = sum([array.nbytes for work in works for array in work.inputs.values()])
        return size <= INLINE_BYTES and works[0].rows <= self._max_batch

    def _executed(self, batch: Batch, future: asyncio.Future[Batch]) -> None:
        self._running = []
        if future.cancelled():
            batch.answers = [Unavailable("The replica is stopping.", code="stopping", retry_after=1.0) for _ in batch.works]
        else:
            self._learn(batch)
        # The engine gets its next batch before the answers of this one are encoded.
        self._dispatch()
        self._deliver(batch)

    def _learn(self, batch: Batch) -> None:
        """Counts, and how long a call takes: a slower one counts at once, a faster one by and by, and only if it succeeded."""
        for rows, seconds in batch.calls:
            self.statistics.executed(rows, seconds)
            if seconds >= self._typical:
                self._typical = seconds
            elif not batch.failed:
                self._typical = self._typical + 0.2 * (seconds - self._typical) if self._typical < math.inf else seconds
        if batch.padded:
            self.statistics.padded(batch.tokens, batch.padded - batch.tokens)
        rows = sum([rows for rows, _ in batch.calls])
        limits = batch.limits
        full = rows >= _FULL * limits.rows or batch.padded >= _FULL * limits.tokens
        if full and not batch.failed and batch.works[0].rows <= limits.rows:
            self._pace.learn(batch.size, batch.padded or rows, time.monotonic() - self._started)

    def _take(self) -> Batch | None:
        """The next batch: of those that may share one, the group whose head has waited longest."""
        now = time.monotonic()
        while (group := self._waiting.oldest()) is not None:
            if self._max_wait and (delay := self._patience(group, now)) > 0:
                full = self._waiting.full(self._limits)
                if full is None:
                    self._schedule(delay)
                    return None
                group = full
            size = self._pace.choose(group.rows)
            limits = (
                Limits(Pace.limit(self._limits.rows, size), Pace.limit(self._limits.tokens, size)) if size else self._limits
            )
            works, over = self._waiting.take(group, now, limits)
            for work in over:
                self._end(work, late())
            if works:
                return Batch(works, limits, size)
        return None

    def _patience(self, group: Group, now: float) -> float:
        """Seconds that this group may still wait for batch-mates."""
        return 0.0 if group.is_full(self._limits) else group.head.arrived + self._max_wait - now

    # handing out

    def _deliver(self, batch: Batch) -> None:
        self.statistics.touch()
        around = max(0.0, batch.took - batch.model)
        for work, answer in zip(batch.works, batch.answers, strict=True):
            queue = max(0.0, batch.started - work.arrived)
            self._end(work, answer, Timing(queue, around, batch.model, work.rows))

    def _end(self, work: Work, answer: Tensors | OpenMaaSError, timing: Timing | None = None) -> None:
        if work.cancelled:
            self.statistics.cancelled += 1
            return
        try:
            work.done(answer, timing or Timing(queue=time.monotonic() - work.arrived, rows=work.rows))
        except Exception:
            get_logger("batcher").exception("done_failed")  # and those after it still get their answers

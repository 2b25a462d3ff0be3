"""Which completions the engine is asked for, and who gets what it gives.

Requests stand in one line. The first in it gets the next free place for one of its answers; where it wants more it goes to the
end, so that a request with n answers holds up nobody who wants one.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Final

from openmaas.core.errors import OpenMaaSError, Unavailable
from openmaas.core.generation import Progress
from openmaas.engines import GenerationEngine
from openmaas.replica.generation.completion import Completion
from openmaas.replica.generation.generation import Generation
from openmaas.replica.generation.loop import Broke, EngineLoop
from openmaas.replica.generation.statistics import GenerationStatistics
from openmaas.replica.statistics import Statistics

_SHORTEST_WAIT: Final = 1.0
_LONGEST_WAIT: Final = 60.0


class Scheduler:
    """All methods belong to the event loop's thread.

    max_running: completions inside the engine. max_queue: requests of which none is. on_broken: called once when a step of the
    engine raised, after every request was ended.
    """

    def __init__(
        self,
        engine: GenerationEngine,
        *,
        max_running: int,
        max_queue: int,
        statistics: Statistics,
        counts: GenerationStatistics,
        on_broken: Broke,
    ) -> None:
        self._max_running = max_running
        self._max_queue = max_queue
        self._statistics = statistics
        self._counts = counts
        self._on_broken = on_broken
        self._waiting: set[Generation] = set()
        self._begun: set[Generation] = set()
        self._line: OrderedDict[Generation, None] = OrderedDict()
        self._running: dict[int, tuple[Generation, Completion]] = {}
        self._closed: OpenMaaSError | None = None
        self._engine = EngineLoop(engine, self._deliver, self._broke)

    @property
    def waiting(self) -> int:
        """Requests none of which the engine has."""
        return len(self._waiting)

    @property
    def in_flight(self) -> int:
        """Requests that are not over."""
        return len(self._waiting) + len(self._begun)

    @property
    def stalled(self) -> float:
        """Seconds that the engine has been at its step."""
        return self._engine.stalled

    @property
    def ready(self) -> bool:
        return self._closed is None

    @property
    def steps(self) -> int:
        """Of the engine so far."""
        return self._engine.steps

    def as_wire(self) -> dict[str, object]:
        unplanned = len(self._waiting - self._line.keys())
        pending = unplanned + sum([len(generation.pending) for generation in self._line])
        return self._counts.as_wire(len(self._running), pending, self._engine.load)

    def check_room(self) -> None:
        """Raise Unavailable when the line is full or the replica is closing: before a request is even read."""
        if self._closed is not None:
            raise _stopping()
        waiting = len(self._waiting)
        # What the engine has places for does not count as waiting.
        if waiting >= self._max_queue + self._max_running - len(self._running):
            self._statistics.rejected += 1
            raise Unavailable(
                f"{waiting} requests wait already, the limit (max_queue) is {self._max_queue}.",
                code="queue_full",
                retry_after=self._soon(waiting),
                next_step="Try again later, or deploy with more --replicas.",
            )

    def enter(self, generation: Generation) -> None:
        """It waits from now on, whether or not it is known what it asks for."""
        self._waiting.add(generation)

    def submit(self, generation: Generation) -> None:
        """It is planned: its completions wait for their turn."""
        self._line[generation] = None
        self._fill()

    def leave(self, generation: Generation) -> None:
        """It is over: what it still had here is free for others."""
        self._waiting.discard(generation)
        self._begun.discard(generation)
        self._line.pop(generation, None)
        for completion in generation.completions:
            if self._running.pop(completion.request.id, None) is not None:
                self._engine.cancel(completion.request.id)
        self._fill()

    def close(self) -> None:
        """End everything with an error, and the engine after the step that it is at."""
        self._shut(_stopping())
        self._engine.close()

    def _fill(self) -> None:
        while self._line and len(self._running) < self._max_running and self._closed is None:
            generation, _ = self._line.popitem(last=False)
            completion = generation.begin()
            self._waiting.discard(generation)
            self._begun.add(generation)
            self._running[completion.request.id] = generation, completion
            self._engine.admit(completion.request)
            if generation.pending:
                self._line[generation] = None

    def _deliver(self, progresses: list[Progress]) -> None:
        now = time.monotonic()
        running = self._running
        touched: dict[Generation, None] = {}
        for progress in progresses:
            self._counts.generation_tokens += len(progress.tokens)
            found = running.get(progress.id)
            if found is None:  # its caller has left
                continue
            generation, completion = found
            touched[generation] = None
            try:
                generation.give(completion, progress, now)
            except Exception as error:
                generation.fail(error)
            if completion.finish and running.pop(progress.id, None) is not None and not progress.finish:
                self._engine.cancel(progress.id)  # at a text that ends it
        self._fill()
        for generation in touched:
            try:
                generation.flush()
            except Exception as error:
                generation.fail(error)

    def _broke(self, error: OpenMaaSError) -> None:
        self._running.clear()  # nobody is there to be told of what is cancelled
        self._shut(error)
        self._on_broken(error)

    def _shut(self, error: OpenMaaSError) -> None:
        self._closed = error
        for generation in tuple(self._waiting):
            generation.fail(_stopping())
        for generation in tuple(self._begun):
            generation.fail(error)

    def _soon(self, waiting: int) -> float:
        """Seconds after which there may be room: as long as requests took so far, for as many turns as stand in the line."""
        success = self._statistics.success
        typical = success.seconds / success.count if success.count else _SHORTEST_WAIT
        return max(_SHORTEST_WAIT, min(_LONGEST_WAIT, typical * waiting / self._max_running))


def _stopping() -> Unavailable:
    return Unavailable("The replica is stopping.", code="stopping", retry_after=1.0)

"""The one thread that talks to the engine, and what passes between it and the event loop: neither ever waits for the other."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Final, TypeAlias

from openmaas.core.errors import OpenMaaSError
from openmaas.core.generation import EngineLoad, GenerationRequest, Progress
from openmaas.core.log import get_logger
from openmaas.engines import GenerationEngine
from openmaas.replica.running import engine_error

Deliver: TypeAlias = Callable[[list[Progress]], None]
Broke: TypeAlias = Callable[[OpenMaaSError], None]
_STOP: Final = None
_LAST_STEP: Final = 2.0  # seconds


class EngineLoop:
    """Admits, cancels and steps while there is anything to do, and sleeps while there is not.

    deliver: gets what steps gave, on the event loop, in their order; what several gave a request while the event loop was busy
    is one progress. broke: gets, on the event loop and at most once, what a step raised; the engine is not called again then.
    """

    def __init__(self, engine: GenerationEngine, deliver: Deliver, broke: Broke) -> None:
        self._engine = engine
        self._deliver = deliver
        self._broke = broke
        self._events = asyncio.get_running_loop()
        self._inbox: SimpleQueue[GenerationRequest | int | None] = SimpleQueue()
        self._outbox: deque[Progress] = deque()
        self._told = False  # the event loop has been asked to look into the outbox, and has not yet
        self._begun = 0.0
        self._closed = False
        self.steps = 0
        self.load = EngineLoad()
        # A daemon: a step that hangs must not keep the process.
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def stalled(self) -> float:
        """Seconds that the engine has been at one step (or at taking one request in); 0 while it sleeps."""
        begun = self._begun
        return time.monotonic() - begun if begun else 0.0

    def admit(self, request: GenerationRequest) -> None:
        self._inbox.put(request)

    def cancel(self, request_id: int) -> None:
        self._inbox.put(request_id)

    def close(self) -> None:
        """The thread ends after the step that runs, and closes the engine. Nothing is delivered any more.

        The last thing that a process does: it waits a moment, since libraries do not like to be torn down in mid-step."""
        self._closed = True
        self._inbox.put(_STOP)
        self._thread.join(_LAST_STEP)

    # on the engine's thread

    def _run(self) -> None:
        try:
            while self._take():
                self._begun = time.monotonic()
                if self._engine.busy:
                    self._give(self._engine.step())
                    self.steps += 1
                self.load = self._engine.load_now()
                self._begun = 0.0
        except BaseException as error:  # also what libraries written in other languages throw, as a panic in Rust
            get_logger("engine").exception("step_failed")
            self._begun = 0.0
            self._call(self._broke, engine_error(error, "The engine broke"))
        else:
            self._engine.close()

    def _take(self) -> bool:
        """Do what the inbox says, waiting for it only where nothing runs. False when it is over."""
        wait = not self._engine.busy
        while True:
            try:
                item = self._inbox.get(block=wait)
            except Empty:
                return True
            if item is _STOP:
                return False
            self._begun = time.monotonic()
            if isinstance(item, int):
                self._engine.cancel(item)
            else:
                self._admit(item)
            wait = False

    def _admit(self, request: GenerationRequest) -> None:
        try:
            self._engine.admit(request)
        except Exception as error:
            self._give([Progress(request.id, [], error=engine_error(error, "The engine did not take this request"))])

    def _give(self, progress: list[Progress]) -> None:
        self._outbox.extend(progress)
        if progress and not self._told:
            self._told = True
            self._call(self._collect)

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        try:
            self._events.call_soon_threadsafe(function, *arguments)
        except RuntimeError:  # the event loop is closed: nobody is left to be told
            get_logger("engine").debug("nobody_listens")

    # on the event loop

    def _collect(self) -> None:
        # In this order: what comes after the first line brings another call.
        self._told = False
        outbox = self._outbox
        progress: list[Progress] = []
        by_id: dict[int, Progress] = {}
        while outbox:
            new = outbox.popleft()
            before = by_id.get(new.id)
            if before is None or new.error is not None:
                by_id[new.id] = new
                progress.append(new)
            else:
                _join(before, new)
        if not self._closed:
            self._deliver(progress)


def _join(progress: Progress, later: Progress) -> None:
    """Several steps as if they had been one."""
    progress.tokens = [*progress.tokens, *later.tokens]
    if later.logprobs is not None:
        progress.logprobs = [*(progress.logprobs or ()), *later.logprobs]
    progress.finish = later.finish

"""A job that sees early that a step will not end in time, so that the rest of the time is there for others."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from openmaas.tasks.base import Job
from openmaas.tasks.optimization.runner import OutOfTime

_SURE: Final = 3.0  # seconds of progress that tell the speed
_LENIENT: Final = 1.15  # times the time that is left


class TooSlow(OutOfTime):
    """seconds: that the step would have taken."""

    seconds: float = 0.0


class Watched:
    """The job, whose progress raises TooSlow where, at the speed seen, a step would be over long after the deadline (on the
    clock's time; None is none)."""

    def __init__(self, job: Job, clock: Callable[[], float] = time.monotonic) -> None:
        self._job = job
        self._clock = clock
        self._began = (0.0, 0.0, 0.0)
        """Of what is in progress: its total, how much of it was done when it was first told of, and when that was."""
        self._done = 0.0
        self.deadline: float | None = None

    def progress(self, stage: str, done: float = 0.0, total: float = 0.0) -> None:
        self._job.progress(stage, done, total)
        now = self._clock()
        if total != self._began[0] or done < self._done:
            self._began = (total, done, now)
        self._done = done
        _, first, start = self._began
        if self.deadline is None or done <= first or now - start < _SURE:
            return
        left = (total - done) * (now - start) / (done - first)
        if left > (self.deadline - now) * _LENIENT:
            slow = TooSlow(
                f"Ended after {now - start:.0f} s: it would have taken {left:.0f} s more, which is more than was left.",
                code="out_of_time",
            )
            slow.seconds = now - start + left
            raise slow

    def __getattr__(self, name: str) -> Any:
        return getattr(self._job, name)

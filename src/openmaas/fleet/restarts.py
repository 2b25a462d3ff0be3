"""When to start a child again, and when to stop trying."""

from __future__ import annotations

_SHORTEST = 0.1
_LONGEST = 10.0
CRASH_LOOP = 5


class Restarts:
    """Back-off that doubles from 0.1 s to 10 s and begins anew with progress.

    attempts: starts in a row without progress after which the child stays down; None tries for ever.
    """

    def __init__(self, attempts: int | None = CRASH_LOOP) -> None:
        self._attempts = attempts
        self.starts = 0
        self.fruitless = 0
        self._given_up = False

    def started(self) -> None:
        self.starts += 1
        self.fruitless += 1

    def progressed(self) -> None:
        """This start was worth it: it answered something, or stayed ready for a while."""
        self.fruitless = 0

    def give_up(self) -> None:
        """The child said itself that it would fail the same way again."""
        self._given_up = True

    @property
    def exhausted(self) -> bool:
        return self._given_up or self.looping

    @property
    def looping(self) -> bool:
        """Started as often as is allowed, and never to any use."""
        return self._attempts is not None and self.fruitless >= self._attempts

    @property
    def delay(self) -> float:
        """Seconds until the next start."""
        doublings = min(max(self.fruitless - 1, 0), 10)
        return min(_SHORTEST * 2.0**doublings, _LONGEST)

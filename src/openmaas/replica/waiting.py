"""What waits before an engine, and which of it goes into the next batch.

Whoever has waited longest is always in the next batch, so nobody starves. Works of equal shape are joined in the order of their
arrival; sequences that may be padded with those nearest to the oldest in length.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict, deque
from collections.abc import Hashable, Iterator
from typing import Final, NamedTuple, Protocol, TypeAlias

from openmaas.replica.work import Work

# Padding that a batch may have: as a share of its real tokens, and in tokens, below which another call would cost more.
_WASTE: Final = 0.25
_FREE: Final = 64


class Limits(NamedTuple):
    """Of one call of the engine. tokens: rows times the longest of them, where rows are sequences."""

    rows: int
    tokens: int


Taken: TypeAlias = tuple[list[Work], list[Work]]
"""The works of a batch, and those that were passed over because their time is over: both have left the queue."""


class Group(Protocol):
    """Works that may share a batch."""

    rows: int

    def __len__(self) -> int: ...

    @property
    def head(self) -> Work:
        """The one that has waited longest."""

    def add(self, work: Work) -> None: ...

    def remove(self, work: Work) -> bool:
        """Whether it was there."""

    def is_full(self, limits: Limits) -> bool:
        """Whether there is enough for one call."""

    def take(self, now: float, limits: Limits) -> Taken: ...

    def __iter__(self) -> Iterator[Work]: ...


class Line:
    """Works of equal shape, in the order of their arrival."""

    __slots__ = ("_works", "rows")

    def __init__(self) -> None:
        self._works: deque[Work] = deque()
        self.rows = 0

    def __len__(self) -> int:
        return len(self._works)

    def __iter__(self) -> Iterator[Work]:
        return iter(self._works)

    @property
    def head(self) -> Work:
        return self._works[0]

    def add(self, work: Work) -> None:
        self._works.append(work)
        self.rows += work.rows

    def remove(self, work: Work) -> bool:
        try:
            self._works.remove(work)
        except ValueError:
            return False
        self.rows -= work.rows
        return True

    def is_full(self, limits: Limits) -> bool:
        return self.rows >= limits.rows

    def take(self, now: float, limits: Limits) -> Taken:
        batch: list[Work] = []
        late: list[Work] = []
        waiting = self._works
        most = limits.rows
        rows = 0
        while waiting and rows < most:
            work = waiting[0]
            if work.deadline <= now:
                late.append(work)
            elif batch and rows + work.rows > most:
                break
            else:
                batch.append(work)
                rows += work.rows
            waiting.popleft()
            self.rows -= work.rows
        return batch, late


class Shelf:
    """Sequences that may be padded to one length, in the order of their lengths."""

    __slots__ = ("_added", "_arrived", "_sorted", "_tokens", "rows")

    def __init__(self) -> None:
        self._sorted: list[_Place] = []
        self._arrived: OrderedDict[Work, _Place] = OrderedDict()
        self._added = 0
        self._tokens = 0
        self.rows = 0

    def __len__(self) -> int:
        return len(self._sorted)

    def __iter__(self) -> Iterator[Work]:
        return iter(self._arrived)

    @property
    def head(self) -> Work:
        return next(iter(self._arrived))

    def add(self, work: Work) -> None:
        self._added += 1
        place = _Place(work.length, self._added, work)
        insort(self._sorted, place)
        self._arrived[work] = place
        self.rows += work.rows
        self._tokens += work.rows * work.length

    def remove(self, work: Work) -> bool:
        place = self._arrived.pop(work, None)
        if place is None:
            return False
        del self._sorted[bisect_left(self._sorted, place)]
        self._left(work)
        return True

    def is_full(self, limits: Limits) -> bool:
        return self.rows >= limits.rows or self._tokens >= limits.tokens

    def take(self, now: float, limits: Limits) -> Taken:
        late: list[Work] = []
        while self._arrived and self.head.deadline <= now:
            late.append(self.head)
            self.remove(self.head)
        if not self._arrived:
            return [], late
        batch: list[Work] = []
        for work in self._pop_near(self._arrived[self.head], limits):
            (late if work.deadline <= now else batch).append(work)
        return batch, late

    def _pop_near(self, oldest: _Place, limits: Limits) -> list[Work]:
        """The oldest and those nearest to it in length, as many as fit without much padding."""
        places = self._sorted
        low = bisect_left(places, oldest)
        high = low + 1
        batch = _Rectangle(oldest.work)
        while batch.rows < limits.rows:
            shorter = batch.with_one(places[low - 1].work) if low else None
            longer = batch.with_one(places[high].work) if high < len(places) else None
            if shorter is not None and not shorter.fits(limits):
                shorter = None
            if longer is not None and not longer.fits(limits):
                longer = None
            if longer is not None and (shorter is None or longer.waste <= shorter.waste):
                batch, high = longer, high + 1
            elif shorter is not None:
                batch, low = shorter, low - 1
            else:
                break
        works = [place.work for place in places[low:high]]
        del places[low:high]
        for work in works:
            del self._arrived[work]
            self._left(work)
        return works

    def _left(self, work: Work) -> None:
        self.rows -= work.rows
        self._tokens -= work.rows * work.length


class _Place(NamedTuple):
    """Sorted by length, and by arrival among those of one length."""

    length: int
    number: int
    work: Work


class _Rectangle:
    """Rows padded to the longest of them. The padding inside of one request is its own."""

    __slots__ = ("length", "real", "rows", "waste")

    def __init__(self, work: Work) -> None:
        self.rows = work.rows
        self.length = work.length
        self.real = work.rows * work.length
        self.waste = 0.0

    def with_one(self, work: Work) -> _Rectangle:
        larger = _Rectangle(work)
        larger.rows += self.rows
        larger.real += self.real
        larger.length = max(self.length, work.length)
        larger.waste = (larger.rows * larger.length - larger.real) / larger.real
        return larger

    def fits(self, limits: Limits) -> bool:
        padded = self.rows * self.length
        return self.rows <= limits.rows and padded <= limits.tokens and padded - self.real <= max(_FREE, _WASTE * self.real)


class Waiting:
    """All groups. len() is the number of works."""

    def __init__(self) -> None:
        self._groups: dict[Hashable, Group] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, work: Work) -> Group:
        """The group that it went into."""
        group = self._groups.get(work.key)
        if group is None:
            group = self._groups[work.key] = Shelf() if work.length else Line()
        group.add(work)
        self._count += 1
        return group

    def remove(self, work: Work) -> bool:
        """Whether it waited here."""
        group = self._groups.get(work.key)
        if group is None or not group.remove(work):
            return False
        self._count -= 1
        if not len(group):
            del self._groups[work.key]
        return True

    def oldest(self) -> Group | None:
        """The group whose head has waited longest."""
        groups = self._groups
        if len(groups) > 1:
            return min(groups.values(), key=_head_arrived)
        return next(iter(groups.values()), None)

    def full(self, limits: Limits) -> Group | None:
        """A group that has enough for one call."""
        return next((group for group in self._groups.values() if group.is_full(limits)), None)

    def take(self, group: Group, now: float, limits: Limits) -> Taken:
        """Take a batch, around the oldest of its group, out of the queue."""
        key = group.head.key
        taken = group.take(now, limits)
        self._count -= len(taken[0]) + len(taken[1])
        if not len(group):
            del self._groups[key]
        return taken

    def clear(self) -> list[Work]:
        """Take everything out."""
        works = [work for group in self._groups.values() for work in group]
        self._groups, self._count = {}, 0
        return works


def _head_arrived(group: Group) -> float:
    return group.head.arrived

"""What a model remembers of each sequence: keys and values of its tokens, within a budget that all sequences share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

_ROUND = 64  # tokens: what a memory grows by at least
_LEAST_SHARED = 16  # tokens: fewer are computed sooner than they are found


class Budget:
    """Tokens that may be remembered at a time."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.taken = 0

    def take(self, tokens: int) -> bool:
        if self.taken + tokens > self.total:
            return False
        self.taken += tokens
        return True

    def give_back(self, tokens: int) -> None:
        self.taken -= tokens

    def memory(self) -> Memory:
        """Of a new sequence, which has taken nothing so far."""
        return Memory(self)


class Memory:
    """Of one sequence. `length`: tokens whose keys and values it holds. `room`: for so many it has taken from the budget."""

    def __init__(self, budget: Budget) -> None:
        self.length = 0
        self.room = 0
        self._budget = budget
        self._layers: dict[int, tuple[Any, Any]] = {}

    @property
    def bytes(self) -> int:
        """That its keys and values take."""
        return sum(buffer.numel() * buffer.element_size() for pair in self._layers.values() for buffer in pair)

    @property
    def layers(self) -> int:
        """That have keys and values in it."""
        return len(self._layers)

    def reserve(self, length: int) -> bool:
        """Room for so many tokens; False where the budget has none."""
        if length <= self.room:
            return True
        ample = -(-max(length, min(2 * self.room, self.room + 8 * _ROUND)) // _ROUND) * _ROUND
        for room in (ample, length):
            if self._budget.take(room - self.room):
                self.room = room
                return True
        return False

    def append(self, layer: int, keys: Any, values: Any) -> tuple[Any, Any]:
        """All keys and values of a layer, [1, heads, tokens, size] each, with the new ones, which take their places after
        `length`. `length` itself grows once all layers have theirs."""
        held = self._layers.get(layer)
        if held is None or held[0].shape[2] < self.room:
            before = held or (None, None)
            held = self._layers[layer] = (self._grown(before[0], keys), self._grown(before[1], values))
        end = self.length + keys.shape[2]
        for buffer, new in zip(held, (keys, values), strict=True):
            buffer[:, :, self.length : end] = new
        return held[0][:, :, :end], held[1][:, :, :end]

    def _grown(self, old: Any, like: Any) -> Any:
        buffer = like.new_empty((*like.shape[:2], self.room, like.shape[3]))
        if old is not None:
            buffer[:, :, : self.length] = old[:, :, : self.length]
        return buffer

    def copy_from(self, other: Memory, length: int) -> None:
        """The first tokens of another sequence. Room for them was reserved."""
        for layer, (keys, values) in other._layers.items():
            self.append(layer, keys[:, :, :length], values[:, :, :length])
        self.length = length

    def free(self) -> None:
        self._budget.give_back(self.room)
        self._layers.clear()
        self.length = self.room = 0


class Segment(msgspec.Struct):
    """More tokens of one sequence: they follow those that its memory holds, which has room for them."""

    tokens: Sequence[int]
    memory: Memory


class Held(msgspec.Struct, eq=False):
    """Tokens, and the memory that holds the first of them. salt: of the request that they came with."""

    salt: str
    tokens: list[int]
    memory: Memory

    def alike(self, salt: str, prompt: list[int]) -> int:
        """How many tokens of the prompt the memory begins with; 0 where too few to be worth it."""
        if salt != self.salt or prompt[:_LEAST_SHARED] != self.tokens[:_LEAST_SHARED]:
            return 0
        low, high = 0, min(len(prompt), self.memory.length)
        while low < high:  # by halves: lists are compared in C
            middle = (low + high + 1) // 2
            if prompt[low:middle] == self.tokens[low:middle]:
                low = middle
            else:
                high = middle - 1
        return low if low >= _LEAST_SHARED else 0


class Prefixes:
    """What sequences that are over have left, the one used last at the end: what begins alike is not computed again."""

    def __init__(self, most: int = 64) -> None:
        self._most = most
        self._kept: list[Held] = []

    def __iter__(self) -> Iterator[Held]:
        return iter(self._kept)

    @property
    def room(self) -> int:
        """Tokens of the budget that can be free at once."""
        return sum(held.memory.room for held in self._kept)

    def keep(self, held: Held) -> None:
        """It takes the place of what it begins with."""
        if held.memory.length < _LEAST_SHARED:
            held.memory.free()
            return
        for other in [*self._kept]:
            if other.memory.length <= held.alike(other.salt, other.tokens[: other.memory.length]):
                self._kept.remove(other)
                other.memory.free()
        self._kept.append(held)
        if len(self._kept) > self._most:
            self.forget()

    def forget(self) -> bool:
        """Free the one that was not used for the longest time; False where there is none."""
        if self._kept:
            self._kept.pop(0).memory.free()
            return True
        return False

    def touch(self, held: Held) -> None:
        """It was used just now."""
        if held in self._kept:
            self._kept.remove(held)
            self._kept.append(held)

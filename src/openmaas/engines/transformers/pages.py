"""Memories of many sequences in one store of pages, so that one call reads them all (Kwon et al. 2023, PagedAttention)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmaas.engines.transformers.cache import Budget, Memory, Segment

PAGE = 64  # tokens
_NOBODY = 0  # the page to which the rows write that only fill a batch up


class Pages(Budget):
    """Room for so many tokens (rounded up to pages) on a device. A layer's part is allocated when it first gets something."""

    def __init__(self, tokens: int, device: Any) -> None:
        pages = -(-tokens // PAGE)
        super().__init__(pages * PAGE)
        self._device = device
        self._free = list(range(pages, _NOBODY, -1))
        self._used: list[int] = []
        self._pages = pages + 1
        self.layers: dict[int, tuple[Any, Any]] = {}

    def memory(self) -> PagedMemory:
        return PagedMemory(self)

    def take_pages(self, count: int) -> list[int] | None:
        """None where there are not so many."""
        if not self.take(count * PAGE):
            return None
        taken = [self._free.pop() for _ in range(count)]
        self._used += taken
        return taken

    def give_back_pages(self, pages: Sequence[int]) -> None:
        self.give_back(len(pages) * PAGE)
        self._free += pages

    def clean(self) -> None:
        """Empty what was taken since the last call. What is masked still takes part, as zero times its value: numbers that are
        not finite, left by a sequence that failed, would spoil the next one's."""
        import torch

        if self._used and self.layers:
            places = torch.tensor(self._used, device=self._device)
            for pair in self.layers.values():
                for store in pair:
                    store.index_fill_(0, places, 0)
        self._used.clear()

    def layer(self, index: int, keys: Any, values: Any) -> tuple[Any, Any]:
        """Its stores, [pages, heads, PAGE, size] each, for keys and values like these: [1, heads, tokens, size]."""
        if index not in self.layers:
            self.layers[index] = (self._store(keys), self._store(values))
        return self.layers[index]

    def _store(self, like: Any) -> Any:
        return like.new_zeros((self._pages, like.shape[1], PAGE, like.shape[3]))


class PagedMemory(Memory):
    """Of one sequence: which pages it has, in their order."""

    def __init__(self, store: Pages) -> None:
        super().__init__(store)
        self.store = store
        self.pages: list[int] = []
        self._index: Any = None

    @property
    def bytes(self) -> int:
        stores = (store for pair in self.store.layers.values() for store in pair)
        return sum(int(store[0].nbytes) for store in stores) * len(self.pages)

    @property
    def layers(self) -> int:
        return len(self.store.layers)

    def reserve(self, length: int) -> bool:
        if length <= self.room:
            return True
        taken = self.store.take_pages(-(-(length - self.room) // PAGE))
        if taken is None:
            return False
        self.pages += taken
        self.room = len(self.pages) * PAGE
        return True

    def append(self, layer: int, keys: Any, values: Any) -> tuple[Any, Any]:
        """As Memory does, but that the new ones are in their places already."""
        if self.length == 0:
            return keys, values
        import torch

        end = self.length + keys.shape[2]
        if self._index is None or len(self._index) != len(self.pages):
            self._index = torch.tensor(self.pages, device=keys.device)
        pages = self._index[: -(-end // PAGE)]
        held = [store.index_select(0, pages).transpose(0, 1).flatten(1, 2)[None] for store in self.store.layers[layer]]
        return held[0][:, :, :end], held[1][:, :, :end]

    def copy_from(self, other: Memory, length: int) -> None:
        import torch

        assert isinstance(other, PagedMemory)
        with torch.inference_mode():
            self.store.clean()
            count = -(-length // PAGE)
            for pair in self.store.layers.values():
                for store in pair:
                    store[self.pages[:count]] = store[other.pages[:count]]
                    if length % PAGE:
                        store[self.pages[count - 1], :, length % PAGE :] = 0  # as `clean` has it
        self.length = length

    def free(self) -> None:
        self.store.give_back_pages(self.pages)
        self.pages = []
        self._index = None
        self.length = self.room = 0


def addresses(segments: Sequence[Segment]) -> NDArray[np.int64]:
    """[3, tokens]: of each token its id, its place in the sequence, and where in the store it goes (page * PAGE + offset)."""
    found = np.empty((3, sum(len(segment.tokens) for segment in segments)), dtype=np.int64)
    start = 0
    for segment in segments:
        first, count = segment.memory.length, len(segment.tokens)
        assert isinstance(segment.memory, PagedMemory)
        if count == 1:
            page = segment.memory.pages[first // PAGE]
            found[:, start] = segment.tokens[0], first, page * PAGE + first % PAGE
        else:
            places = np.arange(first, first + count)
            pages = np.array(segment.memory.pages)[places // PAGE]
            found[:, start : start + count] = segment.tokens, places, pages * PAGE + places % PAGE
        start += count
    return found


def table(segments: Sequence[Segment], rows: int = 0, width: int = 0) -> NDArray[np.int64]:
    """[rows, width]: the pages of each sequence up to the one that its next token goes to, filled up with nobody's."""
    counts = [segment.memory.length // PAGE + 1 for segment in segments]
    found = np.full((rows or len(segments), width or max(counts)), _NOBODY, dtype=np.int64)
    for row, (segment, count) in enumerate(zip(segments, counts, strict=True)):
        assert isinstance(segment.memory, PagedMemory)
        found[row, :count] = segment.memory.pages[:count]
    return found


class Group:
    """Sequences that are read together, of which each has one new token. places: int64 [rows], of these tokens in their
    sequences. pages: int64 [rows, width], as `table` gives them."""

    def __init__(self, store: Pages, places: Any, pages: Any) -> None:
        self.count = len(places)
        self._store = store
        self._places = places
        self._pages = pages
        self._seen: dict[int, tuple[Any, Any]] = {}
        self._indices: dict[tuple[int, int], Any] = {}

    def look(self, layer: int, window: int | None) -> tuple[Any, Any, Any]:
        """All keys and values of a layer that a row may see, [rows, heads, tokens, size] each, among others that it may not:
        [rows, tokens] has 0 for those and the lowest number for these."""
        key_store, value_store = self._store.layers[layer]
        reach = min(window // PAGE + 2, self._pages.shape[1]) if window else 0  # pages that a window touches at most
        if (window or 0) not in self._seen:
            self._seen[window or 0] = self._look(window, reach, key_store.dtype)
        pages, seen = self._seen[window or 0]
        return self._gather(key_store, reach, pages), self._gather(value_store, reach, pages), seen

    def _look(self, window: int | None, reach: int, dtype: Any) -> tuple[Any, Any]:
        import torch

        pages, places, device = self._pages, self._places[:, None], self._pages.device
        columns = torch.arange(pages.shape[1], device=device)[None]
        if window and reach < pages.shape[1]:
            columns = (places - window + 1).clamp(min=0) // PAGE + torch.arange(reach, device=device)
            pages = pages.gather(1, columns.clamp(max=pages.shape[1] - 1))  # what comes twice by that is beyond the row's place
        ages = places - (columns[:, :, None] * PAGE + torch.arange(PAGE, device=device)).flatten(1)
        hidden = (ages < 0) | (ages >= window) if window else ages < 0
        return pages, torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(hidden, torch.finfo(dtype).min)

    def _gather(self, store: Any, reach: int, pages: Any) -> Any:
        """One copy puts the pages of each head side by side."""
        import torch

        heads, size = store.shape[1], store.shape[3]
        if (reach, heads) not in self._indices:
            each = torch.arange(heads, device=store.device)
            self._indices[reach, heads] = (pages[:, None, :] * heads + each[None, :, None]).flatten()
        found = store.view(-1, PAGE * size).index_select(0, self._indices[reach, heads])
        return found.view(len(pages), heads, -1, size)


class Places:
    """Where the tokens of one run go, and the groups of sequences that read one of them each: those of the first tokens.

    targets: int64 [tokens], in the store."""

    def __init__(self, store: Pages, targets: Any, groups: Sequence[Group]) -> None:
        self.groups = groups
        self._store = store
        self._targets = targets
        self._rows: dict[int, Any] = {}

    def write(self, layer: int, keys: Any, values: Any) -> None:
        """keys, values: [1, heads, tokens, size]."""
        for store, new in zip(self._store.layer(layer, keys, values), (keys, values), strict=True):
            store.view(-1, store.shape[3]).index_copy_(0, self._of(store.shape[1]), new[0].transpose(0, 1).flatten(0, 1))

    def _of(self, heads: int) -> Any:
        import torch

        if heads not in self._rows:
            pages, offsets = self._targets[:, None] // PAGE, self._targets[:, None] % PAGE
            each = torch.arange(heads, device=self._targets.device)
            self._rows[heads] = ((pages * heads + each) * PAGE + offsets).flatten()
        return self._rows[heads]

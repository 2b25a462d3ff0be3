"""A decoder whose sequences are read together, one attention for all of them in each layer: as a GPU wants it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from openmaas.core.generation import TokenLogprob
from openmaas.engines.transformers import batch_sampler
from openmaas.engines.transformers.cache import Budget, Segment
from openmaas.engines.transformers.graphs import Graphs
from openmaas.engines.transformers.model import Decoder
from openmaas.engines.transformers.pages import PAGE, Group, PagedMemory, Pages, Places, addresses, table
from openmaas.engines.transformers.sampler import Chooser

_GATHERED = 256 << 20  # bytes of keys and values that one call of attention copies at most, unless one sequence has more


class BatchedDecoder(Decoder):
    """Memories are in pages, and what `read` gives stays on the device, until the next call."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self._graphs: Graphs | None = None

    def budget(self, tokens: int) -> Budget:
        pages = Pages(tokens, self.device)
        self._graphs = Graphs(self._together, pages) if self.device.type == "cuda" else None
        return pages

    def read(self, segments: Sequence[Segment], wanted: Sequence[int]) -> Any:
        """As Decoder's, but a tensor of the device."""
        import torch

        store = _store(segments)
        singles = [index for index, segment in enumerate(segments) if len(segment.tokens) == 1]
        groups = list(self._groups(segments, singles))
        with torch.inference_mode():
            store.clean()
            found = self._replayed(segments, wanted, groups)
            if found is None:
                found = self._read(store, segments, wanted, groups)
        for segment in segments:
            segment.memory.length += len(segment.tokens)
        return found

    def choose(self, logits: Any, choosers: Sequence[Chooser]) -> list[tuple[int, TokenLogprob | None]]:
        return batch_sampler.choose(logits, choosers) if choosers else []

    def _groups(self, segments: Sequence[Segment], singles: Sequence[int]) -> Iterator[list[int]]:
        """Those whose keys and values are copied at a time, each as many as the longest has: where that is too much for one
        call, the long ones are apart from the short ones."""
        pages = {index: segments[index].memory.length // PAGE + 1 for index in singles}
        if not singles or self._fits(len(singles), max(pages.values())):
            yield from [list(singles)] if singles else ()
            return
        left = sorted(singles, key=lambda index: -pages[index])
        while left:
            count = 1
            while count < len(left) and self._fits(count + 1, pages[left[0]]):
                count += 1
            yield left[:count]
            left = left[count:]

    def _fits(self, rows: int, pages: int) -> bool:
        return rows * pages * PAGE * self.bytes_a_token <= _GATHERED * int(self.config.num_hidden_layers)

    def _replayed(self, segments: Sequence[Segment], wanted: Sequence[int], groups: Sequence[Sequence[int]]) -> Any:
        """What a recorded run gives, where there can be one."""
        every = list(range(len(segments)))
        if self._graphs is None or not self.bytes_a_token or list(groups) != [every] or list(wanted) != every:
            return None
        shape = self._graphs.shape(len(segments), max(segment.memory.length for segment in segments) // PAGE + 1)
        if not self._fits(*shape):
            return None
        return self._graphs.run(addresses(segments), table(segments, *shape))

    def _read(self, store: Pages, segments: Sequence[Segment], wanted: Sequence[int], groups: Sequence[Sequence[int]]) -> Any:
        import torch

        parts = [index for index, segment in enumerate(segments) if len(segment.tokens) > 1]
        order = [index for group in groups for index in group] + parts
        ordered = [segments[index] for index in order]
        ends = np.cumsum([len(segment.tokens) for segment in ordered]) - 1
        at = {index: int(end) for index, end in zip(order, ends, strict=True)}
        tokens, places, targets = torch.from_numpy(addresses(ordered)).to(self.device)
        last = torch.tensor([at[index] for index in wanted] or [0], device=self.device)
        together, start = [], 0
        for group in groups:
            pages = torch.from_numpy(table([segments[index] for index in group])).to(self.device)
            together.append(Group(store, places[start : start + len(group)], pages))
            start += len(group)
        self._attention.begin([segments[index] for index in parts], Places(store, targets, together))
        return self._run(tokens[None], places[None], last)[: len(wanted)].float()

    def _together(self, store: Pages, addresses: Any, pages: Any) -> Any:
        """Logits of rows that have one token each, out of tensors alone: what a graph records. addresses: [3, rows]."""
        import torch

        tokens, places, targets = addresses
        self._attention.begin((), Places(store, targets, [Group(store, places, pages)]))
        return self._run(tokens[None], places[None], torch.arange(len(tokens), device=tokens.device))


def _store(segments: Sequence[Segment]) -> Pages:
    memory = segments[0].memory
    assert isinstance(memory, PagedMemory)
    return memory.store

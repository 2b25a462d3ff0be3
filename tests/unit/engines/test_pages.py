"""The store that many sequences share: room, its return, and what a page holds when somebody else gets it."""

from __future__ import annotations

from typing import Any

import pytest

from openmaas.engines.transformers.cache import Segment
from openmaas.engines.transformers.pages import PAGE, Group, PagedMemory, Pages, Places, addresses, table

torch = pytest.importorskip("torch")
HEADS, SIZE = 2, 4


def read(store: Pages, memory: PagedMemory, count: int) -> tuple[Any, Any]:
    """Keys and values of so many more tokens, which are in the store then."""
    keys, values = torch.randn(1, HEADS, count, SIZE), torch.randn(1, HEADS, count, SIZE)
    assert memory.reserve(memory.length + count)
    store.clean()
    Places(store, torch.from_numpy(addresses([Segment([7] * count, memory)]))[2], ()).write(0, keys, values)
    memory.length += count
    return keys, values


def test_room_is_whole_pages_and_comes_back() -> None:
    store = Pages(3 * PAGE - 5, "cpu")
    assert store.total == 3 * PAGE
    first, second = store.memory(), store.memory()
    assert first.reserve(PAGE + 1) and first.reserve(5) and first.room == 2 * PAGE
    assert second.reserve(PAGE) and not second.reserve(PAGE + 1) and second.room == PAGE
    first.free()
    assert store.taken == PAGE and second.reserve(3 * PAGE)
    assert len(set(second.pages)) == 3 and 0 not in second.pages


def test_a_group_sees_what_each_of_its_sequences_holds() -> None:
    store = Pages(20 * PAGE, "cpu")
    memories = [store.memory() for _ in range(3)]
    parts: list[list[tuple[Any, Any]]] = [[], [], []]
    for counts in ((5, 70, 1), (60, 1, 200)):  # their pages alternate
        for memory, part, count in zip(memories, parts, counts, strict=True):
            part.append(read(store, memory, count))
    for window in (None, 40):
        for memory in memories:
            memory.length -= 1  # the last token is the one that each reads now
        segments = [Segment([7], memory) for memory in memories]
        places = torch.from_numpy(addresses(segments))[1]
        keys, values, seen = Group(store, places, torch.from_numpy(table(segments))).look(0, window)
        for row, memory in enumerate(memories):
            memory.length += 1
            for found, which in ((keys, 0), (values, 1)):
                held = torch.cat([part[which] for part in parts[row]], dim=2)[0, :, -(window or memory.length) :]
                assert torch.equal(found[row][:, seen[row] == 0], held)


def test_a_page_is_empty_for_its_next_owner_and_a_copy_ends_where_it_should() -> None:
    store = Pages(2 * PAGE, "cpu")
    first = store.memory()
    assert isinstance(first, PagedMemory)
    read(store, first, 10)
    pages = first.pages
    copy = store.memory()
    assert copy.reserve(6)
    copy.copy_from(first, 6)
    keys = store.layers[0][0]
    assert torch.equal(keys[copy.pages[0], :, :6], keys[pages[0], :, :6]) and not keys[copy.pages[0], :, 6:].any()
    first.free()
    assert first.reserve(1) and first.pages == pages
    store.clean()
    assert not keys[pages[0]].any()

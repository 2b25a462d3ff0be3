"""Keeps prompts apart in GenAI's prefix cache, which finds blocks by the token ids in them and knows no tenants.

A model's table of embeddings has `vocabulary` rows, and an index below zero counts from its end: the ids `t` and
`t - vocabulary` are one token to the model and two to the cache. So every token of a prompt can carry a bit that changes no
answer (the engine checks that when it loads). Two blocks of a prompt carry bits:

- the first block: the number of the salt, so that a prompt meets only what was cached under its own;
- the last full block, with its last bit set: the number of the request. GenAI 2026.4 shares blocks that are only partly filled,
  and lets two prompts that go on differently from there write into the same one; it also files a block under all of its
  tokens before all of them are computed. Both gave wrong answers without a word. From this block on, a request shares with
  nobody.

A prompt of less than a block has its first bit set, and the others by chance: it may meet another such prompt.

What it costs: the last 32 to 63 tokens of each prompt, and what was generated, are never found in the cache.
"""

from __future__ import annotations

import itertools
import random
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

BLOCK = 32
"""Tokens of a block of GenAI's cache on a CPU."""
_SALTS = 10_000
_PLACES = np.arange(BLOCK, dtype=np.int64)
_TINY, _OWN = 1, 1 << (BLOCK - 1)
_NUMBERS = 1 << (BLOCK - 2)


class Disguise:
    def __init__(self, vocabulary: int) -> None:
        self._vocabulary = vocabulary
        self._salts: OrderedDict[str, int] = OrderedDict()
        self._salt_numbers = itertools.count(1)
        self._request_numbers = itertools.count(1)

    def salted(self, prompt: list[int], salt: str) -> NDArray[np.int64]:
        """A prompt that its salt's prompts share blocks with; of at least one block."""
        ids = np.asarray(prompt, dtype=np.int64)
        if len(ids) >= BLOCK:
            ids[:BLOCK] -= self._vocabulary * _bits(self._number(salt) << 1)
        return ids

    def own(self, salted: NDArray[np.int64]) -> NDArray[np.int64]:
        """The same prompt, of which no block from `shared` on is anybody else's."""
        ids = salted.copy()
        start = shared(len(ids))
        block = ids[start : start + BLOCK]
        block[block < 0] += self._vocabulary
        if len(ids) < BLOCK:
            mark = _TINY | random.getrandbits(BLOCK - 1) << 1
        else:
            mark = _OWN | next(self._request_numbers) % _NUMBERS << 1
        block -= self._vocabulary * _bits(mark)[: len(block)]
        return ids

    def _number(self, salt: str) -> int:
        """Never given twice: a salt that was forgotten gets another one."""
        number = self._salts.pop(salt, 0) or next(self._salt_numbers)
        self._salts[salt] = number
        if len(self._salts) > _SALTS:
            self._salts.popitem(last=False)
        return number


def shared(length: int) -> int:
    """Tokens of a prompt that other prompts may share: whole blocks, all but the last whole one."""
    return max(0, length // BLOCK - 1) * BLOCK


def _bits(number: int) -> NDArray[np.int64]:
    return (number >> _PLACES) & 1

"""What is probably in the prefix cache: GenAI does not say. Being wrong costs time and nothing else."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from openmaas.engines.openvino_genai.disguise import BLOCK


class Prefixes:
    """Beginnings of prompts by digest, one for each block; at most as many as the cache has blocks, the latest."""

    def __init__(self, blocks: int) -> None:
        self._most = blocks
        self._known: OrderedDict[bytes, None] = OrderedDict()

    def known(self, prompt: NDArray[np.int64], length: int) -> int:
        """How many of the first `length` tokens were computed before: whole blocks."""
        found = 0
        for end, digest in _digests(prompt, length):
            if digest not in self._known:
                break
            self._known.move_to_end(digest)
            found = end
        return found

    def add(self, prompt: NDArray[np.int64], length: int) -> None:
        for _, digest in _digests(prompt, length):
            self._known[digest] = None
            self._known.move_to_end(digest)
        while len(self._known) > self._most:
            self._known.popitem(last=False)


def _digests(prompt: NDArray[np.int64], length: int) -> Iterator[tuple[int, bytes]]:
    """Of the prompt up to each block's end, and where that is."""
    state = hashlib.blake2b(digest_size=16)
    for end in range(BLOCK, length + 1, BLOCK):
        state.update(prompt[end - BLOCK : end].tobytes())
        yield end, state.digest()

from __future__ import annotations

import numpy as np

from openmaas.engines.openvino_genai.prefixes import Prefixes


def test_finds_what_was_there_by_whole_blocks() -> None:
    prefixes, prompt = Prefixes(100), np.arange(200, dtype=np.int64)
    assert prefixes.known(prompt, 192) == 0
    prefixes.add(prompt, 100)
    assert prefixes.known(prompt, 192) == 96
    assert prefixes.known(prompt, 64) == 64
    other = prompt.copy()
    other[40] = 0
    assert prefixes.known(other, 192) == 32


def test_forgets_the_oldest() -> None:
    prefixes = Prefixes(3)
    first, second = np.arange(64, dtype=np.int64), np.arange(100, 164, dtype=np.int64)
    prefixes.add(first, 64)
    prefixes.add(second, 64)
    assert prefixes.known(second, 64) == 64
    assert prefixes.known(first, 64) == 0

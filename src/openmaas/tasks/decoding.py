"""How fast an engine generates: tokens a second of several streams at once."""

from __future__ import annotations

import time
from collections.abc import Sequence

from openmaas.core.errors import EngineFailed
from openmaas.core.generation import GenerationRequest, Sampling
from openmaas.engines import GenerationEngine

_MOST = 512  # tokens of one stream


def decode_rate(engine: GenerationEngine, prompts: Sequence[list[int]], context: int, seconds: float, first_id: int) -> float:
    """Tokens a second of all streams together, counted for so many seconds from when each of them had its first token.

    first_id: of the requests; as many as there are prompts are used. Nothing of them is left in the engine. Raises what the
    engine raises, and EngineFailed where it gives nothing.
    """
    for number, prompt in enumerate(prompts):
        most = min(_MOST, context - len(prompt))
        sampling = Sampling(seed=0, temperature=0.0)
        engine.admit(GenerationRequest(id=first_id + number, prompt=list(prompt), max_tokens=most, end=(), sampling=sampling))
    waiting = set(range(first_id, first_id + len(prompts)))
    tokens, start, now = 0, 0.0, 0.0
    while engine.busy and (waiting or now - start < seconds):
        progress = engine.step()
        now = time.perf_counter()
        for one in progress:
            if one.error is not None:
                raise one.error
        if not waiting:
            tokens += sum(len(one.tokens) for one in progress)
        else:
            waiting -= {one.id for one in progress if one.tokens}
            start = now
    for number in range(first_id, first_id + len(prompts)):
        engine.cancel(number)
    while engine.busy:
        engine.step()
    if not tokens or now <= start:
        raise EngineFailed(f"{len(prompts)} streams gave no token after their first.", code="no_tokens")
    return tokens / (now - start)


def go_on(engine: GenerationEngine, prompts: Sequence[list[int]], most: int, first_id: int) -> list[list[int]]:
    """How the engine goes on from each prompt by so many tokens, always the likeliest. Raises what the engine raises."""
    found: dict[int, list[int]] = {first_id + number: [] for number in range(len(prompts))}
    for number, prompt in zip(found, prompts, strict=True):
        sampling = Sampling(seed=0, temperature=0.0)
        engine.admit(GenerationRequest(id=number, prompt=list(prompt), max_tokens=most, end=(), sampling=sampling))
    while engine.busy:
        for one in engine.step():
            if one.error is not None:
                raise one.error
            found[one.id].extend(one.tokens)
    return list(found.values())

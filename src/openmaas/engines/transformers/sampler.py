"""The choice of one sequence's next token. Each sequence has a chooser, and so a random generator, of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from openmaas.core.generation import Sampling, TokenLogprob

Row: TypeAlias = NDArray[np.float32]

LEAST_TEMPERATURE = 1e-5  # what is less divides by nearly nothing: it is taken as 0
_NUCLEUS = 512  # candidates looked at first: sorting a whole vocabulary takes longer than a small model's step


class Chooser:
    """Penalties, temperature, top_k, top_p, min_p, in this order, as transformers has it. Each token takes one random number,
    so that the same seed gives the same tokens, whatever else runs.

    The repetition penalty is for what prompt and answer hold, the presence and frequency penalties for the answer alone.
    It computes with numpy: a row is too little for torch's threads to be worth their waiting for each other. `batch_sampler`
    does the same for many rows on a device.

    penalised: whether any penalty is asked for; then `seen`, bool [V], and `counts`, float [V], are once the first token has
    been chosen: what prompt and answer hold, and how often the answer does.
    """

    def __init__(self, sampling: Sampling, prompt: Sequence[int]) -> None:
        self.sampling = sampling
        self._random = np.random.Generator(np.random.PCG64(sampling.seed % 2**64))
        self.penalised = (
            sampling.repetition_penalty != 1.0 or sampling.presence_penalty != 0.0 or sampling.frequency_penalty != 0.0
        )
        self.prompt = prompt if self.penalised else ()
        self.seen: Any = None
        self.counts: Any = None

    def random(self) -> float:
        """The next number, at least 0 and less than 1."""
        return float(self._random.random())

    def choose(self, logits: Row) -> tuple[int, TokenLogprob | None]:
        """The next token of `logits`, [V], and what it is known for where that was asked for.

        Logarithms of probabilities are the model's own, before penalties and temperature.
        """
        scores = self._with_penalties(logits) if self.penalised else logits
        token = int(scores.argmax()) if self.sampling.temperature < LEAST_TEMPERATURE else self._draw(scores)
        if self.seen is not None:
            self.seen[token] = True
            self.counts[token] += 1
        return token, self._known(logits, token)

    def _with_penalties(self, logits: Row) -> Row:
        sampling = self.sampling
        if self.seen is None:
            self.counts = np.zeros_like(logits)
            self.seen = np.zeros(len(logits), dtype=np.bool_)
            self.seen[list(self.prompt)] = True
        repeated = np.where(logits > 0, logits / sampling.repetition_penalty, logits * sampling.repetition_penalty)
        scores = np.where(self.seen, repeated, logits) - sampling.frequency_penalty * self.counts
        return np.asarray(scores - sampling.presence_penalty * (self.counts > 0), dtype=np.float32)

    def _draw(self, scores: Row) -> int:
        logs, ids = self._candidates(scores / np.float32(self.sampling.temperature))
        reach = np.exp(logs, dtype=np.float64).cumsum()
        place = min(int(np.searchsorted(reach, self.random() * reach[-1], side="right")), len(reach) - 1)
        return place if ids is None else int(ids[place])

    def _candidates(self, scores: Row) -> tuple[Row, NDArray[np.int64] | None]:
        """Logarithms of what may be chosen, and the ids, None where these are all of them. In the order of the ids: in that of
        the logits, rounding that swaps two of them would change what is drawn."""
        sampling, ids = self.sampling, None
        if 0 < sampling.top_k < len(scores):
            ids = _largest(scores, sampling.top_k)
            scores = scores[ids]
        logs = scores - _log_total(scores)
        if sampling.top_p < 1.0:
            order = _nucleus(logs, sampling.top_p)
            ids, logs = order if ids is None else ids[order], logs[order]
        if sampling.min_p > 0.0:
            likely = np.flatnonzero(logs >= logs.max() + np.log(sampling.min_p))
            ids, logs = likely if ids is None else ids[likely], logs[likely]
        if ids is not None:
            order = np.argsort(ids)
            ids, logs = ids[order], logs[order]
        return logs, ids

    def _known(self, logits: Row, token: int) -> TokenLogprob | None:
        if self.sampling.logprobs < 0:
            return None
        logs = logits - _log_total(logits)
        ids = _largest(logs, min(self.sampling.logprobs, len(logs)))
        return TokenLogprob(logprob=float(logs[token]), top=tuple((int(token), float(logs[token])) for token in ids))


def _log_total(scores: Row) -> np.float32:
    """The logarithm of the sum of their exponentials."""
    most = scores.max()
    return np.float32(most + np.log(np.exp(scores - most).sum(dtype=np.float64)))


def _largest(scores: Row, count: int) -> NDArray[np.int64]:
    """Where the largest are, the largest first."""
    if count >= len(scores):
        return np.argsort(-scores, kind="stable")
    found = np.sort(np.argpartition(-scores, count)[:count])
    return found[np.argsort(-scores[found], kind="stable")]


def _nucleus(logs: Row, share: float) -> NDArray[np.int64]:
    """The fewest of the likeliest that hold the share of all, the likeliest first."""
    for count in (_NUCLEUS, len(logs)):
        order = _largest(logs, count)
        reach = np.exp(logs[order], dtype=np.float64).cumsum()
        if reach[-1] >= share:
            break
    return order[: int(np.searchsorted(reach, share, side="left")) + 1]

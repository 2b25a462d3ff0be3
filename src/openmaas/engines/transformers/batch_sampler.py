"""The choice of the next token of many sequences at once, on the device that has their logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from openmaas.core.generation import TokenLogprob
from openmaas.engines.transformers.sampler import LEAST_TEMPERATURE, Chooser

_LEAST_CANDIDATES = 64


def choose(logits: Any, choosers: Sequence[Chooser]) -> list[tuple[int, TokenLogprob | None]]:
    """What each `Chooser.choose` would give of its row of float32 [rows, V], with the same random numbers; -1 for a row that is
    not finite. The ids come off the device in one copy.

    A row's token does not depend on the others: sums are in double precision, and rows of other kinds are apart.
    """
    import torch

    with torch.inference_mode():
        scores = _with_penalties(logits, choosers)
        tokens = scores.argmax(-1)
        for count, rows in _kinds(choosers, logits.shape[1]).items():
            at = torch.tensor(rows, device=logits.device)
            tokens[at] = _drawn(scores[at], [choosers[row] for row in rows], count)
        tokens = tokens.where(logits.amax(-1).isfinite(), -1)
        known = _known(logits, tokens, choosers)
        found = tokens.tolist()
        for chooser, token in zip(choosers, found, strict=True):
            if chooser.penalised and token >= 0:
                chooser.seen[token] = True
                chooser.counts[token] += 1
    return list(zip(found, known, strict=True))


def _with_penalties(logits: Any, choosers: Sequence[Chooser]) -> Any:
    import torch

    rows = [row for row, chooser in enumerate(choosers) if chooser.penalised]
    if not rows:
        return logits
    some = [choosers[row] for row in rows]
    for chooser in some:
        if chooser.seen is None:
            chooser.counts = torch.zeros(logits.shape[1], device=logits.device)
            chooser.seen = torch.zeros(logits.shape[1], dtype=torch.bool, device=logits.device)
            chooser.seen[torch.tensor(chooser.prompt, device=logits.device)] = True
    at = torch.tensor(rows, device=logits.device)
    before = logits[at]
    seen, counts = torch.stack([chooser.seen for chooser in some]), torch.stack([chooser.counts for chooser in some])
    wished = [(one.sampling.repetition_penalty, one.sampling.frequency_penalty, one.sampling.presence_penalty) for one in some]
    repetition, frequency, presence = torch.tensor(wished, device=logits.device)[:, :, None].unbind(1)
    repeated = torch.where(before > 0, before / repetition, before * repetition)
    scores = logits.clone()
    scores[at] = torch.where(seen, repeated, before) - frequency * counts - presence * (counts > 0)
    return scores


def _kinds(choosers: Sequence[Chooser], vocabulary: int) -> dict[int, list[int]]:
    """The rows that are drawn, by how many of the likeliest candidates they need in order: 0 for none."""
    kinds: dict[int, list[int]] = {}
    for row, chooser in enumerate(choosers):
        sampling = chooser.sampling
        if sampling.temperature < LEAST_TEMPERATURE:
            continue
        count = 0
        if 0 < sampling.top_k < vocabulary:
            count = min(vocabulary, max(_LEAST_CANDIDATES, 1 << (sampling.top_k - 1).bit_length()))
        elif sampling.top_p < 1.0:
            count = vocabulary
        kinds.setdefault(count, []).append(row)
    return kinds


def _drawn(scores: Any, choosers: Sequence[Chooser], count: int) -> Any:
    """Token ids, [rows], of scores [rows, V], all of which need `count` candidates in order."""
    import torch

    vocabulary = scores.shape[1]
    values = torch.tensor(
        [
            (
                chooser.sampling.temperature,
                chooser.sampling.top_k if 0 < chooser.sampling.top_k < vocabulary else vocabulary,
                chooser.sampling.top_p if chooser.sampling.top_p < 1.0 else 2.0,
                chooser.sampling.min_p,
                chooser.random(),
            )
            for chooser in choosers
        ],
        dtype=torch.float64,
        device=scores.device,
    )
    temperature, top_k, top_p, min_p, chance = values[:, :, None].unbind(1)
    scores = scores / temperature.float()
    ids: Any = None
    if count:
        if count < vocabulary:
            ids = scores.topk(count).indices.sort(-1).values  # of equal ones the first, in every company
            scores = scores.gather(1, ids)
        scores, order = scores.sort(dim=-1, descending=True, stable=True)
        ids = order if ids is None else ids.gather(1, order)
    shares = scores.double()
    if count:
        shares = shares.masked_fill(torch.arange(shares.shape[1], device=shares.device) >= top_k, -torch.inf)
    shares = shares.softmax(-1)
    if count:
        before = torch.nn.functional.pad(shares.cumsum(-1)[:, :-1], (1, 0), value=-1.0)
        shares = shares.masked_fill(before >= top_p, 0.0)
    shares = shares.masked_fill(shares < shares.amax(-1, keepdim=True) * min_p, 0.0)
    if count == vocabulary:
        shares, ids = torch.empty_like(shares).scatter_(1, ids, shares), None
    elif count:
        ids, order = ids.sort(-1)
        shares = shares.gather(1, order)
    reach = shares.cumsum(-1)
    total = reach[:, -1:].contiguous()
    place = torch.searchsorted(reach, chance * total, right=True).minimum(torch.searchsorted(reach, total))
    place = place.clamp(max=reach.shape[1] - 1)  # it is beyond where nothing is finite
    return (place if ids is None else ids.gather(1, place))[:, 0]


def _known(logits: Any, tokens: Any, choosers: Sequence[Chooser]) -> list[TokenLogprob | None]:
    """What is known for the tokens, [rows], for which that was asked."""
    import torch

    rows = [row for row, chooser in enumerate(choosers) if chooser.sampling.logprobs >= 0]
    known: list[TokenLogprob | None] = [None] * len(choosers)
    if not rows:
        return known
    at = torch.tensor(rows, device=logits.device)
    logs = logits[at].log_softmax(-1)
    chosen = logs.gather(1, tokens[at].clamp(min=0)[:, None])[:, 0].tolist()
    most = min(max(choosers[row].sampling.logprobs for row in rows), logits.shape[1])
    best = logs.topk(most)
    for row, logprob, ids, values in zip(rows, chosen, best.indices.tolist(), best.values.tolist(), strict=True):
        count = choosers[row].sampling.logprobs
        known[row] = TokenLogprob(logprob=logprob, top=tuple(zip(ids[:count], values[:count], strict=True)))
    return known

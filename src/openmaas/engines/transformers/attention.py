"""What stands in for a model's own attention: sequences of many lengths in one run, each of which sees its own memory alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from openmaas.engines.transformers.cache import Segment
from openmaas.engines.transformers.pages import Places


class Attention:
    """Each segment sees its own memory, and nothing of the others.

    Its arithmetic does not depend on what else runs. Sliding windows, soft caps and sinks are as the model's layers ask.
    Where `places` are given, memories are in pages: the first tokens, of sequences that read one each, are computed
    together, and then those segments that read more.
    """

    def __init__(self) -> None:
        self._segments: Sequence[Segment] = ()
        self._places: Places | None = None
        self._masks: dict[tuple[int, int, int], Any] = {}

    def begin(self, segments: Sequence[Segment], places: Places | None = None) -> None:
        """What the next run of the model is about. segments: but those that the groups of `places` stand for."""
        self._segments, self._places = segments, places
        self._masks.clear()

    def __call__(
        self,
        module: Any,
        query: Any,
        key: Any,
        value: Any,
        attention_mask: Any,
        scaling: float | None = None,
        sliding_window: int | None = None,
        softcap: float | None = None,
        s_aux: Any = None,
        **_: Any,
    ) -> tuple[Any, None]:
        """query, key, value: [1, heads, tokens of all segments, size]. Gives [1, tokens, heads, size]."""
        import torch

        answers, start = [], 0
        if self._places is not None:
            self._places.write(module.layer_idx, key, value)
            for group in self._places.groups:
                end = start + group.count
                keys, values, seen = group.look(module.layer_idx, sliding_window)
                answers.append(_together(query[:, :, start:end], keys, values, seen, scaling, softcap, s_aux))
                start = end
        for segment in self._segments:
            end = start + len(segment.tokens)
            queries = query[:, :, start:end]
            keys, values = segment.memory.append(module.layer_idx, key[:, :, start:end], value[:, :, start:end])
            if sliding_window and end - start == 1:
                keys, values = keys[:, :, -sliding_window:], values[:, :, -sliding_window:]
            kind = end - start, keys.shape[2], sliding_window or 0
            if kind not in self._masks:
                self._masks[kind] = _mask(*kind, query.device)
            mask = self._masks[kind]
            if softcap or s_aux is not None:
                answers.append(_plain(queries, keys, values, mask, scaling, softcap, s_aux))
            else:
                answers.append(_fast(module, queries, keys, values, mask, scaling))
            start = end
        return torch.cat(answers, dim=1) if len(answers) > 1 else answers[0], None


def _mask(new: int, held: int, window: int, device: Any) -> Any:
    """True where one of `new` tokens may look at one of `held`; None where nothing but order, or nothing, forbids it."""
    import torch

    if new == 1 or (new == held and (not window or held <= window)):
        return None
    ages = torch.arange(held - new, held, device=device)[:, None] - torch.arange(held, device=device)[None, :]
    seen = ages >= 0
    return (seen & (ages < window) if window else seen)[None, None]


def _fast(module: Any, query: Any, key: Any, value: Any, mask: Any, scaling: float | None) -> Any:
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    causal = mask is None and query.shape[2] > 1
    return sdpa_attention_forward(module, query, key, value, mask, scaling=scaling, is_causal=causal)[0]


def _together(query: Any, keys: Any, values: Any, seen: Any, scaling: float | None, softcap: float | None, sinks: Any) -> Any:
    """query: [1, heads, rows, size], of one token each. keys, values, seen: as `Group.look` gives them.

    Gives [1, rows, heads, size]."""
    from torch.nn.functional import scaled_dot_product_attention

    rows = query[0].transpose(0, 1)
    if softcap or sinks is not None:
        answer = _plain(rows.unsqueeze(2), keys, values, seen[:, None, None] == 0, scaling, softcap, sinks)
        return answer.transpose(0, 1)
    # The query heads that share a key head stand where a longer query's tokens would: so no key is copied for them.
    shared = rows.unflatten(1, (keys.shape[1], -1))
    return scaled_dot_product_attention(shared, keys, values, seen[:, None, None], scale=scaling).flatten(1, 2).unsqueeze(0)


def _plain(query: Any, key: Any, value: Any, mask: Any, scaling: float | None, softcap: float | None, sinks: Any) -> Any:
    import torch

    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scores = (query @ key.transpose(2, 3)).float() * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap:
        scores = torch.tanh(scores / softcap) * softcap
    new, held = scores.shape[2:]
    if mask is None and new > 1:
        mask = torch.ones(new, held, dtype=torch.bool, device=scores.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    if sinks is not None:
        scores = torch.cat([scores, sinks.float().reshape(1, -1, 1, 1).expand(len(scores), -1, new, 1)], dim=-1)
    weights = scores.softmax(-1)[..., :held].to(value.dtype)
    return (weights @ value).transpose(1, 2)

"""A decoder of transformers that reads several sequences at once, each with a memory of its own."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from openmaas.core.errors import EngineFailed
from openmaas.engines.huggingface.encoder import library, quietly, reason
from openmaas.engines.transformers.cache import Budget, Memory

_PROOF = 24  # tokens of the made-up sequence by which the model is tried once it is loaded
_FARTHEST = {"float32": 1e-3, "bfloat16": 0.1}  # of the largest logit: how far apart two ways of computing may be
_BY_LENGTH = frozenset({"dynamic", "longrope"})


class Segment(msgspec.Struct):
    """More tokens of one sequence: they follow those that its memory holds, which has room for them."""

    tokens: Sequence[int]
    memory: Memory


class Attention:
    """What stands in for a model's own attention: each segment sees its own memory, and nothing of the others.

    Its arithmetic does not depend on what else runs. Sliding windows, soft caps and sinks are as the model's layers ask.
    """

    def __init__(self) -> None:
        self.segments: Sequence[Segment] = ()

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
        for segment in self.segments:
            end = start + len(segment.tokens)
            queries = query[:, :, start:end]
            keys, values = segment.memory.append(module.layer_idx, key[:, :, start:end], value[:, :, start:end])
            if sliding_window and end - start == 1:
                keys, values = keys[:, :, -sliding_window:], values[:, :, -sliding_window:]
            mask = _mask(end - start, keys.shape[2], sliding_window, query.device)
            if softcap or s_aux is not None:
                answers.append(_plain(queries, keys, values, mask, scaling, softcap, s_aux))
            else:
                answers.append(_fast(module, queries, keys, values, mask, scaling))
            start = end
        return torch.cat(answers, dim=1), None


def _mask(new: int, held: int, window: int | None, device: Any) -> Any:
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
        scores = torch.cat([scores, sinks.float().reshape(1, -1, 1, 1).expand(-1, -1, new, 1)], dim=-1)
    weights = scores.softmax(-1)[..., :held].to(value.dtype)
    return (weights @ value).transpose(1, 2)


def load_model(folder: Path, dtype: str, device: str) -> Any:
    """A decoder of transformers, from its safetensors alone, without code of its own.

    dtype: torch's name. Raises EngineFailed with what the library said.
    """
    import torch

    transformers = library()
    try:
        with quietly():
            transformers.utils.logging.disable_progress_bar()
            return transformers.AutoModelForCausalLM.from_pretrained(
                folder,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                attn_implementation="eager",
                dtype=getattr(torch, dtype),
            ).to(device)
    except Exception as error:
        raise EngineFailed(f"transformers cannot load the model: {reason(error)}", code="load_failed") from None


class Decoder:
    """`read` takes segments and gives logits. bytes_a_token: that a memory takes for each. reach: tokens of the longest
    sequence, 0 where only the context limits it."""

    def __init__(self, model: Any) -> None:
        from transformers import AttentionInterface

        self.model = model.eval()
        self.device = model.device
        self.config = model.config.get_text_config(decoder=True)
        self.reach = _reach(self.config)
        self.vocabulary = int(model.get_input_embeddings().weight.shape[0])
        self.bytes_a_token = 0
        self._attention = Attention()
        self._some_logits = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._name = f"openmaas_{id(self)}"
        AttentionInterface.register(self._name, self._attention)

    @staticmethod
    def load(folder: Path, dtype: str, device: str) -> Decoder:
        """As `load_model`, and tried."""
        decoder = Decoder(load_model(folder, dtype, device))
        decoder._prove(dtype)
        return decoder

    def read(self, segments: Sequence[Segment], wanted: Sequence[int]) -> Any:
        """Logits after the last token of the segments at the places `wanted`: float32 [wanted, V], of numpy.

        All tokens are in their memories from then on.
        """
        import torch

        ends = []
        places: list[int] = []
        for segment in segments:
            places += range(segment.memory.length, segment.memory.length + len(segment.tokens))
            ends.append(len(places) - 1)
        tokens = [token for segment in segments for token in segment.tokens]
        last = torch.tensor([ends[index] for index in wanted] or ends[:1], device=self.device)
        self._attention.segments = segments
        with torch.inference_mode():
            found = self.model(
                input_ids=torch.tensor([tokens], device=self.device),
                position_ids=torch.tensor([places], device=self.device),
                use_cache=False,
                **({"logits_to_keep": last} if self._some_logits else {}),
            ).logits[0]
        for segment in segments:
            segment.memory.length += len(segment.tokens)
        return (found if self._some_logits else found[last])[: len(wanted)].float().cpu().numpy()

    def _prove(self, dtype: str) -> None:
        """Hold what `read` gives, in parts and in company, against the model's own plain run. Raises EngineFailed."""
        import torch

        tokens = [(7 * place + 3) % self.vocabulary for place in range(_PROOF)]
        if "chunked_attention" in (getattr(self.config, "layer_types", None) or ()):
            raise _unfit("its attention looks at chunks of a text")
        try:
            with torch.inference_mode(), quietly():
                told = self.model(input_ids=torch.tensor([tokens], device=self.device), use_cache=False).logits[0, -1]
            self.model.set_attn_implementation(self._name)
            budget = Budget(8 * _PROOF)
            memory, other = Memory(budget), Memory(budget)
            for one in (memory, other):
                one.reserve(_PROOF)
            half = _PROOF // 2
            self.read([Segment(tokens[half:], other), Segment(tokens[:half], memory)], [])
            self.read([Segment(tokens[half:-1], memory)], [])
            found = self.read([Segment(tokens[:1], other), Segment(tokens[-1:], memory)], [1])[0]
        except Exception as error:
            raise _unfit(f"it does not run: {reason(error)}") from None
        if memory.layers != self.config.num_hidden_layers:
            raise _unfit(f"{memory.layers} of its {self.config.num_hidden_layers} layers let their attention be replaced")
        self.bytes_a_token = memory.bytes // memory.room
        told = told.float().cpu().numpy()
        apart, largest = float(abs(found - told).max()), float(abs(told).max())
        if not apart <= _FARTHEST[dtype] * max(largest, 1.0):
            raise _unfit(f"its logits are up to {apart:.2g} apart from the model's own, of which the largest is {largest:.2g}")


def _unfit(why: str) -> EngineFailed:
    return EngineFailed(
        f"The engine transformers cannot run this model with many sequences at once: {why.rstrip('. ')}.",
        code="load_failed",
        next_step="Deploy it with --weights auto, which converts it for another engine.",
    )


def _reach(config: Any) -> int:
    """Positions whose rotation is the same whatever else runs; 0 for all of them.

    Where a configuration stretches its positions by the length of the longest sequence in sight, company would change answers.
    """
    found = [
        int(values.get("original_max_position_embeddings") or config.max_position_embeddings)
        for values in _ropes(getattr(config, "rope_parameters", None))
        if values.get("rope_type") in _BY_LENGTH
    ]
    return min(found, default=0)


def _ropes(values: Any) -> Iterator[dict[str, Any]]:
    if isinstance(values, dict):
        yield values
        for inner in values.values():
            yield from _ropes(inner)

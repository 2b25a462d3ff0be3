"""A decoder of transformers that reads several sequences at once, each with a memory of its own."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from openmaas.core.errors import EngineFailed
from openmaas.core.generation import TokenLogprob
from openmaas.engines.huggingface.encoder import library, quietly, reason
from openmaas.engines.transformers.attention import Attention
from openmaas.engines.transformers.cache import Budget, Segment
from openmaas.engines.transformers.sampler import Chooser

_PROOF = 24  # tokens of the made-up sequence by which the model is tried once it is loaded
_FARTHEST = {"float32": 1e-3, "bfloat16": 0.1}  # of the largest logit: how far apart two ways of computing may be
_BY_LENGTH = frozenset({"dynamic", "longrope"})


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

    @classmethod
    def load(cls, folder: Path, dtype: str, device: str) -> Self:
        """As `load_model`, and tried."""
        decoder = cls(load_model(folder, dtype, device))
        decoder._prove(dtype)
        return decoder

    def budget(self, tokens: int) -> Budget:
        """For the memories of the sequences that `read` gets: all of one budget."""
        return Budget(tokens)

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
        self._attention.begin(segments)
        with torch.inference_mode():
            found = self._run(torch.tensor([tokens], device=self.device), torch.tensor([places], device=self.device), last)
        for segment in segments:
            segment.memory.length += len(segment.tokens)
        return found[: len(wanted)].float().cpu().numpy()

    def choose(self, logits: Any, choosers: Sequence[Chooser]) -> list[tuple[int, TokenLogprob | None]]:
        """Of rows of what `read` gave, for each its token, -1 where they are not finite, and what is known for it."""
        return [
            chooser.choose(row) if math.isfinite(float(row.max())) else (-1, None)
            for chooser, row in zip(choosers, logits, strict=True)
        ]

    def _run(self, tokens: Any, places: Any, last: Any) -> Any:
        """tokens, places: [1, tokens]. Gives the logits, [last, V], after those tokens that `last` says."""
        kept = {"logits_to_keep": last} if self._some_logits else {}
        logits = self.model(input_ids=tokens, position_ids=places, use_cache=False, **kept).logits[0]
        return logits if self._some_logits else logits[last]

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
            budget = self.budget(8 * _PROOF)
            memory, other = budget.memory(), budget.memory()
            for one in (memory, other):
                one.reserve(_PROOF)
            half = _PROOF // 2
            self.read([Segment(tokens[half:], other), Segment(tokens[:half], memory)], [])
            self.read([Segment(tokens[half:-1], memory)], [])
            found = self.read([Segment(tokens[:1], other), Segment(tokens[-1:], memory)], [0, 1])[1]
        except Exception as error:
            raise _unfit(f"it does not run: {reason(error)}") from None
        if memory.layers != self.config.num_hidden_layers:
            raise _unfit(f"{memory.layers} of its {self.config.num_hidden_layers} layers let their attention be replaced")
        self.bytes_a_token = memory.bytes // memory.room
        told, found = told.float().cpu(), torch.as_tensor(found).cpu()
        apart, largest = float((found - told).abs().max()), float(told.abs().max())
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

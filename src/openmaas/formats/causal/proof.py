"""A decoder run once at push, where it fits into the memory of the examination: weights and first answer are numbers."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

from openmaas.core.errors import InvalidInput, Refused
from openmaas.engines.huggingface.encoder import library, quietly, reason
from openmaas.formats.causal.folder import Decoder

_TIMES = 2.5
"""Memory that loading takes, by the size of the weights; and beside it, what the libraries take."""
_BESIDE = 1 << 30
_TOKENS = 8


def fits(size: int) -> bool:
    """Whether weights of so many bytes can be loaded within this process's limits."""
    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    return limit == resource.RLIM_INFINITY or size * _TIMES + _BESIDE <= limit


def prove(decoder: Decoder) -> list[str]:
    """What a person should know. Raises InvalidInput where weights or answers are not finite, Refused where it does not run."""
    if not fits(decoder.size):
        return [f"Its weights have {decoder.size} bytes, too many for OPENMAAS_EXAMINE_MEMORY: it was not run."]
    import torch

    model = _load(decoder.said.path)
    _require_finite(model)
    rows = int(model.get_input_embeddings().num_embeddings)
    try:
        with torch.inference_mode(), quietly():
            logits = model(input_ids=torch.arange(1, _TOKENS + 1).remainder(rows).unsqueeze(0)).logits
    except Exception as error:
        raise Refused(f"transformers cannot run the model: {reason(error)}", code="model_not_runnable") from None
    if not torch.isfinite(logits).all():
        raise InvalidInput(
            f"The model answers {_TOKENS} tokens with NaN or Infinity.",
            code="not_finite",
            next_step="Check the weights: a model saved in float16 may have overflowed; save it in bfloat16.",
        )
    return []


def _load(path: Path) -> Any:
    transformers = library()
    transformers.utils.logging.disable_progress_bar()
    try:
        with quietly():
            return _from_pretrained(transformers, path).eval()
    except MemoryError:
        raise
    except Exception as error:
        raise InvalidInput(f"transformers cannot load the model: {reason(error)}", code="load_failed") from None


def _from_pretrained(transformers: Any, path: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(
        path, local_files_only=True, trust_remote_code=False, use_safetensors=True, attn_implementation="eager", dtype="auto"
    )


def _is_finite(ends: Any) -> bool:
    """Least and most of a tensor, a thirtieth of the work of looking at each number; NaN among them is both."""
    return bool(ends.min.isfinite() and ends.max.isfinite())


def _require_finite(model: Any) -> None:
    import torch

    broken = [name for name, weight in model.named_parameters() if weight.numel() and not _is_finite(torch.aminmax(weight))]
    if broken:
        raise InvalidInput(
            f"{len(broken)} of the weights hold NaN or Infinity: {', '.join(name[:120] for name in broken[:4])}.",
            code="not_finite",
            next_step="Save the model again from a state of its training before they did.",
        )

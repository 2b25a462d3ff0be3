"""Sampling in GenAI's words. It begins empty: what a model's generation_config.json says is the caller's matter."""

from __future__ import annotations

import math
from typing import Any

from openmaas.core.errors import InvalidInput
from openmaas.core.generation import GenerationRequest, Sampling
from openmaas.engines.openvino_genai.grammars import set_grammar

_COLDEST = 1e-5
"""Temperatures below it take the likeliest token, as 0 does."""


def check_ids(request: GenerationRequest, vocabulary: int) -> None:
    """Raises InvalidInput for ids that the model does not have: GenAI would take them for others, or end the process."""
    for name, ids in (("prompt", request.prompt), ("end", request.end)):
        if ids and not (min(ids) >= 0 and max(ids) < vocabulary):
            wrong = next(token for token in ids if not 0 <= token < vocabulary)
            raise InvalidInput(
                f"The token id {wrong} ({name}) is none of this model's, which are 0 to {vocabulary - 1}.", code="invalid_token"
            )
    if not request.prompt:
        raise InvalidInput("The prompt has no tokens; one is the least.", code="empty_prompt")


def generation_config(request: GenerationRequest) -> Any:
    """Raises InvalidInput for what GenAI refuses."""
    import openvino_genai

    config = openvino_genai.GenerationConfig()
    config.max_new_tokens = request.max_tokens
    config.apply_chat_template = False
    if request.end:
        # Without an id of its own, GenAI adds the model's.
        config.eos_token_id = request.end[0]
        config.stop_token_ids = set(request.end)
    else:
        config.ignore_eos = True
    _choose(config, request.sampling)
    if request.sampling.grammar is not None:
        if not request.end:
            raise InvalidInput("An answer that follows a JSON schema needs an id that ends it.", code="invalid_end")
        set_grammar(config, request.sampling.grammar)
    try:
        config.validate()
    except Exception as error:
        reason = str(error).strip().splitlines()[-1][:300]
        raise InvalidInput(f"OpenVINO GenAI cannot sample like this: {reason}") from None
    return config


def one_token() -> Any:
    """The likeliest one, whatever it is."""
    import openvino_genai

    config = openvino_genai.GenerationConfig()
    config.max_new_tokens = 1
    config.ignore_eos = True
    return config


def _choose(config: Any, sampling: Sampling) -> None:
    for name in ("temperature", "top_p", "min_p", "repetition_penalty"):
        if not math.isfinite(value := getattr(sampling, name)):
            raise InvalidInput(f"{name} is {value}; it must be a finite number.")
    config.logprobs = int(sampling.logprobs >= 0)
    if sampling.repetition_penalty <= 0:
        raise InvalidInput(f"repetition_penalty is {sampling.repetition_penalty:g}; it must be above 0.")
    config.repetition_penalty = sampling.repetition_penalty
    if sampling.temperature < _COLDEST:
        return
    config.do_sample = True
    config.temperature = sampling.temperature
    config.top_p = min(1.0, max(sampling.top_p, 1e-6))
    if sampling.top_k > 0:
        config.top_k = sampling.top_k
    config.min_p = min(sampling.min_p, 1 - 1e-6)
    config.rng_seed = _folded(sampling.seed)


def _folded(seed: int) -> int:
    """GenAI looks at 32 bits of a seed: all of them should count."""
    return ((seed & (2**64 - 1)) * 0x9E3779B97F4A7C15 & (2**64 - 1)) >> 32

"""How tokens are chosen, in vLLM's words."""

from __future__ import annotations

import json
from typing import Any

from openmaas.core.errors import InvalidInput
from openmaas.core.generation import GenerationRequest, Grammar


def sampling_params(request: GenerationRequest) -> Any:
    """vllm.SamplingParams: new tokens alone in each answer, as ids and not as text, ended by the ids that the request names."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    sampling = request.sampling
    return SamplingParams(
        seed=_seed(sampling.seed),
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        repetition_penalty=sampling.repetition_penalty,
        logprobs=None if sampling.logprobs < 0 else sampling.logprobs,
        max_tokens=request.max_tokens,
        stop_token_ids=list(request.end),
        ignore_eos=True,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
        structured_outputs=None if sampling.grammar is None else _structure(sampling.grammar),
    )


def _seed(seed: int) -> int:
    """One of 32 bits: torch's generator for the CPU reads no more, and would take seeds that differ beyond for the same."""
    seed %= 2**64
    return (seed ^ (seed >> 32) * 0x9E3779B9) % 2**32


def _structure(grammar: Grammar) -> Any:
    from vllm.sampling_params import StructuredOutputsParams

    if not (grammar.before or grammar.after):
        return StructuredOutputsParams(json=grammar.schema)
    try:
        schema = json.loads(grammar.schema)
    except ValueError as error:
        raise InvalidInput(f"The schema is no JSON: {error}.") from None
    parts = [
        {"type": "const_string", "value": grammar.before},
        {"type": "json_schema", "json_schema": schema},
        {"type": "const_string", "value": grammar.after},
    ]
    elements = [part for part in parts if part.get("value") != ""]
    tag = {"type": "structural_tag", "format": {"type": "sequence", "elements": elements}}
    return StructuredOutputsParams(structural_tag=json.dumps(tag))

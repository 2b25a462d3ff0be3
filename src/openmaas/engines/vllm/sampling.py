"""How tokens are chosen, in vLLM's words."""

from __future__ import annotations

import json
import zlib
from typing import Any

from openmaas.core.errors import InvalidInput
from openmaas.core.generation import GenerationRequest, Grammar

_LEAST_TEMPERATURE = 0.01  # vLLM raises what is less to this; the likeliest token is nearer to what was asked for


def sampling_params(request: GenerationRequest) -> Any:
    """vllm.SamplingParams: new tokens alone in each answer, as ids and not as text, ended by the ids that the request names."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    sampling = request.sampling
    return SamplingParams(
        seed=_seed(sampling.seed),
        temperature=sampling.temperature if sampling.temperature >= _LEAST_TEMPERATURE else 0.0,
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
    return seed if seed < 2**32 else zlib.crc32(seed.to_bytes(8, "little"))


def _structure(grammar: Grammar) -> Any:
    """In Lark, as llguidance reads it, where something stands around the JSON."""
    from vllm.sampling_params import StructuredOutputsParams

    if not (grammar.before or grammar.after):
        return StructuredOutputsParams(json=grammar.schema)
    try:
        schema = json.loads(grammar.schema)
    except ValueError as error:
        raise InvalidInput(f"The schema is no JSON: {error}.") from None
    if isinstance(schema, dict):
        schema = {"x-guidance": {"whitespace_flexible": False}} | schema
    around = [json.dumps(text) if text else "" for text in (grammar.before, grammar.after)]
    return StructuredOutputsParams(grammar=f"start: {around[0]} answer {around[1]}\nanswer: %json {json.dumps(schema)}\n")

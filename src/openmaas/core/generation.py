"""Generation of text: what a version says of itself, what an engine is asked for, and what each of its steps gives back."""

from __future__ import annotations

from typing import Any, Final, Literal, TypeAlias

import msgspec

from openmaas.core.errors import OpenMaaSError

TEXT_INPUT: Final = "text_input"
TEXT_OUTPUT: Final = "text_output"
"""The signature of every generator: BYTES [1] each, named as Triton's generate extension names them."""

WEIGHTS: Final = ("auto", "source", "bf16", "int8", "int4")
"""What a deployment may ask for: `source` serves the files as they were pushed."""

ToolFormat: TypeAlias = Literal["", "hermes", "llama3", "mistral"]
"""How a chat template writes calls of tools: <tool_call>{…}</tool_call>, {"name": …, "parameters": …}, [TOOL_CALLS][{…}]."""


class Generator(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a manifest says of a version that generates text.

    context: tokens that prompt and answer may have together. vocabulary: number of token ids. end: ids that end an answer.
    parameters: number of weights, 0 where unknown. tokenizer: the tokenizer.json among the files. chat_template: the Jinja
    template among the files, empty without one. tool_format: of that template, empty where it knows no tools. special:
    the texts that a template may name (bos_token, eos_token …). defaults: sampling that the model's own files recommend
    (temperature, top_p, top_k, min_p, repetition_penalty), for what a request leaves open.
    weights: precision of the weights as the files hold them (f32, bf16, f16, int8, int4, or a GGUF type such as q8_0).
    """

    context: int
    vocabulary: int
    end: tuple[int, ...]
    tokenizer: str
    parameters: int = 0
    chat_template: str = ""
    tool_format: ToolFormat = ""
    special: dict[str, str] = {}
    defaults: dict[str, float] = {}
    weights: str = ""


class Grammar(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer must look like: `before`, JSON that follows the schema (text of a JSON schema), `after`."""

    schema: str
    before: str = ""
    after: str = ""


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """How tokens are chosen. temperature: 0 takes the likeliest. top_k: 0 for all. seed: always given.

    logprobs: -1 for none, 0 for those of the chosen tokens, more for so many of the likeliest beside them.
    """

    seed: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logprobs: int = -1
    grammar: Grammar | None = None


class GenerationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One sequence that an engine is asked for.

    id: unique in its replica for ever. prompt: token ids, at least one. max_tokens: of the answer, at least one; prompt and
    answer fit into the context. end: ids that end it. salt: prompts with another salt must not share cached prefixes.
    """

    id: int
    prompt: list[int]
    max_tokens: int
    end: tuple[int, ...]
    sampling: Sampling
    salt: str = ""


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """Of one chosen token, natural logarithm; top: (id, logprob) of the likeliest, the first the likeliest."""

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class Progress(msgspec.Struct):
    """What one step gave one request. A request ends exactly once: by `finish`, or by `error`.

    tokens: new ones in their order; one of `end` is among them, as the last, where it was generated. logprobs: one a token,
    where asked for. cached: prompt tokens that a cached prefix gave, in the first progress, -1 where the engine does not say.
    """

    id: int
    tokens: list[int]
    logprobs: list[TokenLogprob] | None = None
    finish: Literal["", "stop", "length"] = ""
    error: OpenMaaSError | None = None
    cached: int = -1


class EngineLoad(msgspec.Struct):
    """Of an engine that schedules itself. cache: share of its cache in use, 0 to 1."""

    running: int = 0
    waiting: int = 0
    cache: float = 0.0


Message: TypeAlias = dict[str, Any]
"""One of a conversation, as chat templates take it: role and content, perhaps tool_calls, tool_call_id, name."""


class ToolCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call of a tool that a model wrote. arguments: JSON text, as the model wrote it."""

    id: str
    name: str
    arguments: str


class TokenText(msgspec.Struct, frozen=True, kw_only=True):
    """A token as people read it. data: its own bytes, which need not be whole characters. top: the likeliest, (text, bytes,
    logprob) each."""

    text: str
    data: bytes
    logprob: float
    top: tuple[tuple[str, bytes, float], ...] = ()

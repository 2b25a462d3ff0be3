"""POST /v1/completions: the request."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import msgspec

from openmaas.core.errors import InvalidInput
from openmaas.protocols.generation import Ask
from openmaas.protocols.openai.body import BodyReader, decode, not_supported, out_of_range
from openmaas.protocols.openai.conversation import check_count
from openmaas.protocols.openai.limits import Limits
from openmaas.protocols.openai.sampling import SAMPLING, read_include_usage, read_sampling
from openmaas.protocols.openai.tools import read_format

_DEFAULT_TOKENS: Final = 16
_MAX_LOGPROBS: Final = 5
_MAX_ID: Final = 2**31 - 1
_LIST: Final = re.compile(rb'\[\s*([\["]?)')
_NEXT: Final = "A prompt is a text, a list of texts, a list of token ids, or a list of such lists."
_reader = BodyReader(
    "completions",
    (*SAMPLING, "prompt", "max_tokens", "stream", "stream_options", "logprobs", "echo", "best_of", "response_format"),
)


def decode_completions(body: bytes, limits: Limits) -> Ask:
    """Prompts to be continued as they are. Raises InvalidInput that names the parameter."""
    request = _reader.read(body, limits.max_body)
    prompts = read_prompts("prompt", request.needed("prompt"), limits)
    sampling = read_sampling(request, limits)
    check_answers("prompt", prompts, sampling["n"], limits)
    best_of = request.whole("best_of", 1, limits.max_n)
    if best_of is not None and best_of != sampling["n"]:
        raise not_supported("best_of", f"it is {best_of} and n {sampling['n']}; every answer that is made is given")
    logprobs = request.whole("logprobs", 0, _MAX_LOGPROBS)
    echo = request.flag("echo")
    if echo and logprobs is not None:
        raise not_supported("echo", "logprobs of a prompt's own tokens are not measured", next_step="Send one of the two.")
    stream = request.flag("stream")
    return Ask(
        prompts=prompts,
        # The protocol's own default, which its clients count on.
        max_tokens=request.whole("max_tokens", 1, limits.max_tokens) or _DEFAULT_TOKENS,
        logprobs=-1 if logprobs is None else logprobs,
        schema=read_format("response_format", request.raw("response_format"), limits),
        echo=echo,
        stream=stream,
        include_usage=read_include_usage(request, stream=stream),
        given=request.given,
        **sampling,
    )


def read_prompts(name: str, raw: msgspec.Raw, limits: Limits) -> Sequence[str | list[int]]:
    """Texts or token ids, none of them empty lists. Raises InvalidInput that names the parameter."""
    opening = _LIST.match(memoryview(raw))
    if opening is None:
        return [decode(name, raw, str, next_step=_NEXT)]
    if opening[1] == b'"':
        texts: list[str] = decode(name, raw, list[str], next_step=_NEXT)
        check_count(name, texts, limits.max_prompts)
        return texts
    lists: list[list[int]]
    lists = (
        decode(name, raw, list[list[int]], next_step=_NEXT) if opening[1] else [decode(name, raw, list[int], next_step=_NEXT)]
    )
    check_count(name, lists, limits.max_prompts)
    for ids in lists:
        check_token_ids(name, ids)
    return lists


def check_token_ids(name: str, ids: Sequence[int]) -> None:
    if not ids:
        raise InvalidInput(f"{name} holds an empty list of token ids.", code="out_of_range", param=name)
    if min(ids) < 0 or max(ids) > _MAX_ID:
        wrong = next(one for one in ids if not 0 <= one <= _MAX_ID)
        raise out_of_range(name, wrong, "token ids of the model")


def check_answers(name: str, prompts: Sequence[str | list[int]], n: int, limits: Limits) -> None:
    """One request's answers run side by side: prompts times n is bounded too."""
    if len(prompts) * n > limits.max_answers:
        raise InvalidInput(
            f"{len(prompts)} prompts with n {n} want {len(prompts) * n} answers; one request may have {limits.max_answers}.",
            code="out_of_range",
            param="n" if n > 1 else name,
        )

"""POST /v1/completions: the request."""

from __future__ import annotations

from typing import Final

from openmaas.protocols.generation import Ask
from openmaas.protocols.generation.body import BodyReader, not_supported
from openmaas.protocols.generation.limits import Limits
from openmaas.protocols.generation.prompts import check_answers, read_prompts
from openmaas.protocols.generation.sampling import SAMPLING, read_include_usage, read_sampling
from openmaas.protocols.openai.tools import read_format

_DEFAULT_TOKENS: Final = 16
_MAX_LOGPROBS: Final = 5
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

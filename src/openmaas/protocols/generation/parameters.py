"""Parameters that change nothing here, each with the reason, and those that are refused by name: no other is let pass.

What a decoder honours, it takes itself. Everything else that clients are known to send stands in one of these two tables.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

_TEXT: Final = ("chat", "completions", "responses", "embeddings")
_TALK: Final = ("chat", "responses")


class Accepted(msgspec.Struct, frozen=True):
    """A parameter that may come and changes nothing. why: that is so. only: the values for which it is so; empty for all."""

    kind: Any
    why: str
    only: tuple[Any, ...] = ()
    operations: tuple[str, ...] = _TEXT


ACCEPTED: Final[dict[str, Accepted]] = {
    "model": Accepted(str, "it has named the deployment already", operations=(*_TEXT, "tokenize", "detokenize")),
    "user": Accepted(str, "it names the caller's own user, on whom no answer depends"),
    "metadata": Accepted(dict[str, str], "it is kept with stored answers, and none is stored", operations=_TALK),
    "safety_identifier": Accepted(str, "it names the caller's own user, on whom no answer depends", operations=_TALK),
    "prompt_cache_key": Accepted(str, "repeated prefixes are found without it", operations=_TALK),
    "store": Accepted(bool, "no answer is stored", (False,), _TALK),
    "service_tier": Accepted(str, "there is one tier", ("auto", "default"), _TALK),
    "parallel_tool_calls": Accepted(bool, "a model may call several tools at once", (True,), _TALK),
    "prompt_cache_retention": Accepted(str, "cached prefixes stay in memory only", ("in_memory",), _TALK),
    "logit_bias": Accepted(dict[str, Any], "no engine here takes a bias by token", ({},), ("chat", "completions")),
    "modalities": Accepted(list[str], "answers are text", (["text"],), ("chat",)),
    "verbosity": Accepted(str, "it is a setting of models that are not served here", ("medium",), ("chat",)),
    "suffix": Accepted(str, "text cannot be filled in before a suffix", ("",), ("completions",)),
    "background": Accepted(bool, "an answer is given while the caller waits", (False,), ("responses",)),
    "truncation": Accepted(str, "a conversation that is too long is refused rather than cut", ("disabled",), ("responses",)),
    "include": Accepted(list[str], "nothing can be added to the answer", ([],), ("responses",)),
    "max_tool_calls": Accepted(int, "it bounds tools of the server's own, and there are none", operations=("responses",)),
    "top_logprobs": Accepted(int, "answers of this kind carry no probabilities", (0,), ("responses",)),
}

_OTHER_MODEL: Final = "it is a setting of models that are not served here"
REFUSED: Final[dict[str, str]] = {
    "access_programs": "there are none",
    "audio": "answers are text",
    "background_options": "an answer is given while the caller waits",
    "chat_template": "the chat template comes with the model",
    "context_management": "a conversation is sent whole and stays as it is",
    "conversation": "no conversation is stored; send its messages",
    "function_call": "it is replaced by tool_choice",
    "functions": "they are replaced by tools",
    "image": "answers are text",
    "moderation": "no moderation model runs beside the answer",
    "prediction": "no engine here starts from a predicted answer",
    "previous_response_id": "no answer is stored; send the whole conversation as input",
    "prompt": "it belongs to /v1/completions, and no prompt is stored",
    "prompt_cache_options": "repeated prefixes are found without any",
    "reasoning": _OTHER_MODEL,
    "reasoning_effort": _OTHER_MODEL,
    "web_search_options": "the server fetches nothing",
}
"""Why each of these is refused wherever it is not honoured. `null` counts as left out."""

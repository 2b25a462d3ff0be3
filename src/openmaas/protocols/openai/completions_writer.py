"""POST /v1/completions: the answer, whole or in chunks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from openmaas.core.generation import TokenText
from openmaas.protocols.generation import Ask, Choice, Delta, Finish, Usage
from openmaas.protocols.generation.wire import DONE, EVENTS, JSON, encode, event, logprob, usage_of


class CompletionsWriter:
    """Its chunks begin and end alike, so that only what is new in each is encoded."""

    def __init__(self, ask: Ask, *, request_id: str, deployment: str, version: str, created: int) -> None:
        self.content_type = EVENTS if ask.stream else JSON
        self._include_usage = ask.include_usage
        self._head = {
            "id": f"cmpl-{request_id}",
            "object": "text_completion",
            "created": created,
            "model": deployment,
            "system_fingerprint": version,
        }
        head = b"data: " + encode(self._head)[:-1]
        answers = len(ask.prompts) * ask.n
        self._starts = [b'%b,"choices":[{"index":%d,"text":' % (head, index) for index in range(answers)]
        self._offsets = [0] * answers
        self._last = b',"usage":null}\n\n' if ask.include_usage else b"}\n\n"
        self._text_end = b',"logprobs":null,"finish_reason":null}]' + self._last

    def start(self) -> bytes:
        return b""

    def delta(self, index: int, delta: Delta) -> bytes:
        if delta.logprobs is None:
            return self._starts[index] + encode(delta.text) + self._text_end if delta.text else b""
        if not delta.text and not delta.logprobs:
            return b""
        logprobs, self._offsets[index] = _logprobs(delta.logprobs, self._offsets[index])
        return self._chunk(index, delta.text, logprobs, None)

    def finish(self, index: int, finish: Finish) -> bytes:
        return self._chunk(index, "", None, finish)

    def end(self, usage: Usage) -> bytes:
        if not self._include_usage:
            return DONE
        return event(encode(self._head | {"choices": [], "usage": usage_of(usage)})) + DONE

    def whole(self, choices: Sequence[Choice], usage: Usage) -> bytes:
        written = [
            {
                "index": choice.index,
                "text": choice.text,
                "logprobs": None if choice.logprobs is None else _logprobs(choice.logprobs, 0)[0],
                "finish_reason": choice.finish,
            }
            for choice in choices
        ]
        return encode(self._head | {"choices": written, "usage": usage_of(usage)})

    def _chunk(self, index: int, text: str, logprobs: dict[str, Any] | None, finish: Finish | None) -> bytes:
        return b'%b%b,"logprobs":%b,"finish_reason":%b}]%b' % (
            self._starts[index], encode(text), encode(logprobs), encode(finish), self._last,
        )  # fmt: skip


def _logprobs(tokens: Sequence[TokenText], offset: int) -> tuple[dict[str, Any], int]:
    """Lists as long as the tokens. offset: characters of the answer that began before them; the second result, after them."""
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += sum(byte & 0xC0 != 0x80 for byte in token.data)  # bytes that begin a character
    written = {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [logprob(token.logprob) for token in tokens],
        "top_logprobs": [_top(token) for token in tokens] if any(token.top for token in tokens) else None,
        "text_offset": offsets,
    }
    return written, offset


def _top(token: TokenText) -> dict[str, float]:
    """The likeliest and the chosen one. Two tokens may read alike: the likelier stays."""
    top: dict[str, float] = {}
    for text, _, value in token.top:
        top.setdefault(text, logprob(value))
    top.setdefault(token.text, logprob(token.logprob))
    return top

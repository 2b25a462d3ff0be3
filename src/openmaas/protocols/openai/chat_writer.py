"""POST /v1/chat/completions: the answer, whole or in chunks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from openmaas.protocols.generation import Ask, Choice, Delta, Finish, Usage
from openmaas.protocols.generation.wire import DONE, EVENTS, JSON, encode, event, token_logprobs, tool_call, usage_of


class ChatWriter:
    """Its chunks begin and end alike, so that only what is new in each is encoded."""

    def __init__(self, ask: Ask, *, request_id: str, deployment: str, version: str, created: int) -> None:
        self.content_type = EVENTS if ask.stream else JSON
        self._answers = ask.n
        self._include_usage = ask.include_usage
        self._head = {
            "id": f"chatcmpl-{request_id}",
            "object": "chat.completion.chunk" if ask.stream else "chat.completion",
            "created": created,
            "model": deployment,
            "system_fingerprint": version,
        }
        head = b"data: " + encode(self._head)[:-1]
        self._starts = [b'%b,"choices":[{"index":%d,"delta":' % (head, index) for index in range(ask.n)]
        self._texts = [start + b'{"content":' for start in self._starts]
        # Where usage is wanted, it is there in every chunk, and null but in the last one.
        self._last = b',"usage":null}\n\n' if ask.include_usage else b"}\n\n"
        self._text_end = b'},"logprobs":null,"finish_reason":null}]' + self._last

    def start(self) -> bytes:
        return b"".join(self._chunk(index, {"role": "assistant", "content": ""}) for index in range(self._answers))

    def delta(self, index: int, delta: Delta) -> bytes:
        if not delta.tool_calls and delta.logprobs is None:
            return self._texts[index] + encode(delta.text) + self._text_end if delta.text else b""
        written: dict[str, Any] = {"content": delta.text} if delta.text or delta.logprobs else {}
        if delta.tool_calls:
            written["tool_calls"] = [
                {"index": number, **tool_call(call)} for number, call in enumerate(delta.tool_calls, delta.first_tool)
            ]
        return self._chunk(index, written, logprobs=_logprobs(delta.logprobs)) if written else b""

    def finish(self, index: int, finish: Finish) -> bytes:
        return self._chunk(index, {}, finish=finish)

    def end(self, usage: Usage) -> bytes:
        if not self._include_usage:
            return DONE
        return event(encode(self._head | {"choices": [], "usage": usage_of(usage)})) + DONE

    def whole(self, choices: Sequence[Choice], usage: Usage) -> bytes:
        return encode(self._head | {"choices": [_choice(choice) for choice in choices], "usage": usage_of(usage)})

    def _chunk(self, index: int, delta: dict[str, Any], *, logprobs: Any = None, finish: Finish | None = None) -> bytes:
        return b'%b%b,"logprobs":%b,"finish_reason":%b}]%b' % (
            self._starts[index], encode(delta), encode(logprobs), encode(finish), self._last,
        )  # fmt: skip


def _choice(choice: Choice) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": choice.text, "refusal": None}
    if choice.tool_calls:
        message["content"] = choice.text or None
        message["tool_calls"] = [tool_call(call) for call in choice.tool_calls]
    return {
        "index": choice.index,
        "message": message,
        "logprobs": _logprobs(choice.logprobs),
        "finish_reason": choice.finish,
    }


def _logprobs(tokens: Any) -> dict[str, Any] | None:
    return None if tokens is None else {"content": token_logprobs(tokens), "refusal": None}

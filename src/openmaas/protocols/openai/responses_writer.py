"""POST /v1/responses: the answer, whole or as its events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from openmaas.core.generation import ToolCall
from openmaas.protocols.generation import Ask, Choice, Delta, Finish, Usage
from openmaas.protocols.generation.wire import EVENTS, JSON, encode


class ResponsesWriter:
    """One answer, made of items: messages and calls of tools. At most one item is open, a message whose text still grows."""

    def __init__(self, ask: Ask, *, request_id: str, deployment: str, version: str, created: int) -> None:
        self.content_type = EVENTS if ask.stream else JSON
        self._request_id = request_id
        self._head = _head(ask, request_id, deployment, created)  # it has no place for the version
        self._number = 0
        self._items: list[dict[str, Any]] = []
        self._open = False
        self._text: list[str] = []  # of the open message
        self._delta_start = b""
        self._finish: Finish = "stop"

    def start(self) -> bytes:
        response = self._response("in_progress")
        return self._event("response.created", response=response) + self._event("response.in_progress", response=response)

    def delta(self, index: int, delta: Delta) -> bytes:
        written = b""
        if delta.text:
            if not self._open:
                written = self._open_message()
            written += self._more(delta.text)
        for call in delta.tool_calls:
            written += self._close_message("completed") + self._call(call)
        return written

    def finish(self, index: int, finish: Finish) -> bytes:
        self._finish = finish
        status = _status(finish)
        if not self._open and not self._items:
            return self._open_message() + self._close_message(status)
        return self._close_message(status)

    def end(self, usage: Usage) -> bytes:
        status = _status(self._finish)
        return self._event(f"response.{status}", response=self._response(status, usage))

    def whole(self, choices: Sequence[Choice], usage: Usage) -> bytes:
        (choice,) = choices
        status = _status(choice.finish)
        if choice.text or not choice.tool_calls:
            self._items.append(self._message(choice.text, "completed" if choice.tool_calls else status))
        for call in choice.tool_calls:
            self._items.append(self._call_item(call, call.arguments, "completed"))
        return encode(self._response(status, usage))

    def _response(self, status: str, usage: Usage | None = None) -> dict[str, Any]:
        reason = {"reason": "max_output_tokens"} if status == "incomplete" else None
        return self._head | {
            "status": status,
            "incomplete_details": reason,
            "output": self._items,
            "usage": None if usage is None else _usage(usage),
        }

    # events

    def _event(self, kind: str, **fields: Any) -> bytes:
        data = {"type": kind, **fields, "sequence_number": self._number}
        self._number += 1
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), encode(data))

    def _open_message(self) -> bytes:
        self._open = True
        item = self._message(None, "in_progress")
        where = {"item_id": item["id"], "output_index": len(self._items), "content_index": 0}
        self._delta_start = (
            b"event: response.output_text.delta\ndata: "
            + encode({"type": "response.output_text.delta", **where, "logprobs": []})[:-1]
            + b',"delta":'
        )
        return self._event("response.output_item.added", item=item, output_index=len(self._items)) + self._event(
            "response.content_part.added", **where, part=_part("")
        )

    def _more(self, text: str) -> bytes:
        self._text.append(text)
        number = self._number
        self._number += 1
        return b'%b%b,"sequence_number":%d}\n\n' % (self._delta_start, encode(text), number)

    def _close_message(self, status: str) -> bytes:
        """The open message's last events; nothing where none is open."""
        if not self._open:
            return b""
        text = "".join(self._text)
        self._open, self._text = False, []
        item = self._message(text, status)
        where = {"item_id": item["id"], "output_index": len(self._items), "content_index": 0}
        written = self._event("response.output_text.done", **where, text=text, logprobs=[])
        written += self._event("response.content_part.done", **where, part=_part(text))
        return written + self._done(item)

    def _call(self, call: ToolCall) -> bytes:
        opened = self._call_item(call, "", "in_progress")
        where = {"item_id": opened["id"], "output_index": len(self._items)}
        written = self._event("response.output_item.added", item=opened, output_index=len(self._items))
        written += self._event("response.function_call_arguments.delta", **where, delta=call.arguments)
        written += self._event("response.function_call_arguments.done", **where, arguments=call.arguments)
        return written + self._done(self._call_item(call, call.arguments, "completed"))

    def _done(self, item: dict[str, Any]) -> bytes:
        written = self._event("response.output_item.done", item=item, output_index=len(self._items))
        self._items.append(item)
        return written

    # items

    def _message(self, text: str | None, status: str) -> dict[str, Any]:
        return {
            "id": self._id("msg"),
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": [] if text is None else [_part(text)],
        }

    def _call_item(self, call: ToolCall, arguments: str, status: str) -> dict[str, Any]:
        return {
            "id": self._id("fc"),
            "type": "function_call",
            "status": status,
            "call_id": call.id,
            "name": call.name,
            "arguments": arguments,
        }

    def _id(self, kind: str) -> str:
        """Of the next item: the first carries the request's own."""
        number = len(self._items)
        return f"{kind}_{self._request_id}_{number}" if number else f"{kind}_{self._request_id}"


def _head(ask: Ask, request_id: str, deployment: str, created: int) -> dict[str, Any]:
    said = ask.repeated
    return {
        "id": f"resp_{request_id}",
        "object": "response",
        "created_at": created,
        "model": deployment,
        "error": None,
        "instructions": said.get("instructions"),
        "max_output_tokens": said.get("max_output_tokens"),
        "max_tool_calls": said.get("max_tool_calls"),
        "metadata": said.get("metadata", {}),
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "prompt_cache_key": said.get("prompt_cache_key"),
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": said.get("safety_identifier"),
        "service_tier": "default",
        "store": False,
        "temperature": said.get("temperature"),
        "text": {"format": {"type": "text"}} | said.get("text", {}),
        "tool_choice": said.get("tool_choice", "auto"),
        "tools": said.get("tools", []),
        "top_p": said.get("top_p"),
        "truncation": "disabled",
        "user": said.get("user"),
    }


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _status(finish: Finish) -> str:
    return "incomplete" if finish == "length" else "completed"


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt,
        "input_tokens_details": {"cached_tokens": usage.cached or 0, "cache_write_tokens": 0},
        "output_tokens": usage.completion,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.prompt + usage.completion,
    }

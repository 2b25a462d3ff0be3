"""Parameters that cannot be taken, each with the name that the refusal must give."""

from __future__ import annotations

from typing import Any

from tests.acceptance.generators import HELLO

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
}
IMAGE: Any = {"type": "image_url", "image_url": {"url": "http://a.example/b.png"}}
CHAT_REFUSALS: list[tuple[dict[str, Any], str]] = [
    ({"temperature": 2.5}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"top_p": -0.1}, "top_p"),
    ({"top_k": 1.5}, "top_k"),
    ({"min_p": 2}, "min_p"),
    ({"n": 0}, "n"),
    ({"n": 1000}, "n"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": -5}, "max_tokens"),
    ({"max_completion_tokens": 2**40}, "max_completion_tokens"),
    ({"max_tokens": 4, "max_completion_tokens": 5}, "max_completion_tokens"),
    ({"presence_penalty": 3}, "presence_penalty"),
    ({"frequency_penalty": -3}, "frequency_penalty"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"seed": 2**70}, "seed"),
    ({"seed": 1.5}, "seed"),
    ({"stop": ""}, "stop"),
    ({"stop": ["x"] * 17}, "stop"),
    ({"stop": [3]}, "stop[0]"),
    ({"logprobs": 3}, "logprobs"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"temprature": 1}, "temprature"),
    ({"logit_bias": {"50256": -100}}, "logit_bias"),
    ({"functions": []}, "functions"),
    ({"reasoning_effort": "high"}, "reasoning_effort"),
    ({"store": True}, "store"),
    ({"service_tier": "flex"}, "service_tier"),
    ({"modalities": ["audio"]}, "modalities"),
    ({"chat_template": "{{ 7 * 7 }}"}, "chat_template"),
    ({"web_search_options": {}}, "web_search_options"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ({"tools": [WEATHER, WEATHER]}, "tools[1].function.name"),
    ({"tools": [{"type": "function", "function": {"name": "no good"}}]}, "tools[0].function.name"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice"),
    ({"response_format": {"type": "xml"}}, "response_format"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"$ref": "http://a.example/b"}}}},
        "response_format.json_schema.schema",
    ),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "wizard", "content": "a"}]}, "messages[0]"),
    ({"messages": [{"role": "user", "content": [IMAGE]}]}, "messages[0].content[0]"),
    ({"messages": [{"role": "user"}]}, "messages[0]"),
    ({"messages": "hello"}, "messages"),
]  # fmt: skip
OTHER_REFUSALS: list[tuple[str, dict[str, Any], str]] = [
    ("completions", {"prompt": "a", "suffix": "b"}, "suffix"),
    ("completions", {"prompt": "a", "best_of": 3}, "best_of"),
    ("completions", {"prompt": "a", "logprobs": 6}, "logprobs"),
    ("completions", {"prompt": []}, "prompt"),
    ("completions", {"prompt": [[]]}, "prompt[0]"),
    ("completions", {"prompt": [-1]}, "prompt"),
    ("completions", {"prompt": ["a"] * 65}, "prompt"),
    ("completions", {"prompt": ["a"] * 20, "n": 4}, "n"),
    ("completions", {"prompt": {"text": "a"}}, "prompt"),
    ("completions", {"prompt": ["a", [1]]}, "prompt[1]"),
    ("completions", {}, "prompt"),
    ("responses", {"input": "a", "previous_response_id": "resp_1"}, "previous_response_id"),
    ("responses", {"input": "a", "store": True}, "store"),
    ("responses", {"input": "a", "background": True}, "background"),
    ("responses", {"input": "a", "reasoning": {"effort": "low"}}, "reasoning"),
    ("responses", {"input": "a", "truncation": "auto"}, "truncation"),
    ("responses", {"input": "a", "max_tokens": 5}, "max_tokens"),
    ("responses", {"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type"),
    ("tokenize", {"prompt": "a", "messages": HELLO}, "prompt"),
    ("tokenize", {"prompt": "a", "tools": []}, "tools"),
    ("detokenize", {"tokens": [-1]}, "tokens"),
    ("detokenize", {}, "tokens"),
]
_NUMBER = b'{"model": "echo", "messages": [{"role": "user", "content": "a"}], "temperature": %b}'
RUBBISH: list[bytes] = [
    b"",
    b"[]",
    b"{",
    b"null",
    b"\xff\xfe",
    b'{"model": "echo"',
    b'{"model": "echo", "messages": ' + b"[" * 100_000,
    b'{"model": "echo", "messages": [{"role": "user", "content": "\\ud83d"}]}',
    *(_NUMBER % number for number in (b"NaN", b"Infinity", b"1e999", b"-", b"0x1")),
]
"""Bodies that are no requests."""

"""Models that generate, as folders to push; OpenAI's own client on a running server; and what the server counts meanwhile."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import httpx
import openai
from openai.types.completion_usage import CompletionUsage

from tests.acceptance.conftest import Server
from tests.tiny_writer import CHAT_TEMPLATE, WORDS, train_tokenizer

CONTEXT: Final = 4096
HELLO: Final[Any] = [{"role": "user", "content": "naïve 🙂 模型"}]
"""A message whose characters take one to four bytes."""


class Tokens:
    """What the dummies' tokenizer makes of texts, asked of the library itself."""

    def __init__(self) -> None:
        self.tokenizer = train_tokenizer([WORDS] * 4, 600)
        self.end = self.id("<|im_end|>")

    def id(self, token: str) -> int:
        number: int = self.tokenizer.token_to_id(token)
        return number

    def of(self, text: str) -> list[int]:
        found: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return found

    def bytes_of(self, text: str) -> list[int]:
        """The text in tokens of one byte each, so that its characters come in pieces."""
        from openmaas.processing.generation.byte_level import ALPHABET

        letters = {byte: letter for letter, byte in ALPHABET.items()}
        return [self.id(letters[byte]) for byte in text.encode()]


def write_dummy(folder: Path, tokens: Tokens, *, context: int = CONTEXT, **options: Any) -> Path:
    """A folder whose answers are what the dummy generator's options say."""
    folder.mkdir(parents=True, exist_ok=True)
    tokens.tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    (folder / "openmaas.yaml").write_text(
        json.dumps(
            {
                "format": "dummy",
                "generator": {
                    "context": context,
                    "vocabulary": tokens.tokenizer.get_vocab_size(),
                    "end": [tokens.end],
                    "tokenizer": "tokenizer.json",
                    "chat_template": "chat_template.jinja",
                    "tool_format": "hermes",
                },
                "options": options,
            }
        )
    )
    return folder


def client_of(server: Server, **more: Any) -> openai.OpenAI:
    """OpenAI's client as it is, but for its retries: each refusal is seen."""
    http = openai.DefaultHttpxClient(trust_env=False, timeout=60)
    return openai.OpenAI(base_url=f"{server.gateway}/v1", api_key=server.key, http_client=http, **({"max_retries": 0} | more))


def async_client_of(server: Server, **more: Any) -> openai.AsyncOpenAI:
    http = openai.DefaultAsyncHttpxClient(trust_env=False, timeout=60)
    return openai.AsyncOpenAI(
        base_url=f"{server.gateway}/v1", api_key=server.key, http_client=http, **({"max_retries": 0} | more)
    )


def http_of(server: Server) -> httpx.Client:
    return httpx.Client(base_url=server.gateway, headers={"Authorization": f"Bearer {server.key}"}, trust_env=False, timeout=60)


def families(server: Server) -> dict[str, Any]:
    """Everything that /metrics tells, by the families' names."""
    from prometheus_client.parser import text_string_to_metric_families

    with http_of(server) as http:
        text = http.get("/metrics").raise_for_status().text
    return {family.name: family for family in text_string_to_metric_families(text)}


def count(server: Server, name: str, **labels: str) -> float:
    """The sum of all samples of that name which have these labels."""
    samples = [sample for family in families(server).values() for sample in family.samples]
    return float(sum(one.value for one in samples if one.name == name and labels.items() <= one.labels.items()))


def idle(server: Server, model: str) -> bool:
    """Whether no answer of a model is being made or waits, nor holds a place at the gateway."""
    busy = ("openmaas_num_requests_running", "openmaas_num_requests_waiting")
    return not any(count(server, name, model_name=model) for name in busy) and count(server, "openmaas_requests_in_flight") <= 1


def wait_until(true: Callable[[], Any], seconds: float = 60, what: str = "") -> float:
    """Seconds that it took."""
    begun = time.monotonic()
    while not true():
        assert time.monotonic() - begun < seconds, f"not within {seconds} s: {what}"
        time.sleep(0.05)
    return time.monotonic() - begun


def read_chat(stream: Any) -> tuple[str, str | None, CompletionUsage | None]:
    """Text, why it ended and usage of a streamed chat with one answer."""
    text, finish, usage = "", None, None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            finish = choice.finish_reason or finish
    return text, finish, usage


def resident(pid: int) -> int:
    """Bytes of memory that a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096

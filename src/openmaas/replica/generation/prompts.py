"""Conversations and texts → token ids: long ones beside the event loop, absurd ones not at all."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeAlias

from openmaas.core.errors import InvalidInput, Unavailable
from openmaas.core.generation import Generator, Grammar, Message
from openmaas.processing.generation import ChatTemplate, TextModel, grammar_for_tools
from openmaas.protocols.generation import Ask

_GLANCE: Final = 4
"""Times the context: characters of a long text that are looked at first."""
Wanted: TypeAlias = Callable[[], bool]
_QUICK: Final = 2048
"""Characters up to which tokenising takes no longer than an event loop can spare: about 0.5 ms."""


class Prompts:
    """What one version's tokenizer and chat template make of what callers say."""

    def __init__(self, text: TextModel, generator: Generator) -> None:
        self._text = text
        self._context = generator.context
        self._threads = ThreadPoolExecutor(len(os.sched_getaffinity(0)), thread_name_prefix="tokenise")

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def check(self, ask: Ask) -> None:
        """Raise InvalidInput for what the version's files have no words for."""
        if ask.messages is not None:
            self._require_template()
        if wants_tools(ask) and not self._text.tool_format:
            raise InvalidInput(
                "This version's chat template knows no tools.",
                code="parameter_not_supported",
                next_step="Ask without 'tools', or deploy a model that was trained with them.",
                param="tools",
            )

    async def of(self, ask: Ask, wanted: Wanted) -> list[list[int]]:
        """The token ids of each prompt; a conversation is one. wanted: as `encode` has it."""
        if ask.messages is None:
            return [await self.encode(prompt, wanted) if isinstance(prompt, str) else prompt for prompt in ask.prompts]
        tools = ask.tools if wants_tools(ask) else []
        return [await self.conversation(ask.messages, tools, ask.template_variables, wanted)]

    async def conversation(
        self,
        messages: list[Message],
        tools: list[dict[str, Any]],
        variables: dict[str, Any],
        wanted: Wanted,
        *,
        special: bool = False,
    ) -> list[int]:
        """The token ids of a conversation. special: the tokenizer adds its own to those that the template wrote."""
        text = await self._require_template().render(messages, tools, variables, wanted)
        return await self.encode(text, wanted, special=special)

    async def encode(self, text: str, wanted: Wanted, *, special: bool = True) -> list[int]:
        """special: with the tokens that the tokenizer puts around a text; a chat template has written its own. wanted: whether
        the caller is still there when its turn has come, so that nothing is done for those who left; Unavailable is raised."""
        if len(text) <= _QUICK:
            return self._text.codec.encode(text, special=special)
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._encode_long, text, wanted, special)

    def grammar(self, ask: Ask) -> Grammar | None:
        """What the answer must look like."""
        grammar = grammar_for_tools(self._text.tool_format, ask.tools, ask.tool_choice) if wants_tools(ask) else None
        return Grammar(schema=ask.schema) if grammar is None and ask.schema is not None else grammar

    def _require_template(self) -> ChatTemplate:
        if self._text.template is None:
            raise InvalidInput(
                "This version has no chat template, so that a conversation cannot be told to it.",
                code="no_chat_template",
                next_step="Send a prompt to /v1/completions, or push the model with its chat_template.jinja.",
                param="messages",
            )
        return self._text.template

    def _encode_long(self, text: str, wanted: Wanted, special: bool) -> list[int]:
        if not wanted():
            raise Unavailable("The caller has left.", code="stopping")
        least = self._least(text)
        if least >= self._context:
            raise InvalidInput(
                f"The model's context is {self._context} tokens. The prompt has at least {least}.",
                code="context_length_exceeded",
                next_step=f"Shorten the prompt to less than {self._context} tokens.",
            )
        return self._text.codec.encode(text, special=special)

    def _least(self, text: str) -> int:
        """No fewer tokens than that; most of a text that is far too long is never tokenised.

        Its beginning has as many tokens by itself as within the whole, but for a few at its end: half of them is a safe bound
        where the tokenizer loses nothing, which least_tokens says.
        """
        codec = self._text.codec
        least, end = codec.least_tokens(text), _GLANCE * self._context
        while 0 < least < self._context and end < len(text):
            least = max(least, len(codec.encode(text[:end], special=False)) // 2)
            end *= 2
        return least


def wants_tools(ask: Ask) -> bool:
    """Whether the model is told of the tools, and calls of them are looked for in its answer."""
    return bool(ask.tools) and ask.tool_choice != "none"

"""One answer as it grows: token ids become text, calls of tools, and log-probabilities that people can read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from openmaas.core.generation import GenerationRequest, Progress, TokenLogprob, TokenText, ToolCall
from openmaas.processing.generation import StopStrings, TextModel, ToolCallReader
from openmaas.protocols.generation import Ask, Choice, Delta, Finish


class Completion:
    """One of the n answers that a request asks for. It keeps what it gave only where the whole is asked for.

    request: what the engine is asked for. finish: why it ended, empty before. cached: prompt tokens that a cached prefix gave,
    -1 while the engine does not say. last: when the engine's last tokens came. stops: that end it. tools: calls of tools are
    looked for. prefix: what the text begins with (the prompt, where it is echoed).
    """

    __slots__ = (
        "_calls", "_codec", "_held", "_keep", "_logprobs", "_prefix", "_reader", "_stops", "_stream", "_texts",
        "_wants_logprobs", "cached", "finish", "generated", "index", "last", "request",
    )  # fmt: skip

    def __init__(
        self,
        index: int,
        request: GenerationRequest,
        text: TextModel,
        ask: Ask,
        *,
        stops: StopStrings | None = None,
        tools: bool = False,
        prefix: str = "",
    ) -> None:
        self.index = index
        self.request = request
        self.finish: Literal[""] | Finish = ""
        self.generated = 0
        self.cached = -1
        self.last = 0.0
        self._codec = text.codec
        self._stream = text.codec.stream()
        self._stops = stops
        self._reader = ToolCallReader(text.tool_format) if tools else None
        self._prefix = prefix
        self._keep = not ask.stream
        self._wants_logprobs = ask.logprobs >= 0
        self._held: list[TokenText] = []  # of tokens whose text is held back
        self._texts: list[str] = []
        self._logprobs: list[TokenText] = []
        self._calls: list[ToolCall] = []

    def push(self, progress: Progress) -> Delta | None:
        """What the caller reads more of now; None for nothing, as in the middle of a character. Sets `finish` at the end."""
        tokens = progress.tokens
        self.generated += len(tokens)
        if progress.cached >= 0:
            self.cached = progress.cached
        if progress.finish == "stop" and tokens and tokens[-1] in self.request.end:
            tokens = tokens[:-1]  # it says that it is over, and is no text
        text = self._stream.push(tokens) if tokens else ""
        if progress.finish:
            text += self._stream.end()
        stopped = False
        if self._stops is not None:
            text, stopped = self._stops.push(text)
            if progress.finish and not stopped:
                text += self._stops.end()
        ended = stopped or bool(progress.finish)
        calls: Sequence[ToolCall] = ()
        if self._reader is not None:
            text, calls = self._read(self._reader, text, ended)
        if self._wants_logprobs and progress.logprobs:
            self._held += [self._told(token, found) for token, found in zip(tokens, progress.logprobs, strict=False)]
        delta = self._delta(text, calls, ended)
        if ended:
            cut = progress.finish == "length" and not stopped
            self.finish = "length" if cut else "tool_calls" if self._calls else "stop"
        return delta

    @property
    def choice(self) -> Choice:
        """The whole answer, once it is finished."""
        assert self.finish
        logprobs = self._logprobs if self._wants_logprobs else None
        text = "".join(self._texts)
        return Choice(index=self.index, text=text, finish=self.finish, tool_calls=self._calls, logprobs=logprobs)

    def _read(self, reader: ToolCallReader, text: str, ended: bool) -> tuple[str, list[ToolCall]]:
        text, calls = reader.push(text)
        if not ended:
            return text, calls
        rest, more = reader.end()
        return text + rest, [*calls, *more]

    def _delta(self, text: str, calls: Sequence[ToolCall], ended: bool) -> Delta | None:
        if self._prefix:
            text, self._prefix = self._prefix + text, ""
        if not (text or calls or (ended and self._held)):
            return None
        delta = Delta(text=text, tool_calls=calls, first_tool=len(self._calls))
        self._calls += calls
        if self._wants_logprobs:
            delta.logprobs, self._held = self._held, []
        if self._keep:
            self._texts.append(text)
            self._logprobs += delta.logprobs or ()
        return delta

    def _told(self, token: int, found: TokenLogprob) -> TokenText:
        text, data = self._codec.token(token)
        top = tuple([(*self._codec.token(other), logprob) for other, logprob in found.top])
        return TokenText(text=text, data=data, logprob=found.logprob, top=top)
